//! `millpond attach`: look on at a captured command.
//!
//! Everything comes out of shared memory: what is still there of the past, then what comes. The lane's number tells a
//! capture apart from earlier ones of the same name that are still in memory. Its *runs* are in one lane, one behind
//! the other, each up to its exit.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::{memchr, memrchr_iter};
use millpond_bus::{
    Bus, Dropped, Event, Lagged, RecvError, Since, SubscribeOptions, Subscriber, Subscription,
};
use millpond_capture::{CastHeader, CastWriter, Exit, RawEvent, RawName, WindowSize};
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr,
};

use crate::Run;
use crate::args::Settings;
use crate::flags::{AttachFlags, AttachFormat};
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::signals;

/// A capture that was killed says nothing: so often somebody looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) fn run(flags: &AttachFlags, settings: &Settings) -> Run {
    let name: RawName = flags.service.parse()?;
    let bus = settings.attach()?;
    let mut options = SubscribeOptions::new("attach", name.event_name("*").parse()?);
    options.since = Since::Oldest;
    let mut subscription = bus.subscribe(options)?;
    let mut past = Vec::new();
    take_past(&mut subscription, &mut past, bus.clock().now_ns())?;
    let Some(chosen) = choose(&bus, &name, &past) else {
        let message = format!(
            "no capture {:?} on bus {:?}; {}",
            name.to_string(),
            bus.name(),
            others_line(&bus)?
        );
        print::error_line(settings.color, &message);
        return Ok(Outcome::Nothing);
    };
    say_others(&bus, &name, settings);
    let format = match settings.json {
        true => AttachFormat::Asciicast,
        false => flags.format,
    };
    let terminal = Arc::new(Terminal::of_stdout());
    let watcher = Watcher {
        bus: &bus,
        name: &name,
        chosen,
        settings,
        terminal: Arc::clone(&terminal),
        ended: None,
        warned_full: false,
    };
    let (size, past) = last_lines(past, chosen.lane, flags.lines);
    let shown = match format {
        AttachFormat::Raw => {
            watcher.say_size(size);
            terminal.begin();
            let screen = Screen {
                out: io::stdout(),
                modes: Modes::default(),
                is_terminal: terminal.is_there(),
                last_byte: b'\n',
            };
            watcher.follow(screen, past, &mut subscription)
        }
        AttachFormat::Asciicast => {
            let cast = Cast::new(&name, size, past.first(), bus.clock().now_ns());
            watcher.follow(cast, past, &mut subscription)
        }
    };
    terminal.end();
    shown.map(|()| Outcome::Found)
}

/// What came: events of the raw stream, and losses of it.
#[derive(Debug)]
struct Item {
    lane: u64,
    time_ns: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Output(Vec<u8>),
    Size(WindowSize),
    Exit(Exit),
    /// So many events were overwritten before we read them.
    Missed(u64),
    /// So many the capture could not put into its lane.
    Dropped(u64),
}

struct Collector<'i>(&'i mut Vec<Item>);

impl Subscriber for Collector<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        let Some((_, last)) = RawName::of_event(event.name) else {
            return;
        };
        // Of a later version: not for us.
        let Some(raw) = RawEvent::parse(last, event.payload) else {
            return;
        };
        self.0.push(Item {
            lane: event.lane,
            time_ns: event.time_ns,
            what: match raw {
                RawEvent::Output(bytes) => What::Output(bytes.to_vec()),
                RawEvent::Size(size) => What::Size(size),
                RawEvent::Exit(exit) => What::Exit(exit),
            },
        });
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lost(lagged.lane, What::Missed(lagged.count));
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.lost(dropped.lane, What::Dropped(dropped.count()));
    }
}

impl Collector<'_> {
    fn lost(&mut self, lane: u64, what: What) {
        let time_ns = self.0.last().map_or(0, |item| item.time_ns);
        self.0.push(Item {
            lane,
            time_ns,
            what,
        });
    }
}

/// What is in memory, as far as it is older than `now_ns`, and what came with it: bounded, however fast the
/// command writes.
fn take_past(
    subscription: &mut Subscription,
    past: &mut Vec<Item>,
    now_ns: u64,
) -> Result<(), Failure> {
    while subscription.poll(&mut Collector(past))? > 0 {
        if past.last().is_some_and(|item| item.time_ns > now_ns) {
            break;
        }
    }
    Ok(())
}

