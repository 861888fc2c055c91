//! Log lines as text, as JSON, or as the bytes that were logged.

use std::io::{self, Write};

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use millpond_logfile::{Hit, Level, TIME_BYTES, Told, escape};
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

/// Prints lines in one way. A record that goes on and the records that continue it, next to each other in the answer,
/// are printed as the one line that they were.
pub(crate) struct HitPrinter {
    style: HitStyle,
    buffer: Vec<u8>,
    joins: bool,
    open: Option<Open>,
}

/// A line of which something was printed, or is held, and that goes on.
struct Open {
    service: String,
    /// Without the mark.
    source: Vec<u8>,
    /// `Json`: what is held of it.
    held: Option<JsonLine>,
}

impl Open {
    fn is_continued_by(&self, hit: &Hit<'_>) -> bool {
        self.service == hit.service && self.source == source_name(hit.source).0
    }
}

/// A source token that ends so: the record goes on in the next one of the same source, without a newline
/// in between.
pub(crate) const CONTINUED: u8 = b'+';

/// A longer message is given out in objects of about this size.
const JSON_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The source, and whether the record goes on.
fn source_name(token: &[u8]) -> (&[u8], bool) {
    match token {
        [name @ .., CONTINUED] => (name, true),
        name => (name, false),
    }
}

impl HitPrinter {
    /// `joins`: the lines come in their order, so that records that belong together can be told.
    pub(crate) fn new(style: HitStyle, joins: bool) -> Self {
        HitPrinter {
            style,
            buffer: Vec::new(),
            joins,
            open: None,
        }
    }

    pub(crate) fn print(&mut self, out: &mut dyn Write, hit: &Hit<'_>) -> io::Result<()> {
        self.buffer.clear();
        let (name, goes_on) = source_name(hit.source);
        let open = self.open.take();
        let continued = match open {
            Some(open) if open.is_continued_by(hit) => Some(open),
            Some(open) => {
                self.end_of(open)?;
                None
            }
            None => None,
        };
        let mut held = None;
        match &self.style {
            HitStyle::Raw => {
                hit.raw_message(&mut self.buffer);
                if !goes_on {
                    self.buffer.push(b'\n');
                }
            }
            HitStyle::Json => {
                let mut line = match continued.and_then(|open| open.held) {
                    Some(line) => line,
                    None => JsonLine::new(hit),
                };
                hit.raw_message(&mut line.message);
                if self.joins && goes_on && line.message.len() < JSON_MESSAGE_BYTES_MAX {
                    held = Some(line);
                } else {
                    line.write(&mut self.buffer, goes_on)?;
                }
            }
            HitStyle::Text {
                coloured,
                with_service,
                zone,
            } => {
                if continued.is_none() {
                    text_columns(
                        &mut self.buffer,
                        hit,
                        *coloured,
                        *with_service,
                        zone.as_ref(),
                    )?;
                }
                self.buffer.extend_from_slice(hit.message);
                if !(goes_on && self.joins) {
                    self.buffer.push(b'\n');
                }
            }
        }
        if goes_on && self.joins && !matches!(self.style, HitStyle::Raw) {
            self.open = Some(Open {
                service: hit.service.to_owned(),
                source: name.to_owned(),
                held,
            });
        }
        out.write_all(&self.buffer)
    }

    /// Prints what is held: more may come, and nobody knows when.
    pub(crate) fn print_held(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.buffer.clear();
        if let Some(line) = self.open.as_mut().and_then(|open| open.held.take()) {
            line.write(&mut self.buffer, true)?;
        }
        out.write_all(&self.buffer)
    }

    /// Nothing comes any more.
    pub(crate) fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.buffer.clear();
        if let Some(open) = self.open.take() {
            self.end_of(open)?;
        }
        out.write_all(&self.buffer)
    }

    /// The line goes on somewhere else, or nowhere.
    fn end_of(&mut self, open: Open) -> io::Result<()> {
        match (&self.style, open.held) {
            (HitStyle::Text { .. }, _) => self.buffer.push(b'\n'),
            (_, Some(line)) => line.write(&mut self.buffer, true)?,
            (_, None) => {}
        }
        Ok(())
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

/// Everything in front of the message.
fn text_columns(
    buffer: &mut Vec<u8>,
    hit: &Hit<'_>,
    coloured: bool,
    with_service: bool,
    zone: Option<&TimeZone>,
) -> io::Result<()> {
    // Bytes as they are, without the formatter: it costs more than all that is done to find a line.
    let mut column = |style: Style, bytes: &[u8]| -> io::Result<()> {
        if coloured {
            write!(buffer, "{style}")?;
        }
        buffer.extend_from_slice(bytes);
        if coloured {
            write!(buffer, "{style:#}")?;
        }
        buffer.push(b' ');
        Ok(())
    };
    match zone.and_then(|zone| local_time(hit.time_ns, zone)) {
        None => column(DIM, &hit.line[..TIME_BYTES])?,
        Some(time) => column(DIM, time.as_bytes())?,
    }
    if with_service {
        column(BOLD, hit.service.as_bytes())?;
    }
    column(level_style(hit.level), hit.level.token().as_bytes())?;
    column(PLAIN, hit.source)
}

/// The time as the clock on the wall shows it; `None` where that is the time of the file.
pub(crate) fn local_time(time_ns: u64, zone: &TimeZone) -> Option<String> {
    let time = Timestamp::from_nanosecond(time_ns.into())
        .ok()?
        .to_zoned(zone.clone());
    let is_utc = time.offset().is_zero();
    (!is_utc).then(|| time.strftime("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string())
}

/// A line as an object: what its first record says, and the message of all of them.
struct JsonLine {
    time: String,
    time_ns: u64,
    level: Level,
    service: String,
    source: Vec<u8>,
    message: Vec<u8>,
}

impl JsonLine {
    /// Without its message.
    fn new(hit: &Hit<'_>) -> Self {
        JsonLine {
            time: String::from_utf8_lossy(&hit.line[..TIME_BYTES]).into_owned(),
            time_ns: hit.time_ns,
            level: hit.level,
            service: hit.service.to_owned(),
            source: source_name(hit.source).0.to_owned(),
            message: Vec::new(),
        }
    }

    fn write(mut self, buffer: &mut Vec<u8>, goes_on: bool) -> io::Result<()> {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
        if goes_on {
            self.source.push(CONTINUED);
        }
        let mut object = Map::new();
        object.insert("time".into(), self.time.into());
        object.insert("time_ns".into(), self.time_ns.into());
        object.insert("level".into(), self.level.name().into());
        object.insert("service".into(), self.service.into());
        object.insert("source".into(), text(&self.source));
        if goes_on {
            object.insert("continued".into(), true.into());
        }
        if std::str::from_utf8(&self.message).is_err() {
            // Not text: the escaped form says exactly which bytes.
            let mut escaped = Vec::new();
            escape(&self.message, &mut escaped);
            object.insert("message_escaped".into(), text(&escaped));
        }
        object.insert("message".into(), text(&self.message));
        if self.source == Told::SOURCE
            && let Some(Told::Repeat {
                source,
                count,
                first_ns,
                last_ns,
            }) = Told::parse(&self.message)
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
}
