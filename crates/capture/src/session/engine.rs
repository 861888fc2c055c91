//! The loop of a capture: one poll over everything that can happen.
//!
//! What the command wrote goes first to who is in front, then into lines and the raw stream. Nothing here waits for
//! the bus, and for who is in front only as the command would: it is not read while they do not take what it wrote.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Level};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, kill_current_process_group, kill_process};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{InputModes, LocalModes, OutputModes, isatty};

use crate::error::Error;
use crate::pty::{Pty, Report, WindowSize, failed, window_size};
use crate::raw::{RawStream, Recording};
use crate::replies::{Echo, ReplyFilter};
use crate::session::child::Child;
use crate::session::control::Controller;
use crate::session::front::{Gone, Keyboard, Output};
use crate::session::newlines::add_returns;
use crate::session::publish::{Lines, Notes};
use crate::session::{Capture, Ending, Exit, Front, Mode, Newlines};

/// A read gives no more than the kernel has; a pipe has 64 KiB.
const READ_BYTES: usize = 64 << 10;
/// After so many reads in a row of one stream, everything else gets a look.
const READS_IN_A_ROW: usize = 16;
/// A read of at least this many bytes says that more is on its way.
const BUSY_BYTES: usize = 1 << 10;
/// Keys that the command has not taken yet; more are left with the terminal.
const KEYS_BYTES: usize = 4 << 10;
/// In the background: how often to look whether we are in the foreground now. Shells do not tell.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(250);
/// The start of what may be the echo of an answer is held back so long.
const HOLD: Duration = Duration::from_millis(50);
/// Where nothing tells of the end of the command: how often to ask.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// How a command ended that nobody can tell of any more: we have failed, as `env` and `timeout` say it.
const UNKNOWN_EXIT: Exit = Exit::Code(125);
/// Control, child, keyboard, terminal for keys, and two each of streams and outputs.
const POLL_MAX: usize = 8;

pub(crate) struct Engine<'c> {
    bus: &'c Bus,
    controller: &'c Controller,
    started: Instant,
    linger: Duration,
    notes: &'c mut Notes,
    raw: RawStream<'c>,
    child: Child,
    /// Signals that were passed on to it, a bit each.
    passed_on: u64,
    /// What went wrong beside it.
    warnings: Vec<String>,
    /// Whoever is in front was last shown something other than a newline.
    is_inside_line: bool,
    /// Where a terminal is in front that gives us its keys.
    keyboard: Option<Keyboard>,
    /// Keys on their way to the command.
    keys: Vec<u8>,
    /// Standard output or error, where that is the terminal whose size is followed.
    sized_by: Option<BorrowedFd<'static>>,
    size: WindowSize,
    pty: Option<Pty>,
    /// We add the carriage returns.
    translates: bool,
    streams: Vec<Stream>,
    output_bytes: u64,
    exit: Option<Exit>,
    /// When the last byte came, or the command ended.
    active: Instant,
    ended: Option<Duration>,
    buffer: Vec<u8>,
    translated: Vec<u8>,
    /// Keeps the echoes of what a terminal answers out of the log.
    replies: ReplyFilter,
    /// What it lets through.
    kept: Vec<u8>,
    /// When it has held back the start of something long enough.
    held_until: Option<Instant>,
    /// Those who hold the terminal behind the command have written nothing for long enough.
    is_silent: bool,
    /// Nobody waits for those who hold the terminal any more.
    is_hurried: bool,
}

/// Something that the command writes to.
struct Stream {
    /// `None`: the terminal.
    pipe: Option<OwnedFd>,
    output: Option<Output>,
    lines: Lines,
    is_open: bool,
}

/// What a place in the list of the poll is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Control,
    Child,
    Keyboard,
    /// The command's terminal takes keys.
    Keys,
    Stream(usize),
    Output(usize),
}