/// One run of a capture.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    /// `None`: it runs, and nothing of it is in memory.
    lane: Option<u64>,
    /// Its process, where the lane is still there.
    pid: Option<u32>,
}

/// The newest run that lives, else the newest that is in memory.
fn choose(bus: &Bus, name: &RawName, past: &[Item]) -> Option<Chosen> {
    let lanes: BTreeSet<u64> = past.iter().map(|item| item.lane).collect();
    let live = lanes.iter().rev().find(|&&lane| bus.is_lane_live(lane));
    let pid_of = |lane: u64| {
        let lanes = bus.stats().lanes;
        let found = lanes.iter().find(|found| found.epoch == lane);
        found.map(|found| found.origin.pid)
    };
    if live.is_none() && live_captures(bus).contains(name) {
        // It runs, and what it has written so far is gone, or not written.
        return Some(Chosen {
            lane: None,
            pid: None,
        });
    }
    let lane = *live.or(lanes.last())?;
    Some(Chosen {
        lane: Some(lane),
        pid: pid_of(lane),
    })
}

/// Captures whose publishers live.
fn live_captures(bus: &Bus) -> BTreeSet<RawName> {
    let lanes = bus.stats().lanes;
    let live = lanes.iter().filter(|lane| bus.is_lane_live(lane.epoch));
    live.filter_map(|lane| RawName::of_label(&lane.label))
        .collect()
}

/// `captures on this bus: web, db@4711`
fn others_line(bus: &Bus) -> Result<String, Failure> {
    let mut names: BTreeSet<RawName> = live_captures(bus);
    let mut options = SubscribeOptions::new("attach", "pty:*".parse()?);
    options.since = Since::Oldest;
    let mut collect = |event: &Event<'_>| {
        names.extend(RawName::of_event(event.name).map(|(name, _)| name));
    };
    bus.subscribe(options)?.poll(&mut collect)?;
    Ok(match names.is_empty() {
        true => {
            "there are none: start one with `millpond capture --service NAME -- COMMAND`".into()
        }
        false => format!("captures on this bus: {}", joined(&names)),
    })
}

fn joined(names: &BTreeSet<RawName>) -> String {
    let names: Vec<String> = names.iter().map(RawName::to_string).collect();
    names.join(", ")
}

fn say_others(bus: &Bus, name: &RawName, settings: &Settings) {
    if name.pid.is_some() {
        return;
    }
    let mut others = live_captures(bus);
    others.retain(|other| other.service == name.service && other != name);
    if !others.is_empty() {
        let message = format!(
            "{name} is captured more than once; also: {}",
            joined(&others)
        );
        print::warning_line(settings.color, &message);
    }
}

/// The size that the terminal had at the start of what is left, and the last `lines` of the run.
fn last_lines(
    past: Vec<Item>,
    lane: Option<u64>,
    lines: Option<u64>,
) -> (Option<WindowSize>, Vec<Item>) {
    let mut past = past;
    past.retain(|item| Some(item.lane) == lane);
    // Of the last run there is, which may be all but over.
    let is_exit = |item: &Item| matches!(item.what, What::Exit(_));
    let before = past.len().saturating_sub(1);
    let start_of_run = past[..before].iter().rposition(is_exit);
    past.drain(..start_of_run.map_or(0, |exit| exit + 1));
    // Losses before the first thing that we show are no news: nobody asked for all of the past.
    let is_loss = |item: &Item| matches!(item.what, What::Missed(_) | What::Dropped(_));
    let leading = past.iter().take_while(|item| is_loss(item)).count();
    past.drain(..leading);
    let start = lines.map_or(0, |lines| cut_at(&mut past, lines));
    // Where only what comes is wanted, the last size there was counts.
    let size_of = |item: &Item| match item.what {
        What::Size(size) => Some(size),
        _ => None,
    };
    let size = past[..start].iter().rev().find_map(size_of);
    let size = size.or_else(|| past.iter().find_map(size_of));
    past.drain(..start);
    (size, past)
}

