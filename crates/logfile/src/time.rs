//! The 30 bytes of time in front of every line: `2026-11-21T01:29:53.123456789Z`.
//!
//! A `u64` of nanoseconds since 1970 reaches into the year 2554: no time that it holds is without a
//! line, and each has exactly one spelling. Calendar arithmetic after Howard Hinnant,
//! "chrono-Compatible Low-Level Date Algorithms".

/// Length of a time in a line.
pub const TIME_BYTES: usize = 30;
pub(crate) const NS_PER_SECOND: u64 = 1_000_000_000;
const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// The two digits of `value`, which is below 100.
#[inline(always)]
pub(crate) fn pair(value: u32) -> [u8; 2] {
    let at = (value as usize % 100) * 2;
    [PAIRS[at], PAIRS[at + 1]]
}

/// Formats a time in nanoseconds since 1970, UTC. No allocation.
///
/// ```
/// let text = millpond_logfile::format_time(1_795_224_593_123_456_789);
/// assert_eq!(&text, b"2026-11-21T01:29:53.123456789Z");
/// ```
pub fn format_time(time_ns: u64) -> [u8; TIME_BYTES] {
    let mut text = [b'0'; TIME_BYTES];
    text[..20].copy_from_slice(&format_second(time_ns / NS_PER_SECOND));
    text[20..].copy_from_slice(&format_nanoseconds((time_ns % NS_PER_SECOND) as u32));
    text
}

/// `2026-11-21T01:29:53.`
pub(crate) fn format_second(seconds: u64) -> [u8; 20] {
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let of_day = (seconds % 86_400) as u32;
    let mut text = *b"0000-00-00T00:00:00.";
    text[0..2].copy_from_slice(&pair(year / 100));
    text[2..4].copy_from_slice(&pair(year % 100));
    text[5..7].copy_from_slice(&pair(month));
    text[8..10].copy_from_slice(&pair(day));
    text[11..13].copy_from_slice(&pair(of_day / 3600));
    text[14..16].copy_from_slice(&pair(of_day / 60 % 60));
    text[17..19].copy_from_slice(&pair(of_day % 60));
    text
}

/// `123456789Z`
#[inline(always)]
pub(crate) fn format_nanoseconds(nanoseconds: u32) -> [u8; 10] {
    let mut text = *b"000000000Z";
    let (high, low) = (nanoseconds / 10_000, nanoseconds % 10_000);
    text[0] = b'0' + (high / 10_000) as u8;
    text[1..3].copy_from_slice(&pair(high / 100 % 100));
    text[3..5].copy_from_slice(&pair(high % 100));
    text[5..7].copy_from_slice(&pair(low / 100));
    text[7..9].copy_from_slice(&pair(low % 100));
    text
}

/// Reads a time as [`format_time`] writes it; `None` for anything else.
///
/// ```
/// use millpond_logfile::{format_time, parse_time};
/// assert_eq!(parse_time(&format_time(42)), Some(42));
/// assert_eq!(parse_time(b"yesterday"), None);
/// ```
pub fn parse_time(text: &[u8]) -> Option<u64> {
    let text: &[u8; TIME_BYTES] = text.try_into().ok()?;
    let (date, date_is_odd) = digits_of::<0>(text, DATE);
    let (hours, hours_are_odd) = digits_of::<8>(text, HOURS);
    let (seconds, seconds_are_odd) = digits_of::<16>(text, SECONDS);
    let (end, end_is_odd) = digits_of::<22>(text, END);
    let (year, month, day) = (
        pair_at(date, 0) * 100 + pair_at(date, 2),
        pair_at(date, 5),
        pair_at(hours, 0),
    );
    let (hour, minute, second) = (pair_at(hours, 3), pair_at(hours, 6), pair_at(seconds, 1));
    let nanoseconds = (pair_at(seconds, 4) * 100 + pair_at(seconds, 6)) * 100_000
        + (pair_at(end, 2) * 100 + pair_at(end, 4)) * 10
        + (end >> 48 & 0xff);
    let in_range = (date_is_odd | hours_are_odd | seconds_are_odd | end_is_odd) == 0
        && year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(NS_PER_SECOND)?.checked_add(nanoseconds)
}

/// What eight bytes of a time look like: a digit where `0` stands, and anything else as it is.
#[derive(Clone, Copy)]
struct Form {
    bytes: u64,
    /// What brings a value that is none to its high bit.
    to_high_bit: u64,
}

impl Form {
    const fn new(form: [u8; 8]) -> Self {
        let mut to_high_bit = [0x80 - 1; 8];
        let mut at = 0;
        while at < form.len() {
            if form[at] == b'0' {
                to_high_bit[at] = 0x80 - 10;
            }
            at += 1;
        }
        Form {
            bytes: u64::from_le_bytes(form),
            to_high_bit: u64::from_le_bytes(to_high_bit),
        }
    }
}

const DATE: Form = Form::new(*b"0000-00-");
const HOURS: Form = Form::new(*b"00T00:00");
const SECONDS: Form = Form::new(*b":00.0000");
const END: Form = Form::new(*b"0000000Z");

/// Eight bytes of a time from `AT` on, as the values of its digits; and not 0 where they do not look as they should. All
/// eight at once: half of what it takes to read a line is its time.
#[inline(always)]
fn digits_of<const AT: usize>(text: &[u8; TIME_BYTES], form: Form) -> (u64, u64) {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&text[AT..AT + 8]);
    let values = u64::from_le_bytes(bytes) ^ form.bytes;
    // What carries into the next byte has its own high bit set.
    let beyond = values.wrapping_add(form.to_high_bit);
    (values, (values | beyond) & HIGH_BITS)
}

/// The number that two digits make, the first of them at `at`.
#[inline(always)]
fn pair_at(values: u64, at: u32) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8);
    pairs >> (8 * at) & 0xff
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn civil_from_days(days: u64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_comes_back() {
        for day in 0..213_000 {
            let time_ns = day * 86_400 * NS_PER_SECOND + 86_399_999_999_999;
            assert_eq!(
                parse_time(&format_time(time_ns)),
                Some(time_ns),
                "day {day}"
            );
        }
        assert_eq!(parse_time(&format_time(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let good = format_time(1_795_224_593_123_456_789);
        for at in 0..TIME_BYTES {
            let mut bad = good;
            bad[at] = b'x';
            assert_eq!(parse_time(&bad), None, "byte {at}");
        }
        assert_eq!(parse_time(&good[..29]), None);
        for bad in [
            b"2026-02-29T00:00:00.000000000Z", // no leap year
            b"2100-02-29T00:00:00.000000000Z",
            b"2026-04-31T00:00:00.000000000Z",
            b"2026-00-01T00:00:00.000000000Z",
            b"2026-01-00T00:00:00.000000000Z",
            b"2026-01-01T24:00:00.000000000Z",
            b"2026-01-01T00:60:00.000000000Z",
            b"2026-01-01T00:00:60.000000000Z", // a leap second is not in our count
            b"1969-12-31T23:59:59.999999999Z",
            b"2554-07-21T23:34:33.709551616Z", // one more than a u64 holds
            b"9999-12-31T23:59:59.999999999Z",
        ] {
            assert_eq!(parse_time(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_last_time_is_in_2554() {
        assert_eq!(&format_time(u64::MAX), b"2554-07-21T23:34:33.709551615Z");
    }
}
