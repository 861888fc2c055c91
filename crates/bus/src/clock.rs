//! Real time in nanoseconds, on one line that every process of a bus shares.
//!
//! Where the kernel itself trusts the processor's time stamp counter (clocksource `tsc`), a stamp is one
//! ordered read of the counter and one multiplication with the numbers of the *calibration page*;
//! else it is `clock_gettime`. The creator of the bus calibrates the page, the consumer corrects it about
//! once a second.
//!
//! # The line never steps back
//! The page is a seqlock. Its writer makes the sequence odd, reads the counter, starts the new line at the
//! value the old line has *at that count*, and makes the sequence even. A reader whose sequence did not
//! change read the counter before that, so its stamp is not above the start of the new line. The real
//! clock's steps forward (above 10 ms) are followed at once; what it steps back is made up by running up
//! to 5 % slower. A reader does not wait for ever for a writer that sleeps in the middle: it goes on with the
//! line before, and may then be ahead of others by the slew times the sleep. Within a lane, and within one
//! [`Clock`], time never goes back all the same.

use std::cell::Cell;
use std::fmt;

use crate::region::Pinned;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A difference above this is a step of the real clock, not drift.
const STEP_NS: i64 = 10_000_000;
/// The fastest slew, as a divisor of the rate: 5 %.
const SLEW_DIVISOR: u64 = 20;
/// How often a reader tries to find the page at rest before it goes on with the line it knows.
const RETRIES_MAX: u32 = 128;
/// The last moment there is, in 2116, so that days can be added to any reading: any member of the bus may have written to
/// the calibration page.
const TIME_NS_MAX: u64 = 1 << 62;
/// A calibration over less than this says little.
const INTERVAL_MIN_NS: u64 = 300_000_000;

/// Where stamps come from.
///
/// ```
/// use millpond_bus::ClockSource;
/// assert_eq!(ClockSource::Tsc.to_string(), "tsc");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The processor's counter, through the calibration page.
    Tsc,
    /// `clock_gettime(CLOCK_REALTIME)`.
    Realtime,
}

impl fmt::Display for ClockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClockSource::Tsc => "tsc",
            ClockSource::Realtime => "clock_gettime",
        })
    }
}

/// How to turn a count into real time. Written by the consumer (first by the creator), read by all.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct CalibrationPage {
    /// Odd while the page is being written.
    sequence: AtomicU64,
    /// 1: the counter is used. Set once, at creation.
    uses_tsc: AtomicU32,
    reserved: AtomicU32,
    tsc_base: AtomicU64,
    ns_base: AtomicU64,
    /// Nanoseconds per count, times 2^32, with the slew in it.
    rate_in_force: AtomicU64,
    /// The same without the slew.
    rate: AtomicU64,
}

/// The numbers of a page, copied out.
#[derive(Clone, Copy, Default)]
struct Line {
    tsc_base: u64,
    ns_base: u64,
    rate_in_force: u64,
    rate: u64,
}

impl Line {
    #[inline(always)]
    fn at(&self, tsc: u64) -> u64 {
        let elapsed = u128::from(tsc.wrapping_sub(self.tsc_base));
        self.ns_base
            .wrapping_add(((elapsed * u128::from(self.rate_in_force)) >> 32) as u64)
            .min(TIME_NS_MAX)
    }
}

impl CalibrationPage {
    fn load(&self) -> Line {
        // ORDERING: Relaxed throughout; the sequence around it decides whether the copy counts.
        Line {
            tsc_base: self.tsc_base.load(Ordering::Relaxed),
            ns_base: self.ns_base.load(Ordering::Relaxed),
            rate_in_force: self.rate_in_force.load(Ordering::Relaxed),
            rate: self.rate.load(Ordering::Relaxed),
        }
    }

    /// Replaces the line by what `next` makes of the present one and the present count.
    fn replace(&self, next: impl FnOnce(Line, u64) -> Line) {
        // ORDERING: Relaxed load; there is one writer. A writer that died left it odd: start from there.
        let odd = self.sequence.load(Ordering::Relaxed) | 1;
        // ORDERING: Relaxed store, then a full fence (seqlock): readers see odd before the counter is read.
        self.sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let line = next(self.load(), read_counter());
        // ORDERING: Relaxed; published by the Release below.
        self.tsc_base.store(line.tsc_base, Ordering::Relaxed);
        self.ns_base.store(line.ns_base, Ordering::Relaxed);
        self.rate_in_force
            .store(line.rate_in_force, Ordering::Relaxed);
        self.rate.store(line.rate, Ordering::Relaxed);
        // ORDERING: Release (seqlock): the numbers before the even sequence.
        self.sequence.store(odd.wrapping_add(1), Ordering::Release);
    }

