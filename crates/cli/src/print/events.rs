//! Events and batches as text, or as JSON Lines.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use jiff::tz::TimeZone;
use millpond::replay::LogEvent;
use millpond_bus::{Batch, Bus, Event, Schema};
use millpond_logfile::{Level, escape};
use serde::de::IgnoredAny;

use crate::conditions::Schemas;
use crate::print::hits::{level_style, local_time};
use crate::print::{BOLD, DIM, PLAIN};
use crate::units::{format_duration, utc};

/// How events are shown.
pub(crate) enum EventStyle {
    Text {
        coloured: bool,
        zone: Option<TimeZone>,
    },
    Json,
}

/// Prints events in one way.
pub(crate) struct EventPrinter {
    style: EventStyle,
    schemas: Schemas,
    buffer: Vec<u8>,
}

impl EventPrinter {
    pub(crate) fn new(style: EventStyle, bus: &Bus) -> Self {
        EventPrinter {
            style,
            schemas: Schemas::new(bus),
            buffer: Vec::new(),
        }
    }

    /// One event on one line; `position` is a token to go on from, for JSON.
    pub(crate) fn event(
        &mut self,
        out: &mut dyn Write,
        event: &Event<'_>,
        position: Option<&str>,
    ) -> io::Result<()> {
        self.buffer.clear();
        let schema = self.schemas.of(event);
        match &self.style {
            EventStyle::Json => {
                self.buffer.extend_from_slice(b"{\"version\":1,\"kind\":");
                self.buffer.extend_from_slice(match event.is_aggregate {
                    true => b"\"aggregate\",",
                    false => b"\"event\",",
                });
                event_keys(&mut self.buffer, event, schema.as_deref())?;
                if let Some(position) = position {
                    self.buffer.extend_from_slice(b",\"position\":");
                    string(&mut self.buffer, position)?;
                }
                self.buffer.extend_from_slice(b"}\n");
            }
            EventStyle::Text { coloured, zone } => {
                let line = Line {
                    coloured: *coloured,
                    zone: zone.as_ref(),
                };
                line.event(&mut self.buffer, event, schema.as_deref())?;
            }
        }
        out.write_all(&self.buffer)
    }

    /// One event out of the log on one line; `cursor` is what to go on from, for JSON, where it is the `position`
    /// too if `is_position`.
    pub(crate) fn log_event(
        &mut self,
        out: &mut dyn Write,
        event: &LogEvent,
        cursor: &dyn Fn() -> String,
        is_position: bool,
    ) -> io::Result<()> {
        self.buffer.clear();
        let buffer = &mut self.buffer;
        match &self.style {
            EventStyle::Json => {
                buffer.extend_from_slice(b"{\"version\":1,\"kind\":\"event\",");
                head_keys(buffer, &event.name, event.time_ns, event.level)?;
                buffer.extend_from_slice(b",\"service\":");
                string(buffer, &event.service)?;
                payload_keys(buffer, &event.payload)?;
                let cursor = cursor();
                buffer.extend_from_slice(b",\"cursor\":");
                string(buffer, &cursor)?;
                if is_position {
                    buffer.extend_from_slice(b",\"position\":");
                    string(buffer, &cursor)?;
                }
                buffer.extend_from_slice(b"}\n");
            }
            EventStyle::Text { coloured, zone } => {
                let line = Line {
                    coloured: *coloured,
                    zone: zone.as_ref(),
                };
                // The log keeps no publisher.
                line.head(buffer, &event.name, "", event.time_ns, event.level)?;
                escape(&event.payload, buffer);
                buffer.push(b'\n');
            }
        }
        out.write_all(buffer)
    }

