//! `millpond tail`: the last lines, and what comes after them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use millpond_logfile::{
    Hit, Order, Query, SegmentId, check_service_name, list_segments, list_services, parse_line,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use crate::Run;
use crate::args::Settings;
use crate::commands::query::{conclude, open, printer};
use crate::flags::TailFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::data_stdout;
use crate::print::hits::HitPrinter;

const READ_BYTES: usize = 1 << 20;

pub(crate) fn run(flags: &TailFlags, settings: &Settings) -> Run {
    for service in &flags.service {
        check_service_name(service)?;
    }
    let with_service = flags.service.len() != 1;
    let mut printer = printer(settings, false, with_service, flags.utc);
    let mut out = data_stdout();
    // What is there when we begin to follow is not shown as new, what comes after it is.
    let mut follower = if flags.follow {
        Some(Follower::start(settings, &flags.service)?)
    } else {
        None
    };
    let reader = open(settings)?;
    let known = flags
        .service
        .iter()
        .any(|service| reader.services().contains(service));
    let mut found = false;
    if flags.service.is_empty() || known {
        let query = Query::new().order(Order::Newest).limit(flags.lines);
        let query = flags
            .service
            .iter()
            .fold(query, |query, service| query.service(service));
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let report = reader.run(&query, &mut |hit| {
            let newer = follower
                .as_ref()
                .is_some_and(|follower| follower.is_ahead(&hit));
            let mut line = Vec::new();
            if !newer && printer.print(&mut line, &hit).is_ok() {
                lines.push(line);
            }
            ControlFlow::Continue(())
        })?;
        for line in lines.iter().rev() {
            out.write_all(line)?;
        }
        out.flush()?;
        found = report.matched > 0;
        if follower.is_none() {
            return conclude(&report, settings);
        }
    }
    match &mut follower {
        None => Ok(Outcome::found(found)),
        Some(follower) => loop {
            follower.print_new(&mut printer, &mut out)?;
            out.flush()?;
            follower.wait()?;
        },
    }
}

/// How far each service has been shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    segment: SegmentId,
    offset: u64,
}

struct Follower {
    logs_dir: PathBuf,
    /// Empty: all.
    wanted: Vec<String>,
    shown: BTreeMap<String, Shown>,
    watch: rustix::fd::OwnedFd,
    watched: Vec<PathBuf>,
}

impl Follower {
    fn start(settings: &Settings, wanted: &[String]) -> Result<Self, Failure> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let mut follower = Follower {
            logs_dir: settings.logs.clone(),
            wanted: wanted.to_vec(),
            shown: BTreeMap::new(),
            watch,
            watched: Vec::new(),
        };
        std::fs::create_dir_all(&settings.logs).or_else(|error| match settings.logs.is_dir() {
            true => Ok(()),
            false => Err(error),
        })?;
        for service in follower.services()? {
            let dir = follower.logs_dir.join(&service);
            if let Some(&segment) = list_segments(&dir)?.last() {
                let offset = whole_lines_end(&segment.log_path(&dir), 0)?;
                follower.shown.insert(service, Shown { segment, offset });
            }
        }
        Ok(follower)
    }

    /// The services to follow that exist now, each watched.
    fn services(&mut self) -> Result<Vec<String>, Failure> {
        self.add_watch(self.logs_dir.clone())?;
        let mut services = list_services(&self.logs_dir)?;
        if !self.wanted.is_empty() {
            services.retain(|service| self.wanted.contains(service));
        }
        for service in &services {
            self.add_watch(self.logs_dir.join(service))?;
        }
        Ok(services)
    }

    fn add_watch(&mut self, path: PathBuf) -> Result<(), Failure> {
        if self.watched.contains(&path) {
            return Ok(());
        }
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&self.watch, &path, flags | inotify::WatchFlags::MOVED_TO)
            .map_err(io::Error::from)?;
        self.watched.push(path);
        Ok(())
    }

    /// Whether a hit will be shown by following.
    fn is_ahead(&self, hit: &Hit<'_>) -> bool {
        match self.shown.get(hit.service) {
            Some(shown) => {
                Shown {
                    segment: hit.segment_id,
                    offset: hit.offset,
                } >= *shown
            }
            None => true,
        }
    }

    fn print_new(&mut self, printer: &mut HitPrinter, out: &mut dyn Write) -> Result<(), Failure> {
        for service in self.services()? {
            let dir = self.logs_dir.join(&service);
            for segment in list_segments(&dir)? {
                let from = match self.shown.get(&service) {
                    Some(shown) if segment < shown.segment => continue,
                    Some(shown) if segment == shown.segment => shown.offset,
                    _ => 0,
                };
                let path = segment.log_path(&dir);
                let offset = print_from(&path, segment, from, &service, printer, out)?;
                self.shown
                    .insert(service.clone(), Shown { segment, offset });
            }
        }
        Ok(())
    }

    /// Sleeps until something in the watched directories changes.
    /// Sleeps until something changes; an error when nobody can read what we print any more.
    fn wait(&self) -> Result<(), Failure> {
        let stdout = io::stdout();
        let mut ends = [
            PollFd::new(&self.watch, PollFlags::IN),
            PollFd::new(&stdout, PollFlags::empty()),
        ];
        while let Err(errno) = poll(&mut ends, None) {
            if errno != rustix::io::Errno::INTR {
                return Err(io::Error::from(errno).into());
            }
        }
        if ends[1]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)
        {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.watch.as_fd(), &mut buffer);
        match events.next() {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        // One wake-up for everything that came together.
        while !events.is_buffer_empty() {
            if events.next().is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Prints the whole lines from `from` on; returns where the next one starts.
fn print_from(
    path: &std::path::Path,
    segment_id: SegmentId,
    from: u64,
    service: &str,
    printer: &mut HitPrinter,
    out: &mut dyn Write,
) -> Result<u64, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        // Trimmed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(from),
        Err(error) => return Err(error.into()),
    };
    let mut at = from;
    let mut text = Vec::new();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let count = file.read_at(&mut chunk, at + text.len() as u64)?;
        if count == 0 {
            return Ok(at);
        }
        text.extend_from_slice(&chunk[..count]);
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', &text) {
            let line = &text[start..newline];
            if let Ok(parsed) = parse_line(line) {
                let hit = Hit {
                    service,
                    segment_id,
                    offset: at + start as u64,
                    time_ns: parsed.time_ns,
                    level: parsed.level,
                    source: parsed.source,
                    message: parsed.message,
                    line,
                };
                printer.print(out, &hit)?;
            }
            start = newline + 1;
        }
        text.drain(..start);
        at += start as u64;
    }
}

/// Where the last whole line of a file ends.
fn whole_lines_end(path: &std::path::Path, from: u64) -> Result<u64, Failure> {
    let file = File::open(path)?;
    let mut end = file.metadata()?.len();
    let mut chunk = vec![0; 64 << 10];
    while end > from {
        let start = end.saturating_sub(chunk.len() as u64).max(from);
        let length = (end - start) as usize;
        file.read_exact_at(&mut chunk[..length], start)?;
        if let Some(at) = memchr::memrchr(b'\n', &chunk[..length]) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}
