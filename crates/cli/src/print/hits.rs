//! Log lines as text, as JSON, or as the bytes that were logged.

use std::io::{self, Write};

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use millpond_logfile::{Hit, Level, TIME_BYTES, Told};
use serde_json::{Map, Value, json};

use crate::print::{BOLD, DIM, PLAIN, RED, YELLOW};
use crate::units::utc;

/// How lines are shown.
pub(crate) enum HitStyle {
    /// As in the file, with the service in front where there may be several.
    Text {
        coloured: bool,
        with_service: bool,
        zone: Option<TimeZone>,
    },
    Json,
    Raw,
}

/// Prints lines in one way.
pub(crate) struct HitPrinter {
    style: HitStyle,
    buffer: Vec<u8>,
}

/// A source token that ends so: the record goes on in the next one of the same source, without a newline
/// in between.
pub(crate) const CONTINUED: u8 = b'+';

impl HitPrinter {
    pub(crate) fn new(style: HitStyle) -> Self {
        HitPrinter {
            style,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn print(&mut self, out: &mut dyn Write, hit: &Hit<'_>) -> io::Result<()> {
        self.buffer.clear();
        match &self.style {
            HitStyle::Raw => {
                hit.raw_message(&mut self.buffer);
                if hit.source.last() != Some(&CONTINUED) {
                    self.buffer.push(b'\n');
                }
            }
            HitStyle::Json => json_line(&mut self.buffer, hit)?,
            HitStyle::Text {
                coloured,
                with_service,
                zone,
            } => {
                text_line(
                    &mut self.buffer,
                    hit,
                    *coloured,
                    *with_service,
                    zone.as_ref(),
                )?;
            }
        }
        out.write_all(&self.buffer)
    }
}

pub(crate) fn level_style(level: Level) -> Style {
    match level {
        Level::Fatal | Level::Error => RED,
        Level::Warn => YELLOW,
        Level::Info => PLAIN,
        Level::Debug | Level::Trace => DIM,
    }
}

fn text_line(
    buffer: &mut Vec<u8>,
    hit: &Hit<'_>,
    coloured: bool,
    with_service: bool,
    zone: Option<&TimeZone>,
) -> io::Result<()> {
    let styled = |style: Style| if coloured { style } else { PLAIN };
    let (dim, bold, level) = (styled(DIM), styled(BOLD), styled(level_style(hit.level)));
    match zone.and_then(|zone| local_time(hit.time_ns, zone)) {
        None => write!(
            buffer,
            "{dim}{}{dim:#} ",
            String::from_utf8_lossy(&hit.line[..TIME_BYTES])
        )?,
        Some(time) => write!(buffer, "{dim}{time}{dim:#} ")?,
    }
    if with_service {
        write!(buffer, "{bold}{}{bold:#} ", hit.service)?;
    }
    write!(buffer, "{level}{}{level:#} ", hit.level.token())?;
    buffer.extend_from_slice(hit.source);
    buffer.push(b' ');
    buffer.extend_from_slice(hit.message);
    buffer.push(b'\n');
    Ok(())
}

/// The time as the clock on the wall shows it; `None` where that is the time of the file.
pub(crate) fn local_time(time_ns: u64, zone: &TimeZone) -> Option<String> {
    let time = Timestamp::from_nanosecond(time_ns.into())
        .ok()?
        .to_zoned(zone.clone());
    let is_utc = time.offset().is_zero();
    (!is_utc).then(|| time.strftime("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string())
}

fn json_line(buffer: &mut Vec<u8>, hit: &Hit<'_>) -> io::Result<()> {
    let mut message = Vec::new();
    hit.raw_message(&mut message);
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
    let mut object = Map::new();
    object.insert("time".into(), text(&hit.line[..TIME_BYTES]));
    object.insert("time_ns".into(), hit.time_ns.into());
    object.insert("level".into(), hit.level.name().into());
    object.insert("service".into(), hit.service.into());
    object.insert("source".into(), text(hit.source));
    if std::str::from_utf8(&message).is_err() {
        // Not text: the escaped form says exactly which bytes.
        object.insert("message_escaped".into(), text(hit.message));
    }
    object.insert("message".into(), text(&message));
    if hit.source == Told::SOURCE
        && let Some(Told::Repeat {
            source,
            count,
            first_ns,
            last_ns,
        }) = Told::parse(&message)
    {
        let repeat = json!({
            "source": text(source),
            "count": count,
            "first": utc(first_ns),
            "last": utc(last_ns),
        });
        object.insert("repeat".into(), repeat);
    }
    serde_json::to_writer(&mut *buffer, &object)?;
    buffer.push(b'\n');
    Ok(())
}