    fn uses_tsc(&self) -> bool {
        // ORDERING: Relaxed; written before the segment was ready, never after.
        self.uses_tsc.load(Ordering::Relaxed) == 1
    }
}

/// Reads the bus's time. Made by [`crate::Bus::clock`]; cheap to clone.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// let bus = Bus::attach(&format!("doc-clock-{}", std::process::id()), &BusOptions::default())?;
/// let clock = bus.clock();
/// let (earlier, later) = (clock.now_ns(), clock.now_ns());
/// assert!(earlier <= later);
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Clone)]
pub struct Clock {
    page: Pinned<CalibrationPage>,
    uses_tsc: bool,
    /// The last line found at rest, and its sequence: saves the copy, and bridges a writer that died.
    known: Cell<(u64, Line)>,
    /// The last reading: one clock never steps back, whatever becomes of the page.
    last_ns: Cell<u64>,
    /// Without the counter, while the real clock has stepped back: the reading then, and the monotonic clock's.
    ahead: Cell<Option<(u64, u64)>>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("source", &self.source())
            .finish_non_exhaustive()
    }
}

impl Clock {
    pub(crate) fn new(page: Pinned<CalibrationPage>) -> Self {
        let uses_tsc = page.uses_tsc();
        // Odd, so that the first use reads the page.
        let known = Cell::new((u64::MAX, Line::default()));
        Clock {
            page,
            uses_tsc,
            known,
            last_ns: Cell::new(0),
            ahead: Cell::new(None),
        }
    }

    /// Where its stamps come from.
    pub fn source(&self) -> ClockSource {
        if self.uses_tsc {
            ClockSource::Tsc
        } else {
            ClockSource::Realtime
        }
    }

    /// Real time in nanoseconds since 1970, UTC. No system call.
    ///
    /// The counter is read after every load that comes before in program order (`rdtscp`), so that a stamp
    /// is never older than an event that its process has seen.
    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        let now_ns = if self.uses_tsc {
            self.tsc_ns(read_counter())
        } else {
            self.without_step_back(realtime_ns(), monotonic_ns)
        };
        self.last_ns.set(self.last_ns.get().max(now_ns));
        self.last_ns.get()
    }

    /// The stamp of a record, which its lane keeps from going back. As [`Clock::now_ns`], but the counter is read without waiting for earlier
    /// loads (half the cost). That is enough, because whoever reads events through this crate passes a
    /// load fence before it gets to publish anything: see [`load_fence`] in `drain`.
    #[inline(always)]
    pub(crate) fn stamp_ns(&self) -> u64 {
        if self.uses_tsc {
            self.tsc_ns(read_counter_unordered())
        } else {
            realtime_ns()
        }
    }

    /// As [`Clock::now_ns`], and no load that follows in program order happens before it: the `T` of a pass.
    pub(crate) fn cut_ns(&self) -> u64 {
        let now_ns = self.now_ns();
        load_fence();
        now_ns
    }

    /// The real clock, and where it has stepped back, what goes on from there 5 % slower until it has caught up: what is
    /// due must not wait until then.
    fn without_step_back(&self, real_ns: u64, monotonic_ns: impl Fn() -> u64) -> u64 {
        let last_ns = self.last_ns.get();
        if real_ns >= last_ns {
            self.ahead.set(None);
            return real_ns;
        }
        let now_ns = monotonic_ns();
        let (from_ns, since_ns) = self.ahead.get().unwrap_or((last_ns, now_ns));
        self.ahead.set(Some((from_ns, since_ns)));
        let elapsed_ns = now_ns.saturating_sub(since_ns);
        from_ns.saturating_add(elapsed_ns - elapsed_ns / SLEW_DIVISOR)
    }

    #[inline(always)]
    fn tsc_ns(&self, tsc: u64) -> u64 {
        let (sequence, line) = self.known.get();
        // ORDERING: Relaxed; the line in hand is a copy taken at rest, only whether it is still in force
        // is asked.
        if self.page.sequence.load(Ordering::Relaxed) == sequence {
            return line.at(tsc);
        }
        self.tsc_ns_of_new_line()
    }

    /// The page has changed (about once a second), or is being changed.
    #[cold]
    fn tsc_ns_of_new_line(&self) -> u64 {
        for retry in 0..RETRIES_MAX {
            // ORDERING: Acquire (seqlock).
            let before = self.page.sequence.load(Ordering::Acquire);
            let line = self.page.load();
            let tsc = read_counter();
            // ORDERING: Acquire fence (seqlock): the copies come before the second look.
            fence(Ordering::Acquire);
            // ORDERING: Relaxed; ordered by the fence.
            if before & 1 == 0 && self.page.sequence.load(Ordering::Relaxed) == before {
                self.known.set((before, line));
                return line.at(tsc);
            }
            if retry < RETRIES_MAX / 2 {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
        }
        // The writer died or sleeps in the middle: the line before is as good as any.
        let (sequence, line) = self.known.get();
        if sequence & 1 == 0 {
            line.at(read_counter())
        } else {
            realtime_ns()
        }
    }
}