/// The index of the item in which the last `lines` begin; what of it lies before is cut off.
fn cut_at(past: &mut [Item], lines: u64) -> usize {
    let end = past
        .iter()
        .rposition(|item| matches!(item.what, What::Output(_)))
        .map_or(0, |last| last + 1);
    if lines == 0 {
        return end;
    }
    let mut left = lines;
    let mut is_last_byte = true;
    for (index, item) in past.iter_mut().enumerate().rev() {
        let What::Output(bytes) = &mut item.what else {
            continue;
        };
        for newline in memrchr_iter(b'\n', bytes) {
            // One at the very end ends the last line, it does not begin another.
            let ends_all = std::mem::take(&mut is_last_byte) && newline + 1 == bytes.len();
            if ends_all {
                continue;
            }
            left -= 1;
            if left == 0 {
                bytes.drain(..=newline);
                return index;
            }
        }
        is_last_byte &= bytes.is_empty();
    }
    0
}

/// Where it is shown.
trait Show {
    fn item(&mut self, item: &Item) -> io::Result<()>;
    /// Everything so far is to be seen.
    fn flush(&mut self) -> io::Result<()>;
    /// Nothing comes any more.
    fn finish(self) -> io::Result<()>;
}

/// Follows one run to its end.
struct Watcher<'w> {
    bus: &'w Bus,
    name: &'w RawName,
    chosen: Chosen,
    settings: &'w Settings,
    terminal: Arc<Terminal>,
    ended: Option<Exit>,
    warned_full: bool,
}

impl Watcher<'_> {
    fn follow(
        mut self,
        mut show: impl Show,
        past: Vec<Item>,
        subscription: &mut Subscription,
    ) -> Result<(), Failure> {
        let stopped = self.watch_stop(subscription)?;
        self.show(&mut show, &past)?;
        drop(past);
        let had_ended = self.ended.is_some();
        let mut looked = Instant::now();
        let mut items = Vec::new();
        // ORDERING: Acquire; set before the wake.
        while self.ended.is_none() && !stopped.load(Ordering::Acquire) {
            match subscription.run(&mut Collector(&mut items), Some(LOOK_INTERVAL)) {
                Ok(_) | Err(RecvError::TimedOut | RecvError::Woken) => {}
                Err(error) => return Err(error.into()),
            }
            self.show(&mut show, &items)?;
            items.clear();
            if self.ended.is_none() && looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                if self.is_gone() {
                    // All that it left is there by now.
                    subscription.poll(&mut Collector(&mut items))?;
                    self.show(&mut show, &items)?;
                    break;
                }
                self.look_for_drops();
            }
        }
        show.finish()?;
        self.terminal.end();
        let name = self.name;
        // ORDERING: Acquire; as above.
        match self.ended {
            Some(exit) if had_ended => eprintln!("{name} has ended: {}", exit_line(exit)),
            Some(exit) => eprintln!("{name} ended: {}", exit_line(exit)),
            None if stopped.load(Ordering::Acquire) => {}
            None => eprintln!(
                "{name}: its capture is gone and has not said how the command ended: it was killed, or its lane was full"
            ),
        }
        Ok(())
    }

    /// Ctrl-C, SIGTERM, and the end of whoever reads us.
    fn watch_stop(&self, subscription: &Subscription) -> Result<Arc<AtomicBool>, Failure> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (stopping, waker) = (Arc::clone(&stopped), subscription.waker());
        let stop = move || {
            // ORDERING: Release; seen by the loop once it is woken.
            stopping.store(true, Ordering::Release);
            waker.wake();
        };
        signals::watch_output(stop.clone())?;
        let terminal = Arc::clone(&self.terminal);
        signals::watch_stop(move |_| {
            // A second signal ends the process where it stands.
            terminal.end();
            stop();
        })?;
        Ok(stopped)
    }

    fn show(&mut self, show: &mut impl Show, items: &[Item]) -> Result<(), Failure> {
        for item in items {
            if self.chosen.lane.is_none() {
                self.chosen.lane = Some(item.lane);
            }
            if Some(item.lane) != self.chosen.lane {
                continue;
            }
            show.item(item)?;
            match item.what {
                What::Exit(exit) => {
                    self.ended = Some(exit);
                    // What is behind it is of the next run.
                    break;
                }
                What::Missed(count) => {
                    show.flush()?;
                    self.warn(&format!(
                        "too slow: {count} events of {} were missed",
                        self.name
                    ));
                }
                What::Dropped(count) => {
                    show.flush()?;
                    self.warn(&format!(
                        "{count} events of {} found no room in its lane: they are lost to those who look on",
                        self.name
                    ));
                }
                What::Output(_) | What::Size(_) => {}
            }
        }
        Ok(show.flush()?)
    }

    fn warn(&self, message: &str) {
        self.terminal.interrupted(|| {
            print::warning_line(self.settings.color, &message);
        });
    }

    /// A picture for a larger terminal than ours is no picture.
    fn say_size(&self, size: Option<WindowSize>) {
        let (Some(size), Ok(ours)) = (size, tcgetwinsize(io::stdout())) else {
            return;
        };
        if self.terminal.is_there() && (size.columns > ours.ws_col || size.rows > ours.ws_row) {
            let (name, columns, rows) = (self.name, ours.ws_col, ours.ws_row);
            self.warn(&format!(
                "{name} has a terminal of {}x{}, this one has {columns}x{rows}: lines may be broken, and screens \
                 garbled",
                size.columns, size.rows
            ));
        }
    }

    /// Whether nobody writes to the run's lane any more. A capture goes on in another lane when the rules change.
    fn is_gone(&mut self) -> bool {
        let Some(lane) = self.chosen.lane else {
            return !live_captures(self.bus).contains(self.name);
        };
        if self.bus.is_lane_live(lane) {
            return false;
        }
        let (label, pid) = (self.name.label(), self.chosen.pid);
        let lanes = self.bus.stats().lanes;
        let next = lanes.iter().rfind(|next| {
            next.label == label
                && next.epoch > lane
                && pid == Some(next.origin.pid)
                && next.pattern.starts_with("pty")
                && self.bus.is_lane_live(next.epoch)
        });
        if let Some(next) = next {
            self.chosen.lane = Some(next.epoch);
        }
        next.is_none()
    }

    /// Drops are told with the next event that finds room. Without a daemon there is none.
    fn look_for_drops(&mut self) {
        if self.warned_full || self.bus.consumer().is_some() {
            return;
        }
        let lanes = self.bus.stats().lanes;
        let lane = lanes
            .iter()
            .find(|lane| Some(lane.epoch) == self.chosen.lane);
        if lane.is_some_and(|lane| lane.dropped.full > 0) {
            self.warned_full = true;
            let (name, bus) = (self.name, self.bus.name());
            self.warn(&format!(
                "the lane of {name} is full and nobody makes room, so what it writes is not seen here: start \
                 `millpond daemon --bus {bus}`"
            ));
        }
    }
}

