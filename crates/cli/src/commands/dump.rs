//! `millpond dump`: a bus as it lies in memory, from copies alone.

mod json;

use std::io::{self, Write};
use std::path::Path;

use millpond_bus::inspect::{
    CommitView, ControlView, Holder, InspectedRecord, Inspection, Parked, RingView,
    SHARED_MEMORY_DIR,
};
use millpond_bus::{ErrorKind, ServiceCommit};
use millpond_logfile::{SegmentId, escape};

use crate::Run;
use crate::args::Settings;
use crate::flags::DumpFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{BOLD, RED, YELLOW, columns, data_stdout, stdout};
use crate::units::{human_size, now_ns, utc};

/// How much of a payload is shown where nobody says how wide a line may be.
const COLUMNS_DEFAULT: usize = 200;
/// Below this a record takes several lines.
const NARROW: usize = 80;
/// Of a payload at least this much is shown.
const EXCERPT_CHARACTERS_MIN: usize = 16;

pub(crate) fn run(flags: &DumpFlags, settings: &Settings) -> Run {
    let dir = flags.dir.as_deref().unwrap_or(Path::new(SHARED_MEMORY_DIR));
    if !dir.is_dir() {
        let shown = dir.display();
        return Err(Failure::new(format!("--dir {shown} is no directory")));
    }
    let inspection = match Inspection::open_in(dir, &settings.bus) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            crate::print::warning_line(settings.color, &error);
            return Ok(Outcome::Nothing);
        }
        opened => opened?,
    };
    let lanes: Vec<&RingView> = inspection
        .lanes
        .iter()
        .filter(|lane| flags.lane.is_none_or(|epoch| lane.epoch == epoch))
        .collect();
    if let Some(epoch) = flags.lane
        && lanes.is_empty()
    {
        return Err(Failure::new(format!(
            "bus {:?} has no lane {epoch:x}: {}",
            settings.bus,
            known_lanes(&inspection)
        )));
    }
    if flags.raw {
        return raw(&inspection, &lanes);
    }
    let mut damaged = inspection.damage.len();
    let mut out = stdout(settings.color);
    if settings.json {
        let (value, more) = json::of(&inspection, &lanes, flags);
        damaged += more;
        writeln!(out, "{value}")?;
    } else {
        let mut page = Page {
            out: &mut out,
            inspection: &inspection,
            records: flags.records,
            columns: columns(COLUMNS_DEFAULT),
            damaged: 0,
        };
        if flags.lane.is_none() {
            page.bus()?;
        }
        for lane in lanes {
            page.lane(lane)?;
        }
        if flags.lane.is_none() {
            page.outboxes()?;
        }
        damaged += page.damaged;
    }
    out.flush()?;
    if damaged > 0 {
        return Err(Failure::new(format!(
            "{damaged} damaged places; everything else was shown"
        )));
    }
    Ok(Outcome::Found)
}

fn known_lanes(inspection: &Inspection) -> String {
    let known: Vec<String> = inspection
        .lanes
        .iter()
        .map(|lane| format!("{:x}", lane.epoch))
        .collect();
    match known.is_empty() {
        true => "it has none".to_owned(),
        false => format!("it has {}", known.join(", ")),
    }
}