    /// One consolidated record on one line: in JSON with its events.
    pub(crate) fn batch(&mut self, out: &mut dyn Write, batch: &Batch<'_>) -> io::Result<()> {
        self.buffer.clear();
        match &self.style {
            EventStyle::Json => {
                write!(
                    self.buffer,
                    "{{\"version\":1,\"kind\":\"batch\",\"class\":\"{}\",\"name\":",
                    batch.class().name()
                )?;
                string(&mut self.buffer, &batch.name())?;
                self.buffer.extend_from_slice(b",\"prefix\":");
                string(&mut self.buffer, batch.prefix())?;
                write!(self.buffer, ",\"count\":{}", batch.len())?;
                for (key, time_ns) in [
                    ("first", batch.first_time_ns()),
                    ("last", batch.last_time_ns()),
                ] {
                    write!(self.buffer, ",\"{key}_time\":\"{}\"", utc(time_ns))?;
                    write!(self.buffer, ",\"{key}_time_ns\":{time_ns}")?;
                }
                self.buffer.extend_from_slice(b",\"events\":[");
                for (index, event) in batch.events().enumerate() {
                    let schema = self.schemas.of(&event);
                    let front: &[u8] = if index == 0 { b"{" } else { b",{" };
                    self.buffer.extend_from_slice(front);
                    event_keys(&mut self.buffer, &event, schema.as_deref())?;
                    self.buffer.push(b'}');
                }
                self.buffer.extend_from_slice(b"]}\n");
            }
            EventStyle::Text { coloured, zone } => {
                let line = Line {
                    coloured: *coloured,
                    zone: zone.as_ref(),
                };
                line.batch(&mut self.buffer, batch)?;
            }
        }
        out.write_all(&self.buffer)
    }
}

/// How a line of text is written.
struct Line<'z> {
    coloured: bool,
    zone: Option<&'z TimeZone>,
}

impl Line<'_> {
    fn style(&self, style: Style) -> Style {
        if self.coloured { style } else { PLAIN }
    }

    fn time(&self, buffer: &mut Vec<u8>, time_ns: u64) -> io::Result<()> {
        let dim = self.style(DIM);
        match self.zone.and_then(|zone| local_time(time_ns, zone)) {
            Some(time) => write!(buffer, "{dim}{time}{dim:#} "),
            None => write!(buffer, "{dim}{}{dim:#} ", utc(time_ns)),
        }
    }

    /// Time, level, name, and the publisher where one is known.
    fn head(
        &self,
        buffer: &mut Vec<u8>,
        name: &str,
        source: &str,
        time_ns: u64,
        level: millpond_bus::Level,
    ) -> io::Result<()> {
        let level = Level::from_u8(level as u8);
        let (bold, graded, dim) = (
            self.style(BOLD),
            self.style(level_style(level)),
            self.style(DIM),
        );
        self.time(buffer, time_ns)?;
        write!(buffer, "{graded}{}{graded:#} ", level.token())?;
        // Names and labels are checked by the bus: no control character is in them.
        write!(buffer, "{bold}{name}{bold:#} ")?;
        if !source.is_empty() {
            write!(buffer, "{dim}{source}{dim:#} ")?;
        }
        Ok(())
    }

    fn event(
        &self,
        buffer: &mut Vec<u8>,
        event: &Event<'_>,
        schema: Option<&Schema>,
    ) -> io::Result<()> {
        let dim = self.style(DIM);
        self.head(buffer, event.name, event.source, event.time_ns, event.level)?;
        let fields = schema.and_then(|schema| schema.to_json(event.payload));
        match (event.is_aggregate, fields) {
            (true, _) => aggregate_text(buffer, event, schema)?,
            (false, Some(fields)) => escape(fields.as_bytes(), buffer),
            (false, None) => escape(event.payload, buffer),
        }
        if event.replaced > 0 {
            write!(
                buffer,
                " {dim}(the last of {} values){dim:#}",
                u64::from(event.replaced) + 1
            )?;
        }
        buffer.push(b'\n');
        Ok(())
    }

    /// `data:users:batch 100 events in 47ms: created 80, updated 20`.
    fn batch(&self, buffer: &mut Vec<u8>, batch: &Batch<'_>) -> io::Result<()> {
        let bold = self.style(BOLD);
        self.time(buffer, batch.first_time_ns())?;
        let length_ns = batch.last_time_ns().saturating_sub(batch.first_time_ns());
        write!(
            buffer,
            "{bold}{}{bold:#} {} events in {}:",
            batch.name(),
            batch.len(),
            format_duration(Duration::from_micros(length_ns / 1000))
        )?;
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for event in batch.events() {
            let last = event.name.rsplit(':').next().unwrap_or(event.name);
            *counts.entry(last).or_default() += 1;
        }
        for (index, (name, count)) in counts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(buffer, "{comma} {name} {count}")?;
        }
        buffer.push(b'\n');
        Ok(())
    }
}

fn aggregate_text(
    buffer: &mut Vec<u8>,
    event: &Event<'_>,
    schema: Option<&Schema>,
) -> io::Result<()> {
    let Some(view) = event.aggregate() else {
        return write!(buffer, "(an aggregate that cannot be read)");
    };
    if view.stale() {
        return write!(buffer, "silent");
    }
    write!(buffer, "{} events", view.count())?;
    let Some(schema) = schema else {
        return Ok(());
    };
    for (field, of) in schema.numeric_fields().zip(view.fields()) {
        write!(
            buffer,
            ", {} {}..{} mean {} last {}",
            field.name, of.min, of.max, of.mean, of.last
        )?;
        if let Some(unit) = &field.unit {
            write!(buffer, " {unit}")?;
        }
    }
    Ok(())
}