impl<'c> Engine<'c> {
    /// Starts the command. Up to there anything may fail; behind it nothing may.
    pub(crate) fn start(
        capture: &'c mut Capture,
        front: Front,
        controller: &'c Controller,
    ) -> Result<Self, Error> {
        let Capture {
            bus,
            spec,
            name,
            notes,
            raw,
        } = capture;
        let recording = spec.raw_to.as_deref().map(Recording::open).transpose()?;
        notes.begin();
        let stands_in_front = front == Front::Standard;
        let mut keyboard = match stands_in_front {
            true => Keyboard::find(),
            false => None,
        };
        let sized_by = [stdin(), stdout(), stderr()]
            .into_iter()
            .find(|handle| stands_in_front && isatty(handle));
        let given_size = match spec.mode {
            Mode::Pty { size, .. } => size,
            Mode::Pipe => WindowSize::default(),
        };
        let size = sized_by.and_then(window_size).unwrap_or(given_size);
        let title = spec.command.to_string();
        let mut lines = |source| {
            Lines::new(
                notes,
                name,
                source,
                spec.view,
                spec.level,
                spec.partial_delay,
            )
        };
        let output = |handle| match stands_in_front {
            true => Output::new(handle)
                .map(Some)
                .map_err(|error| failed("looking at standard output", error)),
            false => Ok(None),
        };
        let mut translates = false;
        let mut pty = None;
        let mut streams = Vec::new();
        let child = match spec.mode {
            Mode::Pty { newlines, .. } => {
                let terminal = Pty::open(size)?;
                if let Some(front) = sized_by {
                    // With the size of its characters, for those who draw pictures.
                    terminal.resize_as(front);
                }
                let is_input = keyboard
                    .as_ref()
                    .is_some_and(|keyboard| !keyboard.is_aside());
                let is_personal = is_input && isatty(stdout());
                translates = match newlines {
                    Newlines::Auto => !is_personal,
                    Newlines::Kernel => false,
                    Newlines::Own => true,
                };
                set_modes(&terminal, keyboard.as_ref(), translates)?;
                set_nonblocking(terminal.as_fd())?;
                let mut lines = lines("pty:out")?;
                lines.set_columns(size.columns);
                streams.push(Stream {
                    pipe: None,
                    output: output(stdout())?,
                    lines,
                    is_open: true,
                });
                let input = match front {
                    Front::Standard if is_input => None,
                    Front::Standard => Some(Stdio::inherit()),
                    Front::Nobody => Some(Stdio::null()),
                };
                let running = terminal.spawn_with_input(&spec.command, input)?;
                // It is read when it is ready; but should the kernel not tell, all is looked at.
                let _ = set_nonblocking(running.status());
                pty = Some(terminal);
                Child::OnTerminal(running)
            }
            Mode::Pipe => {
                let pipe = || {
                    pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("making a pipe", error))
                };
                let (out, out_far) = pipe()?;
                let (err, err_far) = pipe()?;
                for (pipe, source, handle) in
                    [(out, "pipe:out", stdout()), (err, "pipe:err", stderr())]
                {
                    set_nonblocking(pipe.as_fd())?;
                    streams.push(Stream {
                        pipe: Some(pipe),
                        output: output(handle)?,
                        lines: lines(source)?,
                        is_open: true,
                    });
                }
                let input = match front {
                    Front::Standard => Stdio::inherit(),
                    Front::Nobody => Stdio::null(),
                };
                // It reads the terminal itself, in whatever mode it likes.
                let shares_terminal = keyboard.take().is_some_and(|keyboard| !keyboard.is_aside());
                Child::with_pipes(&spec.command, input, out_far, err_far, shares_terminal)?
            }
        };
        if let Some(keyboard) = keyboard.as_mut().filter(|keyboard| !keyboard.is_aside()) {
            keyboard.take();
        }
        let pid = child.pid().as_raw_nonzero();
        controller.started(pid.get().unsigned_abs());
        notes.say(Level::Info, &format!("started pid={pid} command={title}"));
        let mut warnings = Vec::new();
        let file = recording.and_then(|recording| match recording.begin() {
            Ok(file) => Some(file),
            Err(error) => {
                let text = format!("there is no recording: {error}");
                notes.say(Level::Error, &text);
                warnings.push(text);
                None
            }
        });
        let raw = RawStream::new(raw, spec.mode, size, &title, file);
        let now = Instant::now();
        Ok(Engine {
            bus,
            controller,
            started: now,
            linger: spec.linger,
            notes,
            raw,
            child,
            passed_on: 0,
            warnings,
            is_inside_line: false,
            keyboard,
            keys: Vec::with_capacity(KEYS_BYTES),
            sized_by: sized_by.filter(|_| pty.is_some()),
            size,
            pty,
            translates,
            streams,
            output_bytes: 0,
            exit: None,
            active: now,
            ended: None,
            buffer: vec![0; READ_BYTES],
            translated: Vec::new(),
            replies: ReplyFilter::new(),
            kept: Vec::new(),
            held_until: None,
            is_silent: false,
            is_hurried: false,
        })
    }

    /// Goes on until the command has ended: no trouble of ours is a reason to leave it.
    pub(crate) fn run(mut self) -> Ending {
        while !self.is_done() {
            self.step();
        }
        // Only now that all is written: the modes of the terminal in front are of what comes to it.
        self.keyboard = None;
        self.finish()
    }

    /// Whether the command has ended, and all that it wrote has gone where it belongs.
    fn is_done(&self) -> bool {
        if self.exit.is_none() {
            return false;
        }
        let is_written = self.streams.iter().all(|stream| {
            stream
                .output
                .as_ref()
                .is_none_or(|output| !output.has_pending())
        });
        let is_closed = self.streams.iter().all(|stream| !stream.is_open);
        is_written && (is_closed || self.is_silent || self.is_hurried)
    }

    /// Waits for something to happen, and does what it asks for.
    fn step(&mut self) {
        let mut wanted = [Wanted::Control; POLL_MAX];
        let mut ready = [false; POLL_MAX];
        let had_ended = self.exit.is_some();
        let count = self.wait(&mut wanted, &mut ready);
        // By a look, not by the clock: this process may not have run for longer than that.
        let reads =
            |(wanted, ready): (&Wanted, &bool)| *ready && matches!(wanted, Wanted::Stream(_));
        self.is_silent = had_ended
            && self.active.elapsed() >= self.linger
            && !self.waits_for_front()
            && !wanted[..count].iter().zip(&ready).any(reads);
        for (wanted, _) in wanted
            .into_iter()
            .zip(ready)
            .take(count)
            .filter(|(_, ready)| *ready)
        {
            match wanted {
                Wanted::Control => self.heed(),
                Wanted::Keyboard => self.read_keys(),
                Wanted::Keys => self.write_keys(),
                Wanted::Output(at) => self.write_on(at),
                Wanted::Stream(at) => self.read_stream(at),
                // Last in the list: what it wrote before its end was there before.
                Wanted::Child => self.hear_of_child(),
            }
        }
        if self.exit.is_none() && self.child.changed().is_none() {
            self.hear_of_child();
        }
        self.tend();
    }

    /// What there is to wait for, and what of it has come.
    fn wait(&self, wanted: &mut [Wanted; POLL_MAX], ready: &mut [bool; POLL_MAX]) -> usize {
        let control = PollFd::from_borrowed_fd(self.controller.wake(), PollFlags::IN);
        let mut handles: [PollFd<'_>; POLL_MAX] = std::array::from_fn(|_| control.clone());
        // The first place is the controller's.
        let mut count = 1;
        let mut add = |what, handle, flags| {
            wanted[count] = what;
            handles[count] = PollFd::from_borrowed_fd(handle, flags);
            count += 1;
        };
        if let Some(terminal) = self.pty.as_ref().filter(|_| self.exit.is_none()) {
            if let Some(keyboard) = self.keyboard.as_ref().filter(|_| self.takes_keys()) {
                add(Wanted::Keyboard, keyboard.handle(), PollFlags::IN);
            }
            if !self.keys.is_empty() {
                add(Wanted::Keys, terminal.as_fd(), PollFlags::OUT);
            }
        }
        for (at, stream) in self.streams.iter().enumerate() {
            let output = stream.output.as_ref();
            if let Some(output) = output.filter(|output| output.has_pending()) {
                add(Wanted::Output(at), output.handle(), PollFlags::OUT);
            }
            if stream.is_open
                && output.is_none_or(Output::has_room)
                && let Some(handle) = self.source(stream)
            {
                add(Wanted::Stream(at), handle, PollFlags::IN);
            }
        }
        if self.exit.is_none()
            && let Some(changed) = self.child.changed()
        {
            add(Wanted::Child, changed, PollFlags::IN);
        }
        let timeout = self.timeout().map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut handles[..count], timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return 0,
            // No memory, or somebody has lowered how many handles we may wait for. The command is not to suffer:
            // what does not block is looked at.
            Err(_) => {
                std::thread::sleep(ASK_INTERVAL);
                for (ready, wanted) in ready.iter_mut().zip(&wanted[..count]) {
                    *ready = self.never_blocks(*wanted);
                }
                return count;
            }
        }
        for (ready, handle) in ready.iter_mut().zip(&handles[..count]) {
            *ready = !handle.revents().is_empty();
        }
        count
    }

    /// Whether it can be tried without knowing that it is ready.
    fn never_blocks(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Keyboard => false,
            Wanted::Output(at) => {
                let output = self.streams[at].output.as_ref();
                output.is_some_and(Output::never_waits)
            }
            Wanted::Control | Wanted::Child | Wanted::Keys | Wanted::Stream(_) => true,
        }
    }

    fn source<'s>(&'s self, stream: &'s Stream) -> Option<BorrowedFd<'s>> {
        match &stream.pipe {
            Some(pipe) => Some(pipe.as_fd()),
            None => self.pty.as_ref().map(Pty::as_fd),
        }
    }

    fn takes_keys(&self) -> bool {
        let is_ours = |keyboard: &Keyboard| keyboard.is_ours();
        self.keys.is_empty() && self.keyboard.as_ref().is_some_and(is_ours)
    }

    /// How long nothing is to be done of our own accord.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let partial = self
            .streams
            .iter()
            .filter_map(|stream| stream.lines.deadline());
        let linger = self
            .exit
            .and_then(|_| self.active.checked_add(self.linger))
            // While who is in front is slow, it is for them to move.
            .filter(|_| !self.waits_for_front());
        let mut soonest = partial
            .chain(linger)
            .chain(self.held_until)
            .chain(self.raw.flush_due())
            .min()
            .map(|time| time.saturating_duration_since(now));
        let mut look_after = |interval| {
            soonest = Some(soonest.map_or(interval, |time: Duration| time.min(interval)));
        };
        if self.exit.is_none() && self.child.changed().is_none() {
            look_after(ASK_INTERVAL);
        }
        if self.is_in_background() {
            look_after(BACKGROUND_INTERVAL);
        }
        soonest
    }

    fn waits_for_front(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.output.as_ref().is_some_and(Output::has_pending))
    }

    /// A terminal is in front whose keys are not ours now.
    fn is_in_background(&self) -> bool {
        let keyboard = self.keyboard.as_ref();
        self.exit.is_none()
            && keyboard.is_some_and(|keyboard| !keyboard.is_ours() && !keyboard.is_aside())
    }

    /// What is due, and what changed while nobody told.
    fn tend(&mut self) {
        if self
            .raw
            .flush_due()
            .is_some_and(|due| due <= Instant::now())
        {
            self.raw.flush();
        }
        if self.held_until.is_some_and(|until| until <= Instant::now()) {
            self.give_up_held();
        }
        for stream in &mut self.streams {
            if stream
                .lines
                .deadline()
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                stream.lines.flush_partial(&mut self.notes.publisher);
            }
        }
        if self.is_in_background() {
            self.look();
        }
    }

    /// What was asked for from outside.
    fn heed(&mut self) {
        let asked = self.controller.take();
        if asked.looks() {
            self.look();
        }
        for signal in asked.signals() {
            if self.exit.is_some() {
                self.is_hurried = true;
            } else if let Some(signal) = Signal::from_named_raw(signal) {
                self.pass_on(signal);
            }
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        self.passed_on |= 1 << signal.as_raw();
        self.child.signal(signal);
        if signal == Signal::HUP {
            // As the kernel does: who is stopped is to hear of it as well.
            self.child.signal(Signal::CONT);
        }
    }

    /// A terminal aside of standard input is left alone until the command reads keys: until then they are the shell's.
    fn take_keyboard(&mut self) {
        let Some(keyboard) = &mut self.keyboard else {
            return;
        };
        if !keyboard.is_aside() || self.pty.as_ref().is_some_and(reads_keys) {
            keyboard.take();
        }
    }

    /// Keys and size of the terminal in front are ours where we are in the foreground.
    fn look(&mut self) {
        if self.exit.is_some() {
            return;
        }
        self.take_keyboard();
        let (Some(front), Some(terminal)) = (self.sized_by, &self.pty) else {
            return;
        };
        // Set to what it is already, nobody is told.
        let Some(size) = terminal.resize_as(front).filter(|size| *size != self.size) else {
            return;
        };
        self.size = size;
        self.raw.resize(size);
        for stream in &mut self.streams {
            stream.lines.set_columns(size.columns);
        }
    }

    fn hear_of_child(&mut self) {
        let exit = match self.child.report() {
            Ok(Some(Report::Ended(exit))) => exit,
            Ok(Some(Report::Stopped(signal))) => return self.stop_too(signal),
            Ok(Some(Report::Started(_)) | None) => return,
            Err(error) => {
                let text = format!("the command has ended, and nobody can tell how: {error}");
                self.notes.say(Level::Error, &text);
                UNKNOWN_EXIT
            }
        };
        self.exit = Some(exit);
        self.active = Instant::now();
        self.ended = Some(self.started.elapsed());
    }

    /// Ctrl-Z: the shell in front is to see us stopped, and when it lets us go on, so does the command.
    fn stop_too(&mut self, signal: i32) {
        let Some(keyboard) = &mut self.keyboard else {
            return;
        };
        if !keyboard.is_ours() {
            return;
        }
        // What it drew before it stopped, such as leaving the full screen.
        self.read_stream(0);
        if let Some(output) = self
            .streams
            .first_mut()
            .and_then(|stream| stream.output.as_mut())
        {
            let _ = output.write_pending();
        }
        let Some(keyboard) = &mut self.keyboard else {
            return;
        };
        keyboard.restore();
        // Returns when we go on. Where nobody could continue us the kernel does not stop us, and we go on at once.
        let _ = match signal {
            signal if signal == Signal::STOP.as_raw() => kill_process(getpid(), Signal::STOP),
            // All that the shell started with us: the kernel would have told them all.
            _ => kill_current_process_group(Signal::TSTP),
        };
        self.look();
        self.child.signal(Signal::CONT);
    }

    fn read_keys(&mut self) {
        let mut bytes = [0; KEYS_BYTES];
        let Some(keyboard) = &self.keyboard else {
            return;
        };
        match rustix::io::read(keyboard.handle(), &mut bytes) {
            Ok(0) | Err(Errno::IO) => self.front_is_gone(),
            Ok(count) => {
                self.keys.extend_from_slice(&bytes[..count]);
                self.write_keys();
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.keyboard = None,
        }
    }

    fn write_keys(&mut self) {
        let Some(terminal) = &self.pty else {
            return;
        };
        let echo = echo(terminal);
        match rustix::io::write(terminal, &self.keys) {
            Ok(count) => {
                self.replies.typed(&self.keys[..count], echo);
                self.keys.drain(..count);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody has the terminal open.
            Err(_) => self.keys.clear(),
        }
    }

    /// The terminal in front was closed: the command hears of it as it would have without us.
    fn front_is_gone(&mut self) {
        self.keyboard = None;
        self.sized_by = None;
        for stream in &mut self.streams {
            stream.output = None;
        }
        if self.exit.is_none() {
            self.pass_on(Signal::HUP);
        }
    }

    fn lose_output(&mut self, at: usize, why: Gone) {
        match why {
            Gone::Terminal => self.front_is_gone(),
            Gone::Reader => {
                self.streams[at].output = None;
                if self.exit.is_none() {
                    self.child.signal(Signal::PIPE);
                }
            }
            Gone::Failed(error) => {
                self.streams[at].output = None;
                let text =
                    format!("standard output took no more: {error}; it goes on in the log alone");
                self.notes.say(Level::Error, &text);
                self.warnings.push(text);
            }
        }
    }

    fn write_on(&mut self, at: usize) {
        if let Some(output) = &mut self.streams[at].output {
            let result = output.write_pending();
            // The silence of those who could not be read is none.
            self.active = Instant::now();
            if let Err(gone) = result {
                self.lose_output(at, gone);
            }
        }
    }

    fn read_stream(&mut self, at: usize) {
        for _ in 0..READS_IN_A_ROW {
            let stream = &self.streams[at];
            if !stream.is_open || !stream.output.as_ref().is_none_or(Output::has_room) {
                return;
            }
            let read = match (&stream.pipe, &self.pty) {
                (Some(pipe), _) => rustix::io::read(pipe, &mut self.buffer[..]),
                (None, Some(terminal)) => rustix::io::read(terminal, &mut self.buffer[..]),
                (None, None) => Ok(0),
            };
            match read {
                Ok(0) | Err(Errno::IO) => {
                    self.streams[at].is_open = false;
                    return;
                }
                Ok(count) => {
                    self.take(at, count);
                    if count < BUSY_BYTES {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Passes on what was read into the buffer.
    fn take(&mut self, at: usize, count: usize) {
        self.output_bytes += count as u64;
        if self.exit.is_some() {
            self.active = Instant::now();
        }
        let is_aside = |keyboard: &Keyboard| keyboard.is_aside() && !keyboard.is_ours();
        if self.keyboard.as_ref().is_some_and(is_aside) {
            self.take_keyboard();
        }
        let bytes = &self.buffer[..count];
        let adds_returns = self.translates && self.pty.as_ref().is_some_and(wants_returns);
        if adds_returns {
            self.translated.clear();
            add_returns(bytes, &mut self.translated);
        }
        let stream = &mut self.streams[at];
        let mut lost = None;
        if let Some(output) = &mut stream.output {
            // A terminal that is not in raw mode adds its own.
            let is_raw = self.keyboard.as_ref().is_some_and(Keyboard::is_ours);
            let given = match adds_returns && is_raw && output.is_terminal() {
                true => &self.translated,
                false => bytes,
            };
            self.is_inside_line = bytes.last() != Some(&b'\n');
            lost = output.write(given).err();
        }
        let kept = match self.pty {
            Some(_) => self.replies.filter(bytes, &mut self.kept),
            None => bytes,
        };
        stream.lines.push(self.notes, kept);
        if adds_returns && !std::ptr::eq(kept, bytes) {
            self.translated.clear();
            add_returns(kept, &mut self.translated);
        }
        self.raw
            .output(if adds_returns { &self.translated } else { kept });
        self.held_until = match self.replies.is_holding() {
            true => Some(Instant::now() + HOLD),
            false => None,
        };
        if let Some(gone) = lost {
            self.lose_output(at, gone);
        }
    }

    /// What might have become the echo of an answer has not.
    fn give_up_held(&mut self) {
        self.held_until = None;
        let kept = self.replies.flush(&mut self.kept);
        if let Some(stream) = self.streams.first_mut() {
            stream.lines.push(self.notes, kept);
        }
        // It is the start of an escape sequence at most: no newline is in it.
        self.raw.output(kept);
    }

    fn finish(mut self) -> Ending {
        let exit = self.exit.unwrap_or(Exit::Code(0));
        let duration = self.ended.unwrap_or_else(|| self.started.elapsed());
        if self.replies.is_holding() {
            self.give_up_held();
        }
        for stream in &mut self.streams {
            stream.lines.finish(self.notes);
        }
        let can_wait = self.bus.consumer().is_some();
        if let Err(error) = self.raw.finish(exit, can_wait) {
            let text = error.to_string();
            self.notes.say(Level::Error, &text);
            self.warnings.push(text);
        }
        let counts = self.notes.counts();
        if counts.dropped() > 0 {
            let text = format!(
                "{} of {} lines were dropped (lane full {}, deadline passed {}, too long {}): raise `lane-bytes` of the \
                 rule for log:*, or see why the daemon is slow",
                counts.dropped(),
                counts.published,
                counts.dropped_full,
                counts.dropped_deadline,
                counts.dropped_too_long
            );
            self.notes.say(Level::Warn, &text);
        }
        let seconds = duration.as_secs_f64();
        let level = match exit == Exit::Code(0) || was_asked_for(exit, self.passed_on) {
            true => Level::Info,
            false => Level::Error,
        };
        let text = format!("{exit} after={seconds:.1}s");
        self.notes.say_last(self.bus, level, &text);
        Ending {
            exit,
            output_bytes: self.output_bytes,
            lines: self.notes.finish(),
            is_at_line_start: !self.is_inside_line,
            warnings: self.warnings,
            duration,
        }
    }
}

/// Whether it ended by a signal that was passed on to it; shells and runtimes say that as 128 and its number. SIGKILL
/// is what is left when another was not heard, and no order to end then.
fn was_asked_for(exit: Exit, passed_on: u64) -> bool {
    let asked = |signal: u8| passed_on & (1 << signal) != 0;
    match exit.code().checked_sub(128) {
        Some(signal) if i32::from(signal) == libc::SIGKILL => {
            passed_on & !(1 << libc::SIGCONT) == 1 << libc::SIGKILL
        }
        Some(signal @ 1..64) => asked(signal),
        _ => false,
    }
}

/// The command's terminal is set as the one in front, where there is one.
fn set_modes(terminal: &Pty, keyboard: Option<&Keyboard>, translates: bool) -> Result<(), Error> {
    let modes = || -> Result<(), Errno> {
        let mut modes = match keyboard {
            Some(keyboard) => keyboard.modes().clone(),
            None => {
                let mut modes = terminal.modes()?;
                modes.input_modes |= InputModes::IUTF8;
                modes
            }
        };
        if translates {
            modes.output_modes -= OutputModes::ONLCR;
        }
        terminal.set_modes(&modes)
    };
    modes().map_err(|error| failed("setting terminal modes", error))
}

/// Whether the command's terminal is as we have set it, so that the returns are ours to add.
fn wants_returns(terminal: &Pty) -> bool {
    terminal.modes().is_ok_and(|modes| {
        modes.local_modes.contains(LocalModes::ICANON)
            && modes.output_modes.contains(OutputModes::OPOST)
            && !modes.output_modes.contains(OutputModes::ONLCR)
    })
}

/// Whether the command takes what is typed by the key, or hides it, as for a password.
fn reads_keys(terminal: &Pty) -> bool {
    let of_lines = LocalModes::ICANON | LocalModes::ECHO;
    (terminal.modes()).is_ok_and(|modes| !modes.local_modes.contains(of_lines))
}

/// What the terminal does now with what is typed.
fn echo(terminal: &Pty) -> Echo {
    let modes = terminal.modes().map(|modes| modes.local_modes);
    let modes = modes.unwrap_or(LocalModes::empty());
    match (
        modes.contains(LocalModes::ECHO),
        modes.contains(LocalModes::ECHOCTL),
    ) {
        (false, _) => Echo::None,
        (true, true) => Echo::Caret,
        (true, false) => Echo::Literal,
    }
}

fn set_nonblocking(handle: BorrowedFd<'_>) -> Result<(), Error> {
    let set = || fcntl_setfl(handle, fcntl_getfl(handle)? | OFlags::NONBLOCK);
    set().map_err(|error: Errno| failed("setting a handle to non-blocking", io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use millpond_bus::BusOptions;

    use super::*;
    use crate::lines::View;
    use crate::session::{CommandSpec, Spec};

    fn capture(bus: &Bus, script: &str) -> Capture {
        let command = CommandSpec {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            ..CommandSpec::default()
        };
        let spec = Spec {
            service: "web".to_owned(),
            command,
            mode: Mode::Pipe,
            view: View::Terminal,
            partial_delay: Duration::from_secs(3600),
            level: None,
            raw_to: None,
            linger: Duration::from_secs(3600),
        };
        Capture::open(bus, spec).unwrap()
    }

    fn bus(name: &str) -> Bus {
        let name = format!("engine-{name}-{}", std::process::id());
        Bus::attach(&name, &BusOptions::default()).unwrap()
    }

    #[test]
    fn without_a_handle_on_the_process_its_end_is_asked_for() {
        let bus = bus("handle");
        let mut capture = capture(&bus, "echo out; exec >&- 2>&-; sleep 0.1; exit 7");
        let controller = Controller::new().unwrap();
        let mut engine = Engine::start(&mut capture, Front::Nobody, &controller).unwrap();
        let Child::Plain { ended, .. } = &mut engine.child else {
            panic!("it has pipes");
        };
        *ended = None;
        let ending = engine.run();
        assert_eq!((ending.exit, ending.output_bytes), (Exit::Code(7), 4));
        drop(capture);
        bus.remove().unwrap();
    }

    #[test]
    fn an_end_that_somebody_else_was_told_of_is_an_end() {
        let bus = bus("reaped");
        let mut capture = capture(&bus, "echo out; exit 7");
        let controller = Controller::new().unwrap();
        let engine = Engine::start(&mut capture, Front::Nobody, &controller).unwrap();
        let waited = rustix::process::waitpid(
            Some(engine.child.pid()),
            rustix::process::WaitOptions::empty(),
        );
        assert!(waited.unwrap().is_some());
        let ending = engine.run();
        assert_eq!((ending.exit, ending.output_bytes), (UNKNOWN_EXIT, 4));
        drop(capture);
        bus.remove().unwrap();
    }

    #[test]
    fn ends_that_were_asked_for() {
        let bits = |signals: &[i32]| signals.iter().fold(0, |bits, signal| bits | (1 << signal));
        let stop = bits(&[libc::SIGTERM, libc::SIGCONT]);
        assert!(was_asked_for(Exit::Signal(15), stop));
        assert!(was_asked_for(Exit::Code(143), stop));
        for exit in [
            Exit::Code(1),
            Exit::Signal(9),
            Exit::Signal(2),
            Exit::Code(255),
        ] {
            assert!(!was_asked_for(exit, stop), "{exit:?}");
        }
        assert!(!was_asked_for(
            Exit::Signal(9),
            stop | bits(&[libc::SIGKILL])
        ));
        let kill = bits(&[libc::SIGKILL, libc::SIGCONT]);
        assert!(was_asked_for(Exit::Signal(9), kill));
        assert!(!was_asked_for(Exit::Code(128), u64::MAX));
    }
}