fn exit_line(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => {
            let name = signal_hook::low_level::signal_name(i32::from(signal));
            format!("signal {signal} ({})", name.unwrap_or("of no name"))
        }
    }
}

/// Bytes, as the terminal in front of the command was given them.
struct Screen {
    out: io::Stdout,
    modes: Modes,
    is_terminal: bool,
    last_byte: u8,
}

impl Show for Screen {
    fn item(&mut self, item: &Item) -> io::Result<()> {
        let What::Output(bytes) = &item.what else {
            return Ok(());
        };
        if self.is_terminal {
            self.modes.follow(bytes);
        }
        self.last_byte = bytes.last().copied().unwrap_or(self.last_byte);
        self.out.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(mut self) -> io::Result<()> {
        if self.is_terminal {
            self.out.write_all(self.modes.undo().as_bytes())?;
            if self.last_byte != b'\n' {
                self.out.write_all(b"\r\n")?;
            }
        }
        self.out.flush()
    }
}

/// Lines of an asciicast, each batch as soon as it is there.
struct Cast {
    writer: CastWriter<io::Stdout>,
    start_ns: u64,
    size: Option<WindowSize>,
}

impl Cast {
    fn new(name: &RawName, size: Option<WindowSize>, first: Option<&Item>, now_ns: u64) -> Self {
        let start_ns = first.map_or(now_ns, |item| item.time_ns);
        let header = CastHeader {
            size: size.unwrap_or_default(),
            timestamp: start_ns / 1_000_000_000,
            title: &name.to_string(),
            ..CastHeader::default()
        };
        Cast {
            writer: CastWriter::new(io::stdout(), &header),
            start_ns,
            size,
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.writer.failure() {
            None => Ok(()),
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Show for Cast {
    fn item(&mut self, item: &Item) -> io::Result<()> {
        let at = Duration::from_nanos(item.time_ns.saturating_sub(self.start_ns));
        let writer = &mut self.writer;
        match &item.what {
            What::Output(bytes) => writer.output(at, bytes),
            // It is said again now and then.
            What::Size(size) if self.size == Some(*size) => {}
            What::Size(size) => {
                self.size = Some(*size);
                writer.resize(at, *size);
            }
            What::Exit(exit) => writer.exit(at, *exit),
            What::Missed(count) => writer.marker(at, &format!("missed {count} events")),
            What::Dropped(count) => writer.marker(at, &format!("{count} events found no room")),
        }
        self.check()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush();
        self.check()
    }

    fn finish(self) -> io::Result<()> {
        self.writer.finish()?;
        Ok(())
    }
}

/// Our own terminal: while it is begun, output goes to it as it is, and keys that are typed do not show.
struct Terminal {
    /// As it was; `None`: there is none, or it is not ours now.
    before: Option<Termios>,
    begun: Mutex<bool>,
}

impl Terminal {
    fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_ours = stdout.is_terminal()
            // In the background, setting a terminal up would stop us.
            && tcgetpgrp(&stdout).is_ok_and(|group| group == rustix::process::getpgrp());
        Terminal {
            before: is_ours.then(|| tcgetattr(&stdout).ok()).flatten(),
            begun: Mutex::new(false),
        }
    }

    fn is_there(&self) -> bool {
        self.before.is_some()
    }

    fn begin(&self) {
        let Some(before) = &self.before else { return };
        let mut raw = before.clone();
        raw.output_modes.remove(OutputModes::OPOST);
        raw.local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON);
        // Ctrl-C ends us in order; Ctrl-Z and Ctrl-\ would leave the terminal like this.
        raw.special_codes[SpecialCodeIndex::VSUSP] = 0;
        raw.special_codes[SpecialCodeIndex::VQUIT] = 0;
        self.set(true, &raw, OptionalActions::Now);
    }

    /// As it was. Keys that were typed meanwhile, and answers of the terminal to what the command asked it, are not
    /// left for the shell.
    fn end(&self) {
        if let Some(before) = &self.before {
            self.set(false, before, OptionalActions::Flush);
        }
    }

    fn set(&self, begun: bool, modes: &Termios, when: OptionalActions) {
        let mut now = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != begun {
            *now = begun;
            // A terminal that is gone has no modes.
            let _ = tcsetattr(io::stdout(), when, modes);
        }
    }

    /// Says something in between.
    fn interrupted(&self, say: impl FnOnce()) {
        let now = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if now && let Some(before) = &self.before {
            let _ = tcsetattr(io::stdout(), OptionalActions::Now, before);
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = false;
            eprintln!();
            say();
            self.begin();
        } else {
            say();
        }
    }
}

/// Modes of a terminal that programs turn on, and off when they end: whoever stops looking before that wants them
/// off all the same. DEC private modes: keypad, mouse, focus, alternate screen, bracketed paste; and the cursor.
#[derive(Debug, Default)]
struct Modes {
    state: ModeState,
    parameters: Vec<u16>,
    on: BTreeSet<u16>,
    cursor_hidden: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ModeState {
    #[default]
    Ground,
    Escape,
    Bracket,
    Parameters,
}

const MODES: [u16; 14] = [
    1, 9, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004, 2026,
];

impl Modes {
    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.state == ModeState::Ground {
                let Some(escape) = memchr(0x1b, bytes) else {
                    return;
                };
                bytes = &bytes[escape..];
            }
            self.byte(bytes[0]);
            bytes = &bytes[1..];
        }
    }

    fn byte(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (_, 0x1b) => ModeState::Escape,
            (ModeState::Escape, b'[') => ModeState::Bracket,
            (ModeState::Bracket, b'?') => {
                self.parameters.clear();
                self.parameters.push(0);
                ModeState::Parameters
            }
            (ModeState::Parameters, b'0'..=b'9') => {
                if let Some(last) = self.parameters.last_mut() {
                    *last = last
                        .saturating_mul(10)
                        .saturating_add(u16::from(byte - b'0'));
                }
                ModeState::Parameters
            }
            (ModeState::Parameters, b';') if self.parameters.len() < 16 => {
                self.parameters.push(0);
                ModeState::Parameters
            }
            (ModeState::Parameters, b'h' | b'l') => {
                self.change(byte == b'h');
                ModeState::Ground
            }
            _ => ModeState::Ground,
        };
    }