/// Fills in a fresh page. Takes about 2 ms where the counter is used.
pub(crate) fn initialise(page: &CalibrationPage) {
    if !counter_is_trusted() {
        return;
    }
    let first = Sample::take();
    while realtime_ns().wrapping_sub(first.ns) < 2_000_000 {
        std::hint::spin_loop();
    }
    let second = Sample::take();
    let counts = second.tsc.wrapping_sub(first.tsc).max(1);
    let elapsed_ns = second.ns.saturating_sub(first.ns);
    let rate = ((u128::from(elapsed_ns) << 32) / u128::from(counts)) as u64;
    page.replace(|_, _| Line {
        tsc_base: second.tsc,
        ns_base: second.ns,
        rate_in_force: rate,
        rate,
    });
    // ORDERING: Relaxed; published by `ready` of the control segment.
    page.uses_tsc.store(1, Ordering::Relaxed);
}

/// Brings the line back to the real clock. Consumer only; calls within 0.3 s of the last change do nothing.
pub(crate) fn recalibrate(page: &CalibrationPage) {
    if !page.uses_tsc() {
        return;
    }
    let sample = Sample::take();
    let line = page.load();
    let ours_ns = line.at(sample.tsc);
    let interval_ns = ours_ns.saturating_sub(line.ns_base);
    let behind_ns = sample.ns.wrapping_sub(ours_ns) as i64;
    if interval_ns < INTERVAL_MIN_NS && behind_ns.abs() < STEP_NS {
        return;
    }
    page.replace(|line, tsc| corrected(line, tsc, behind_ns, interval_ns.max(INTERVAL_MIN_NS)));
}

/// The next line: starts where the old one is, corrects the rate by the drift of the last interval, and
/// makes up the difference within about one interval.
fn corrected(line: Line, tsc: u64, behind_ns: i64, interval_ns: u64) -> Line {
    let ns_base = line.at(tsc).wrapping_add(1);
    if behind_ns > STEP_NS {
        let ns_base = ns_base.wrapping_add(behind_ns as u64);
        return Line {
            tsc_base: tsc,
            ns_base,
            rate_in_force: line.rate,
            rate: line.rate,
        };
    }
    let share = |rate: u64| -> i64 {
        let slew = i128::from(rate) * i128::from(behind_ns) / i128::from(interval_ns);
        let limit = i128::from(rate / SLEW_DIVISOR);
        slew.clamp(-limit, limit) as i64
    };
    let slew = share(line.rate);
    let is_drift = behind_ns > -STEP_NS;
    let rate = if is_drift {
        line.rate.saturating_add_signed(slew)
    } else {
        line.rate
    };
    Line {
        tsc_base: tsc,
        ns_base,
        rate_in_force: rate.saturating_add_signed(slew),
        rate,
    }
}

/// The two clocks read as close together as can be had.
struct Sample {
    tsc: u64,
    ns: u64,
}

