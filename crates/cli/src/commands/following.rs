//! Lines behind a point in the log, and those that are written later.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millpond_logfile::{
    CommittedEnd, Cursor, Followed, Follower, LeftOut, LineMatcher, Told, list_services,
    written_end,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::args::Settings;
use crate::commands::query::{Asked, warn_of_left_out};
use crate::outcome::Failure;
use crate::print::hits::HitPrinter;
use crate::print::{self};
use crate::signals;

/// How often services are looked at that the system has no watch left for.
const UNWATCHED_SECONDS: i64 = 1;

/// Prints what it is given, up to a number of lines.
pub(crate) struct Printed<'o> {
    pub(crate) printer: HitPrinter,
    pub(crate) out: &'o mut dyn Write,
    pub(crate) lines: u64,
    /// Lines still to print.
    pub(crate) left: Option<u64>,
    /// Not told yet.
    pub(crate) left_out: LeftOut,
}

/// Reads on from a cursor, with the conditions of a query.
pub(crate) struct Following<'s> {
    settings: &'s Settings,
    /// Empty: all.
    wanted: Vec<String>,
    follower: Follower,
    matcher: LineMatcher,
    /// Records in the place of lines.
    unfold: bool,
    /// Services that could not be read, told once.
    unreadable: BTreeSet<String>,
}

impl<'s> Following<'s> {
    pub(crate) fn new(settings: &'s Settings, asked: &Asked, cursor: Cursor) -> Self {
        let follower = Follower::new(&settings.logs, cursor);
        Following {
            settings,
            wanted: asked.services.clone(),
            follower: match asked.unfold {
                true => follower.unfold(),
                false => follower,
            },
            matcher: asked.query.matcher(),
            unfold: asked.unfold,
            unreadable: BTreeSet::new(),
        }
    }

    /// Behind what was printed.
    pub(crate) fn cursor(&self) -> Cursor {
        self.follower.cursor()
    }