    fn change(&mut self, is_on: bool) {
        for &mode in &self.parameters {
            match mode {
                25 => self.cursor_hidden = !is_on,
                _ if !MODES.contains(&mode) => {}
                _ if is_on => {
                    self.on.insert(mode);
                }
                _ => {
                    self.on.remove(&mode);
                }
            }
        }
    }

    /// What turns all that off; and colours, which everybody leaves on.
    fn undo(&self) -> String {
        let mut text: String = self
            .on
            .iter()
            .map(|mode| format!("\x1b[?{mode}l"))
            .collect();
        if self.cursor_hidden {
            text.push_str("\x1b[?25h");
        }
        text.push_str("\x1b[m");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str) -> Item {
        Item {
            lane: 1,
            time_ns: 0,
            what: What::Output(text.as_bytes().to_vec()),
        }
    }

    fn left(items: &[&str], lines: u64) -> String {
        let items = items.iter().map(|text| output(text)).collect();
        let (_, left) = last_lines(items, Some(1), Some(lines));
        let bytes = left.into_iter().flat_map(|item| match item.what {
            What::Output(bytes) => bytes,
            _ => Vec::new(),
        });
        String::from_utf8(bytes.collect()).unwrap()
    }

    #[test]
    fn last_lines_are_those_of_tail() {
        assert_eq!(left(&["a\nb\nc\n"], 2), "b\nc\n");
        assert_eq!(left(&["a\nb\nc"], 2), "b\nc");
        assert_eq!(left(&["a\nb", "\nc", "\n"], 2), "b\nc\n");
        assert_eq!(left(&["a\n", "\n", "\n"], 2), "\n\n");
        assert_eq!(left(&["a\nb\n", ""], 1), "b\n");
        assert_eq!(left(&["a\nb"], 9), "a\nb");
        assert_eq!(left(&["a\nb"], 0), "");
        assert_eq!(left(&[], 3), "");
    }