impl Sample {
    fn take() -> Self {
        let mut best = (u64::MAX, Sample { tsc: 0, ns: 0 });
        for _ in 0..5 {
            let before = read_counter();
            let ns = realtime_ns();
            let width = read_counter().wrapping_sub(before);
            if width < best.0 {
                best = (
                    width,
                    Sample {
                        tsc: before.wrapping_add(width / 2),
                        ns,
                    },
                );
            }
        }
        best.1
    }
}

/// The kernel's real-time clock, in nanoseconds since 1970.
pub(crate) fn realtime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// Time that nobody sets.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// Whether the kernel keeps its own time with the counter, which it only does where it is invariant and
/// the same on all cores.
fn counter_is_trusted() -> bool {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_arch = "x86_64")
        && std::fs::read_to_string(path).is_ok_and(|source| source.trim() == "tsc")
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter() -> u64 {
    let mut core = 0;
    // SAFETY: reads a register and writes `core`; present on every x86-64 whose counter Linux trusts.
    unsafe { std::arch::x86_64::__rdtscp(&mut core) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn read_counter() -> u64 {
    0
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter_unordered() -> u64 {
    // SAFETY: reads a register; present on every x86-64 whose counter Linux trusts.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn read_counter_unordered() -> u64 {
    0
}

/// No instruction after it starts before every load before it has finished: a stamp taken later is later.
#[cfg(target_arch = "x86_64")]
pub(crate) fn load_fence() {
    // SAFETY: an instruction without operands; SSE2 is part of x86-64.
    unsafe { std::arch::x86_64::_mm_lfence() };
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn load_fence() {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    fn page() -> Pinned<CalibrationPage> {
        let region = Region::heap(size_of::<CalibrationPage>()).expect("heap");
        let page: Pinned<CalibrationPage> = region.pin(0).expect("fits");
        initialise(&page);
        page
    }

    #[test]
    fn whatever_the_page_says_there_is_room_behind_a_reading() {
        let region = Region::heap(size_of::<CalibrationPage>()).expect("heap");
        let page: Pinned<CalibrationPage> = region.pin(0).expect("fits");
        page.uses_tsc.store(1, Ordering::Relaxed);
        for (base, rate) in [(u64::MAX, 0), (u64::MAX - 1000, 1), (7, u64::MAX), (0, 0)] {
            page.ns_base.store(base, Ordering::Relaxed);
            page.rate_in_force.store(rate, Ordering::Relaxed);
            page.sequence.fetch_add(2, Ordering::Relaxed);
            let clock = Clock::new(page.clone());
            assert!(clock.now_ns() <= TIME_NS_MAX, "{base} {rate}");
            assert!(clock.stamp_ns() <= TIME_NS_MAX, "{base} {rate}");
        }
    }

    #[test]
    fn without_the_counter_an_hour_back_stops_nothing() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let region = Region::heap(size_of::<CalibrationPage>()).expect("heap");
        let clock = Clock::new(region.pin(0).expect("fits"));
        assert_eq!(clock.source(), ClockSource::Realtime);
        let read = |real_ns: u64, monotonic_ns: u64| {
            let now_ns = clock.without_step_back(real_ns, || monotonic_ns);
            clock.last_ns.set(clock.last_ns.get().max(now_ns));
            clock.last_ns.get()
        };
        let start_ns = 10 * HOUR_NS;
        assert_eq!(read(start_ns, 1000), start_ns);
        // Back by an hour: it goes on, never back, and within 5 % of the true pace.
        assert_eq!(read(start_ns - HOUR_NS, 2000), start_ns);
        let later_ns = read(start_ns - HOUR_NS + 1_000_000, 1_002_000);
        assert_eq!(later_ns, start_ns + 950_000);
        // Back once more, and forward again behind where we are.
        assert_eq!(
            read(start_ns - 2 * HOUR_NS, 2_002_000),
            start_ns + 1_900_000
        );
        assert_eq!(read(start_ns - 5, 3_002_000), start_ns + 2_850_000);
        // It has caught up; and a step forward is followed at once.
        assert_eq!(read(start_ns + HOUR_NS, 4_002_000), start_ns + HOUR_NS);
        assert_eq!(read(start_ns + HOUR_NS - 1, 5_002_000), start_ns + HOUR_NS);
    }

    #[test]
    fn the_line_follows_an_hour_forward_at_once_and_an_hour_back_without_a_step() {
        const HOUR_NS: i64 = 3_600_000_000_000;
        // A counter of 1 GHz.
        let line = Line {
            tsc_base: 0,
            ns_base: 20 * HOUR_NS as u64,
            rate_in_force: 1 << 32,
            rate: 1 << 32,
        };
        let forward = corrected(line, 1_000, HOUR_NS, INTERVAL_MIN_NS);
        assert_eq!(forward.at(1_000), line.at(1_000) + 1 + HOUR_NS as u64);
        assert_eq!(forward.rate_in_force, line.rate);
        let mut back = corrected(line, 1_000, -HOUR_NS, INTERVAL_MIN_NS);
        let second = 1_000_000_000;
        for round in 1..100u64 {
            let tsc = 1_000 + round * second;
            let passed_ns = back.at(tsc) - back.at(tsc - second);
            // Deadlines are met 5 % late at most.
            assert!(
                (949_000_000..=951_000_000).contains(&passed_ns),
                "{passed_ns}"
            );
            assert!(back.at(tsc) > line.at(1_000));
            back = corrected(back, tsc, -HOUR_NS + (round * second / 20) as i64, second);
            assert_eq!(
                back.rate, line.rate,
                "a step says nothing about the counter"
            );
        }
    }

    #[test]
    fn time_never_steps_back_while_the_page_is_rewritten() {
        let page = page();
        let clock = Clock::new(page.clone());
        let readings = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let readings = &readings;
            let reader = scope.spawn(move || {
                let mut last = 0;
                for reading in 0..2_000_000 {
                    let now = clock.now_ns();
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                    // ORDERING: Relaxed; only paces the writer.
                    readings.store(reading, Ordering::Relaxed);
                }
            });
            let mut behind_ns = 3_000_000;
            let mut next = 0;
            while !reader.is_finished() {
                // ORDERING: Relaxed; as above.
                if readings.load(Ordering::Relaxed) >= next {
                    page.replace(|line, tsc| corrected(line, tsc, behind_ns, INTERVAL_MIN_NS));
                    behind_ns = -behind_ns;
                    next += 100;
                }
            }
        });
    }

    #[test]
    fn a_step_forward_is_jumped_and_a_step_back_is_slewed() {
        let line = Line {
            tsc_base: 0,
            ns_base: 1_000,
            rate_in_force: 1 << 32,
            rate: 1 << 32,
        };
        let jumped = corrected(line, 100, 3_600_000_000_000, 1_000_000_000);
        assert_eq!(jumped.at(100), 1_000 + 100 + 1 + 3_600_000_000_000);
        let slewed = corrected(line, 100, -3_600_000_000_000, 1_000_000_000);
        assert_eq!(slewed.at(100), 1_000 + 100 + 1);
        let second = slewed.at(1_000_000_100) - slewed.at(100);
        assert!((949_999_990..=950_000_010).contains(&second), "{second}");
    }

    #[test]
    fn drift_is_learned() {
        // The counter runs 100 ppm faster than the first rate says.
        let mut line = Line {
            tsc_base: 0,
            ns_base: 0,
            rate_in_force: 1 << 32,
            rate: 1 << 32,
        };
        let real_ns = |tsc: u64| tsc + tsc / 10_000;
        for second in 1..20u64 {
            let tsc = second * 1_000_000_000;
            let behind_ns = real_ns(tsc) as i64 - line.at(tsc) as i64;
            line = corrected(line, tsc, behind_ns, 1_000_000_000);
        }
        let tsc = 20_000_000_000;
        let behind_ns = real_ns(tsc) as i64 - line.at(tsc) as i64;
        assert!(behind_ns.abs() < 1_000, "{behind_ns} ns off after 20 s");
    }

    #[test]
    fn a_page_of_garbage_gives_wrong_times_and_nothing_worse() {
        let page = page();
        let clock = Clock::new(page.clone());
        // ORDERING: one thread.
        for sequence in [0, 1, u64::MAX] {
            page.sequence.store(sequence, Ordering::Relaxed);
            page.rate_in_force.store(u64::MAX, Ordering::Relaxed);
            page.tsc_base.store(u64::MAX / 2, Ordering::Relaxed);
            clock.now_ns();
            recalibrate(&page);
        }
    }
}