fn string(buffer: &mut Vec<u8>, text: &str) -> io::Result<()> {
    Ok(serde_json::to_writer(buffer, text)?)
}

/// The keys that events of memory and of the log share.
fn head_keys(
    buffer: &mut Vec<u8>,
    name: &str,
    time_ns: u64,
    level: millpond_bus::Level,
) -> io::Result<()> {
    buffer.extend_from_slice(b"\"name\":");
    string(buffer, name)?;
    write!(
        buffer,
        ",\"time\":\"{}\",\"time_ns\":{time_ns},\"level\":\"{}\"",
        utc(time_ns),
        Level::from_u8(level as u8).name()
    )
}

/// The keys of an event, without the braces around them.
fn event_keys(buffer: &mut Vec<u8>, event: &Event<'_>, schema: Option<&Schema>) -> io::Result<()> {
    head_keys(buffer, event.name, event.time_ns, event.level)?;
    buffer.extend_from_slice(b",\"source\":");
    string(buffer, event.source)?;
    let (lane, sequence) = (event.lane, event.sequence);
    write!(buffer, ",\"lane\":{lane},\"sequence\":{sequence}")?;
    if event.replaced > 0 {
        write!(buffer, ",\"replaced\":{}", event.replaced)?;
    }
    if event.is_aggregate {
        return aggregate_keys(buffer, event, schema);
    }
    if let Some(schema) = schema
        && let Some(fields) = schema.to_json(event.payload)
    {
        buffer.extend_from_slice(b",\"schema\":");
        string(buffer, &schema.name)?;
        return write!(buffer, ",\"fields\":{fields}");
    }
    payload_keys(buffer, event.payload)
}

fn payload_keys(buffer: &mut Vec<u8>, payload: &[u8]) -> io::Result<()> {
    buffer.extend_from_slice(b",\"payload\":");
    match std::str::from_utf8(payload) {
        Ok(text) => string(buffer, text)?,
        Err(_) => {
            string(buffer, &String::from_utf8_lossy(payload))?;
            // Not text: the escaped form says exactly which bytes.
            let mut escaped = Vec::new();
            escape(payload, &mut escaped);
            buffer.extend_from_slice(b",\"payload_escaped\":");
            string(buffer, &String::from_utf8_lossy(&escaped))?;
        }
    }
    let is_nested = matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['));
    if is_nested && serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        buffer.extend_from_slice(b",\"json\":");
        // As it came, so that no number changes; a newline can stand only between its tokens.
        let one_line = |&byte: &u8| match byte {
            b'\n' | b'\r' => b' ',
            _ => byte,
        };
        buffer.extend(payload.trim_ascii().iter().map(one_line));
    }
    Ok(())
}

fn aggregate_keys(
    buffer: &mut Vec<u8>,
    event: &Event<'_>,
    schema: Option<&Schema>,
) -> io::Result<()> {
    let Some(view) = event.aggregate() else {
        return payload_keys(buffer, event.payload);
    };
    write!(
        buffer,
        ",\"count\":{},\"first_time_ns\":{},\"last_time_ns\":{},\"stale\":{}",
        view.count(),
        view.first_time_ns(),
        view.last_time_ns(),
        view.stale()
    )?;
    let Some(schema) = schema else {
        return Ok(());
    };
    buffer.extend_from_slice(b",\"schema\":");
    string(buffer, &schema.name)?;
    buffer.extend_from_slice(b",\"fields\":{");
    for (index, (field, of)) in schema.numeric_fields().zip(view.fields()).enumerate() {
        if index > 0 {
            buffer.push(b',');
        }
        string(buffer, &field.name)?;
        let numbers = [
            ("min", of.min),
            ("max", of.max),
            ("mean", of.mean),
            ("last", of.last),
        ];
        for (place, (key, number)) in numbers.into_iter().enumerate() {
            let front = if place == 0 { ":{" } else { "," };
            write!(buffer, "{front}\"{key}\":")?;
            // What is no number in JSON becomes null.
            serde_json::to_writer(&mut *buffer, &number)?;
        }
        buffer.push(b'}');
    }
    buffer.push(b'}');
    Ok(())
}