    #[test]
    fn only_the_last_run_is_shown() {
        let exit = || Item {
            lane: 1,
            time_ns: 0,
            what: What::Exit(Exit::Code(0)),
        };
        let shown = |items: Vec<Item>| -> Vec<String> {
            let (_, left) = last_lines(items, Some(1), None);
            left.iter().map(|item| format!("{:?}", item.what)).collect()
        };
        let (one, two) = (|| output("1\n"), || output("2\n"));
        let last = shown(vec![two(), exit()]);
        assert_eq!(shown(vec![one(), exit(), two(), exit()]), last);
        assert_eq!(shown(vec![one(), exit(), two()]), last[..1]);
        assert_eq!(shown(vec![]), [""; 0]);
    }

    #[test]
    fn size_is_the_one_that_holds_at_the_start() {
        let size = |columns| Item {
            lane: 1,
            time_ns: 0,
            what: What::Size(WindowSize { columns, rows: 24 }),
        };
        let items = || {
            vec![
                size(80),
                output("a\n"),
                size(100),
                output("b\nc\n"),
                size(120),
            ]
        };
        let columns = |lines| {
            let (found, _) = last_lines(items(), Some(1), lines);
            found.map(|size| size.columns)
        };
        assert_eq!(columns(None), Some(80));
        assert_eq!(columns(Some(1)), Some(100));
        assert_eq!(columns(Some(0)), Some(100));
        assert_eq!(last_lines(items(), Some(2), None).0, None);
    }

    #[test]
    fn modes_are_undone_however_they_are_cut() {
        let bytes = b"\x1b[?1049h\x1b[?25l\x1b[1;31mx\x1b[?1000;1006h\x1b[?1000l\x1b[?7h";
        for cut in 0..bytes.len() {
            let mut modes = Modes::default();
            modes.follow(&bytes[..cut]);
            modes.follow(&bytes[cut..]);
            assert_eq!(modes.undo(), "\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[m");
        }
    }
}