fn raw(inspection: &Inspection, lanes: &[&RingView]) -> Run {
    let mut out = data_stdout();
    let mut is_any = false;
    for lane in lanes {
        let is_lines = (lane.rule.as_ref()).is_some_and(|rule| rule.service.is_some());
        for record in inspection.undrained(lane) {
            let record = record.map_err(|error| {
                // What came before it is out, and good.
                let _ = out.flush();
                Failure::new(format!("lane {:x}: {error}", lane.epoch))
            })?;
            is_any = true;
            out.write_all(&record.payload)?;
            if is_lines {
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::found(is_any))
}

/// Who holds something, in words.
fn holder_words(holder: Holder) -> String {
    match holder {
        Holder::Nobody => "nobody".to_owned(),
        Holder::Process(pid) => format!("process {pid}"),
        Holder::Somebody => "a process that the kernel does not name".to_owned(),
        Holder::Unknown => "not known of a copy".to_owned(),
    }
}

fn parked_words(parked: Parked) -> String {
    match parked {
        Parked::Awake => "awake".to_owned(),
        Parked::UntilWork => "asleep until somebody rings".to_owned(),
        Parked::UntilThreshold => "asleep until a threshold or its deadline".to_owned(),
        Parked::UntilDisk => "asleep until the disk takes something".to_owned(),
        Parked::Unknown(word) => format!("{word}, which is no state"),
    }
}

/// A publisher's state, in words.
fn publisher_words(lane: &RingView) -> String {
    let pid = lane.publisher_pid;
    match lane.holder {
        _ if lane.is_closed => format!("process {pid}, closed in order"),
        Holder::Process(holder) => format!("process {holder}, alive"),
        Holder::Somebody => format!("alive, process {pid} by its own word"),
        Holder::Nobody => format!("gone, process {pid} by its own word"),
        Holder::Unknown => format!("process {pid} by its own word"),
    }
}

/// What anybody may have written, fit for a terminal.
fn clean(bytes: &[u8]) -> String {
    let mut escaped = Vec::new();
    escape(bytes, &mut escaped);
    String::from_utf8_lossy(&escaped).into_owned()
}

fn time(time_ns: u64) -> String {
    match time_ns {
        0 => "never".to_owned(),
        time_ns => utc(time_ns),
    }
}

fn ago(time_ns: u64) -> String {
    let seconds = now_ns().saturating_sub(time_ns) / 1_000_000_000;
    format!("{} ({seconds} s ago)", time(time_ns))
}

/// What a page of text is made with.
struct Page<'p> {
    out: &'p mut dyn Write,
    inspection: &'p Inspection,
    records: u64,
    columns: usize,
    damaged: usize,
}

impl Page<'_> {
    fn bus(&mut self) -> io::Result<()> {
        let (bus, dir) = (&self.inspection.bus, self.inspection.dir.display());
        writeln!(self.out, "{BOLD}bus {bus}{BOLD:#} in {dir}")?;
        for damage in &self.inspection.damage {
            writeln!(self.out, "  {RED}damage{RED:#} {damage}")?;
        }
        let Some(control) = &self.inspection.control else {
            return Ok(());
        };
        self.control(control)?;
        self.rules(control)?;
        self.services(control)?;
        self.subscribers(control)
    }

    fn control(&mut self, control: &ControlView) -> io::Result<()> {
        let boot = match control.is_this_boot {
            true => "this boot",
            false => "another boot, or another host",
        };
        let (pid, uid) = (control.creator_pid, control.creator_uid);
        let made = time(control.created_ns);
        let ready = match control.is_ready {
            true => "ready",
            false => "never finished",
        };
        let lease = holder_words(self.inspection.lease);
        let consumer = &control.consumer;
        let out = &mut self.out;
        writeln!(out, "  made      {made}")?;
        writeln!(out, "            by process {pid} of user {uid}, in {boot}")?;
        writeln!(out, "  layout    {}, {ready}", control.layout_version)?;
        writeln!(out, "  lease     {lease}")?;
        if consumer.started_ns != 0 {
            let heartbeat = match self.inspection.lease {
                Holder::Unknown => time(consumer.heartbeat_ns),
                _ => ago(consumer.heartbeat_ns),
            };
            let (logs, backend) = (clean(consumer.logs_dir.as_bytes()), &consumer.backend);
            writeln!(out, "  consumer  process {}", consumer.pid)?;
            writeln!(out, "            since {}", time(consumer.started_ns))?;
            writeln!(out, "  heartbeat {heartbeat}")?;
            writeln!(out, "  logs      {logs}")?;
            writeln!(out, "            by {}", clean(backend.as_bytes()))?;
        }
        if !consumer.trouble.is_empty() {
            let trouble = clean(consumer.trouble.as_bytes());
            writeln!(out, "  {YELLOW}trouble{YELLOW:#}   {trouble}")?;
        }
        writeln!(out, "  doorbell  {}", parked_words(control.parked))?;
        writeln!(
            out,
            "  asked for flush {}, rotation {}, reload {}",
            control.flush_requests, control.rotate_requests, control.reload_requests
        )?;
        for (what, usage) in [
            ("names", control.names),
            ("schemas", control.schemas),
            ("patterns", control.channels),
            ("sources", control.sources),
        ] {
            writeln!(out, "  {what:<9} {} of {}", usage.used, usage.limit)?;
        }
        Ok(())
    }

    fn rules(&mut self, control: &ControlView) -> io::Result<()> {
        let Ok(rules) = &control.rules else {
            return Ok(());
        };
        let mut table = Table::new(&["rule", "class", "service"]);
        for rule in rules.iter() {
            table.row(vec![
                rule.pattern.as_str().to_owned(),
                rule.class.name().to_owned(),
                rule.service.clone().unwrap_or_default(),
            ]);
        }
        writeln!(self.out)?;
        table.print(self.out)
    }

    fn services(&mut self, control: &ControlView) -> io::Result<()> {
        let bank = control.bank();
        let other = &control.services[1 - bank];
        if control.services.iter().all(Vec::is_empty) {
            return Ok(());
        }
        writeln!(
            self.out,
            "\n{BOLD}services{BOLD:#}, commit {}: bank {bank} is in force",
            control.generation
        )?;
        let mut table = Table::new(&["service", "segment", "committed", "lines", "other bank"]);
        for commit in &control.services[bank] {
            let before = other.iter().find(|old| old.name == commit.name);
            table.row(vec![
                clean(commit.name.as_bytes()),
                SegmentId::from_ns(commit.segment_id).to_string(),
                commit.length_bytes.to_string(),
                commit.lines.to_string(),
                before.map_or("-".to_owned(), |old| other_words(commit, old)),
            ]);
        }
        table.print(self.out)
    }

    fn subscribers(&mut self, control: &ControlView) -> io::Result<()> {
        if control.subscribers.is_empty() {
            return Ok(());
        }
        writeln!(self.out)?;
        let mut table = Table::new(&["subscriber", "patterns", "held by", "delivered", "missed"]);
        for subscriber in &control.subscribers {
            table.row(vec![
                clean(subscriber.label.as_bytes()),
                clean(subscriber.pattern.as_bytes()),
                holder_words(subscriber.holder),
                subscriber.delivered.to_string(),
                subscriber.lagged.to_string(),
            ]);
        }
        table.print(self.out)
    }

    fn damage(&mut self, text: &str) -> io::Result<()> {
        self.damaged += 1;
        writeln!(self.out, "  {RED}damage{RED:#} {}", clean(text.as_bytes()))
    }

    fn head(&mut self, what: &str, ring: &RingView) -> io::Result<()> {
        let place = match ring.slot {
            Some(_) => String::new(),
            None => ", an orphan: nothing names it".to_owned(),
        };
        let (epoch, object) = (ring.epoch, ring.object.path.display());
        writeln!(self.out, "\n{BOLD}{what} {epoch:x}{BOLD:#}{place}")?;
        writeln!(self.out, "  object    {object}")?;
        for damage in &ring.damage {
            self.damage(damage)?;
        }
        if let Some(rule) = &ring.rule {
            let service = match &rule.service {
                Some(_) => ", logged",
                None => "",
            };
            writeln!(
                self.out,
                "  rule      {}, {}{service}",
                rule.pattern,
                rule.class.name()
            )?;
        }
        Ok(())
    }

    fn lane(&mut self, lane: &RingView) -> io::Result<()> {
        self.head("lane", lane)?;
        let label = clean(lane.label.as_bytes());
        writeln!(self.out, "  publisher {label}: {}", publisher_words(lane))?;
        let committed = &lane.committed;
        writeln!(
            self.out,
            "  positions head {}, committed {}, read {}, tail {}",
            lane.head_position, committed.position, lane.drained_position, lane.tail_position
        )?;
        writeln!(
            self.out,
            "  waiting   {} of {}",
            human_size(lane.lag_bytes()),
            human_size(lane.capacity_bytes)
        )?;
        writeln!(
            self.out,
            "  counted   published {}, delivered {}, written {}, rejected {}",
            lane.sequence_next, committed.delivered, committed.written, committed.rejected
        )?;
        let dropped = &lane.dropped;
        if dropped.total() > 0 {
            writeln!(
                self.out,
                "  {YELLOW}dropped{YELLOW:#}   full {}, deadline {}, too long {}",
                dropped.full, dropped.deadline, dropped.too_long
            )?;
        }
        for (bank, commit) in lane.commits.iter().enumerate() {
            if let Some(words) = commit_words(lane, bank, commit) {
                writeln!(self.out, "  {words}")?;
            }
        }
        if lane.is_quarantined {
            writeln!(
                self.out,
                "  {RED}quarantine{RED:#}: the consumer found nonsense in it, and reads it no more"
            )?;
        }
        self.undrained(lane)?;
        self.unfinished(lane)
    }

    fn undrained(&mut self, lane: &RingView) -> io::Result<()> {
        let (mut count, mut shown) = (0, Vec::new());
        let mut problem = None;
        for record in self.inspection.undrained(lane) {
            match record {
                Ok(record) => {
                    count += 1;
                    if count <= self.records {
                        shown.push(record);
                    }
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if count > 0 {
            writeln!(self.out, "  {count} events committed and not drained:")?;
        }
        for record in &shown {
            self.record(record)?;
        }
        if count > shown.len() as u64 && self.records > 0 {
            let more = count - shown.len() as u64;
            writeln!(self.out, "    and {more} more (`--records {count}`)")?;
        }
        match problem.filter(|problem| !lane.damage.contains(problem)) {
            Some(problem) => self.damage(&problem),
            None => Ok(()),
        }
    }

    fn unfinished(&mut self, lane: &RingView) -> io::Result<()> {
        let unfinished = self.inspection.unfinished(lane);
        if !unfinished.records.is_empty() {
            let count = unfinished.records.len();
            writeln!(self.out, "  {count} events claimed and never committed:")?;
        }
        for record in unfinished.records.iter().take(self.records as usize) {
            self.record(record)?;
        }
        if !unfinished.bytes.is_empty() && self.records > 0 {
            writeln!(self.out, "  behind that, no record:")?;
            for part in unfinished.bytes.chunks(16) {
                writeln!(self.out, "    {}", hex(part))?;
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &InspectedRecord) -> io::Result<()> {
        let time = utc(record.time_ns);
        let level = format!("{:?}", record.level).to_uppercase();
        let name = match record.name.is_empty() {
            true => record.kind.to_owned(),
            false => clean(record.name.as_bytes()),
        };
        let sequence = record.sequence;
        if self.columns < NARROW {
            writeln!(self.out, "    {sequence} {level:<5} {name}")?;
            writeln!(self.out, "      {time}")?;
            let room = self.columns.saturating_sub(6);
            return writeln!(self.out, "      {}", excerpt(&record.payload, room));
        }
        let head = format!("    {time} {level:<5} {sequence} {name} ");
        let room = self.columns.saturating_sub(head.chars().count());
        let room = room.max(EXCERPT_CHARACTERS_MIN);
        writeln!(self.out, "{head}{}", excerpt(&record.payload, room))
    }

    fn outboxes(&mut self) -> io::Result<()> {
        let inspection = self.inspection;
        for outbox in &inspection.outboxes {
            self.head("outbox", outbox)?;
            writeln!(
                self.out,
                "  positions head {}, tail {}; {} of {}",
                outbox.head_position,
                outbox.tail_position,
                human_size(outbox.tail_position.saturating_sub(outbox.head_position)),
                human_size(outbox.capacity_bytes)
            )?;
            let (mut count, mut problem) = (0_u64, None);
            for record in inspection.undrained(outbox) {
                match record {
                    Ok(_) => count += 1,
                    Err(error) => problem = Some(error.to_string()),
                }
            }
            writeln!(self.out, "  holds     {count} records")?;
            if let Some(problem) = problem.filter(|problem| !outbox.damage.contains(problem)) {
                self.damage(&problem)?;
            }
        }
        Ok(())
    }
}

/// A commit slot that says something other than the one that counts.
fn commit_words(lane: &RingView, bank: usize, commit: &CommitView) -> Option<String> {
    let counts = match bank == lane.bank {
        true => "counts",
        false => "the other",
    };
    (commit.epoch == lane.epoch).then(|| {
        format!(
            "bank {bank}    position {}, next number {}: {counts}",
            commit.position, commit.sequence_next
        )
    })
}

/// What the bank that is not in force says of a service.
fn other_words(commit: &ServiceCommit, old: &ServiceCommit) -> String {
    match old.segment_id == commit.segment_id {
        true => old.length_bytes.to_string(),
        false => format!(
            "{} of {}",
            old.length_bytes,
            SegmentId::from_ns(old.segment_id)
        ),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// The beginning of a payload, escaped, with its length where it goes on.
fn excerpt(payload: &[u8], characters: usize) -> String {
    // Each byte becomes at least a character but in UTF-8, where at most four make one.
    let looked_at = &payload[..payload.len().min(characters * 4)];
    let text = clean(looked_at);
    if looked_at.len() == payload.len() && text.chars().count() <= characters {
        return text;
    }
    let end = format!(".. ({} bytes)", payload.len());
    let kept = characters.saturating_sub(end.len());
    text.chars().take(kept).chain(end.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_fits_and_says_what_is_left_out() {
        assert_eq!(excerpt(b"short", 16), "short");
        assert_eq!(excerpt(b"a\x1b[31m\n", 16), "a\\x1b[31m\\n");
        let long = excerpt(&[b'x'; 5000], 22);
        assert_eq!(long, "xxxxxxx.. (5000 bytes)");
    }
}