    /// Whether all that was asked for could be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Prints what is written by now, of the services in `changed`, or of all there are.
    pub(crate) fn print_new(
        &mut self,
        changed: Option<&BTreeSet<String>>,
        printed: &mut Printed<'_>,
    ) -> Result<(), Failure> {
        if printed.left == Some(0) {
            return Ok(());
        }
        match changed {
            Some(changed) => changed
                .iter()
                .for_each(|service| self.follower.add_service(service)),
            None => services(&self.settings.logs, &self.wanted)?
                .iter()
                .for_each(|service| self.follower.add_service(service)),
        }
        let failures = RefCell::new(Vec::new());
        let limit = |service: &str| -> Option<CommittedEnd> {
            if changed.is_some_and(|changed| !changed.contains(service)) {
                return None;
            }
            let end = written_end(&self.settings.logs.join(service));
            end.unwrap_or_else(|error| {
                failures.borrow_mut().push((service.to_owned(), error));
                None
            })
        };
        let (color, matcher) = (self.settings.color, &mut self.matcher);
        let unfold = self.unfold;
        let mut failed = None;
        self.follower.read(&limit, &mut |found| {
            let hit = match found {
                Followed::Line { hit, .. } if unfold && hit.source == Told::SOURCE => {
                    printed.left_out.add(hit.message);
                    return ControlFlow::Continue(());
                }
                Followed::Line { hit, .. } if matcher.matches(hit.line) => hit,
                Followed::Line { .. } => return ControlFlow::Continue(()),
                Followed::Gone(gone) => {
                    print::warning_line(color, &gone);
                    return ControlFlow::Continue(());
                }
            };
            failed = printed.printer.print(printed.out, &hit).err();
            printed.lines += 1;
            printed.left = printed.left.map(|left| left - 1);
            match failed.is_some() || printed.left == Some(0) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        warn_of_left_out(&std::mem::take(&mut printed.left_out), self.settings);
        for (service, error) in failures.into_inner() {
            if self.unreadable.insert(service) {
                print::warning_line(color, &error);
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => {
                printed.printer.print_held(printed.out)?;
                Ok(printed.out.flush()?)
            }
        }
    }

    /// Prints what is written until a signal, the number of lines, or a reader that has had enough ends it.
    pub(crate) fn follow(
        &mut self,
        mut watch: Watch,
        printed: &mut Printed<'_>,
    ) -> Result<(), Failure> {
        let mut changed = None;
        while printed.left != Some(0) {
            self.print_new(changed.as_ref(), printed)?;
            if watch.is_stopped() {
                break;
            }
            changed = watch.wait(&self.wanted)?;
        }
        Ok(())
    }
}

/// The services there are, of those that are wanted.
fn services(logs_dir: &Path, wanted: &[String]) -> Result<Vec<String>, Failure> {
    let mut services = list_services(logs_dir)?;
    if !wanted.is_empty() {
        services.retain(|service| wanted.contains(service));
    }
    Ok(services)
}

/// Sleeps until something is written, without using the processor.
pub(crate) struct Watch {
    logs_dir: PathBuf,
    inotify: OwnedFd,
    /// The service of each watch; of the log directory itself, `None`.
    watched: BTreeMap<i32, Option<Arc<str>>>,
    watched_services: BTreeSet<Arc<str>>,
    /// The system has no more watches: services are looked at from time to time instead.
    is_short: bool,
    stop: Arc<OwnedFd>,
    is_stopped: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to watch: what is written from now on ends a wait. Signals end it in order.
    pub(crate) fn start(logs_dir: &Path, wanted: &[String]) -> Result<Self, Failure> {
        // Who follows may be there before whoever writes.
        std::fs::create_dir_all(logs_dir).or_else(|error| match logs_dir.is_dir() {
            true => Ok(()),
            false => Err(error),
        })?;
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(io::Error::from)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (ring, flag) = (Arc::clone(&stop), Arc::clone(&is_stopped));
        signals::watch_stop(move |_| {
            // ORDERING: Release; seen by the loop once the descriptor has woken it.
            flag.store(true, Ordering::Release);
            // Eight bytes are added to its number, whatever they are; that fits, since there are two signals at most.
            let _ = rustix::io::write(&*ring, &[1; 8]);
        })?;
        let mut watch = Watch {
            logs_dir: logs_dir.to_owned(),
            inotify,
            watched: BTreeMap::new(),
            watched_services: BTreeSet::new(),
            is_short: false,
            stop,
            is_stopped,
        };
        watch.add(None)?;
        watch.add_services(wanted)?;
        Ok(watch)
    }

    fn is_stopped(&self) -> bool {
        // ORDERING: Acquire; set before the descriptor is written.
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Watches the services that are not watched yet. Returns these.
    fn add_services(&mut self, wanted: &[String]) -> Result<BTreeSet<String>, Failure> {
        let mut new = BTreeSet::new();
        for service in services(&self.logs_dir, wanted)? {
            if !self.watched_services.contains(service.as_str()) {
                let shared: Arc<str> = service.as_str().into();
                self.add(Some(&shared))?;
                self.watched_services.insert(shared);
                new.insert(service);
            }
        }
        Ok(new)
    }

    fn add(&mut self, service: Option<&Arc<str>>) -> Result<(), Failure> {
        let path = match service {
            Some(service) => self.logs_dir.join(&**service),
            None => self.logs_dir.clone(),
        };
        let flags = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        match inotify::add_watch(&self.inotify, &path, flags) {
            Ok(number) => {
                self.watched.insert(number, service.cloned());
                Ok(())
            }
            // Removed meanwhile, or not ours to read: that is said where it is read.
            Err(Errno::NOENT | Errno::ACCESS) if service.is_some() => Ok(()),
            Err(Errno::NOSPC) => {
                self.is_short = true;
                Ok(())
            }
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }

    /// Sleeps until something changes. Returns the services in which it did; `None`: look at all.
    fn wait(&mut self, wanted: &[String]) -> Result<Option<BTreeSet<String>>, Failure> {
        let stdout = io::stdout();
        let mut ends = [
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(&*self.stop, PollFlags::IN),
            PollFd::new(&stdout, PollFlags::empty()),
        ];
        let timeout = self.is_short.then_some(Timespec {
            tv_sec: UNWATCHED_SECONDS,
            tv_nsec: 0,
        });
        while let Err(errno) = poll(&mut ends, timeout.as_ref()) {
            if errno != Errno::INTR {
                return Err(io::Error::from(errno).into());
            }
        }
        // An error when nobody can read what we print any more.
        if ends[2]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)
        {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        let mut changed = BTreeSet::new();
        let (mut is_all, mut is_new) = (self.is_short, false);
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // One wake-up for everything that came together.
        loop {
            match events.next() {
                Ok(event) => match self.watched.get(&event.wd()) {
                    Some(Some(service)) => {
                        if !changed.contains(&**service) {
                            changed.insert(service.as_ref().to_owned());
                        }
                    }
                    Some(None) => is_new = true,
                    // The queue was full, so that events are missing, or a directory is gone.
                    None => is_all = true,
                },
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        if is_new {
            changed.append(&mut self.add_services(wanted)?);
        }
        Ok((!is_all).then_some(changed))
    }
}
