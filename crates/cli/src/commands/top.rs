//! `millpond top`: what goes on on the bus, on a screen of its own.
//!
//! One thread looks at the bus, one reads keys, one takes signals; the first thread makes a picture of what they say.
//! What is shown is made in three steps, the first two without a terminal:
//! `reading` (what there is) -> `looks`, `model` (what it means, as tables) -> `head`, `screen` (how it looks).

mod figures;
mod gpus;
mod head;
mod looks;
pub(crate) mod model;
mod once;
mod reading;
mod screen;
mod table;
mod terminal;
mod ui;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use ratatui::crossterm::event::{self, Event, KeyEvent};

use self::looks::{Looks, Shown};
use self::model::{Daemon, Model, View};
use self::reading::{Reader, Reading};
use self::screen::{Page, Theme};
use self::table::Sort;
use self::terminal::Screen;
use self::ui::{Asked, INTERVAL_MAX, INTERVAL_MIN, Ui};
use crate::Run;
use crate::args::Settings;
use crate::flags::TopFlags;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::signals::{self, OnScreen};
use crate::units::format_duration;

/// Where nobody says how wide it is: every column.
const COLUMNS_UNKNOWN: usize = 240;

pub(crate) fn run(flags: &TopFlags, settings: &Settings) -> Run {
    let interval = flags.interval;
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        return Err(Failure::new(format!(
            "--interval {} is outside {} to {}",
            format_duration(interval),
            format_duration(INTERVAL_MIN),
            format_duration(INTERVAL_MAX)
        )));
    }
    let sort = sort(flags)?;
    let zone = match flags.utc {
        true => TimeZone::UTC,
        false => TimeZone::system(),
    };
    if flags.once {
        return look_once(flags, sort, settings, &zone);
    }
    if settings.json {
        return Err(Failure::new(
            "--json has no screen: use `millpond top --once --json`",
        ));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::new(
            "`millpond top` needs a terminal for its screen and its keys; in scripts and pipes use \
             `millpond top --once`, with --json or without",
        ));
    }
    let mut ui = Ui::new(flags.view.unwrap_or(View::Sources), &flags.filter, interval);
    if let Some(sort) = sort {
        ui.set_sort(sort);
    }
    watch(ui, settings, zone)
}

/// The column that was asked for.
fn sort(flags: &TopFlags) -> Result<Option<Sort>, Failure> {
    if flags.sort.is_none() && !flags.reverse {
        return Ok(None);
    }
    let view = flags.view.unwrap_or(View::Sources);
    let sort = view.sort(flags.sort.as_deref()).ok_or_else(|| {
        let key = flags.sort.as_deref().unwrap_or_default();
        let keys: Vec<&str> = view.columns().iter().map(|column| column.key).collect();
        Failure::new(format!(
            "--sort {key:?} is no column of {}: use one of {}",
            view.name(),
            keys.join(", ")
        ))
    })?;
    Ok(Some(Sort {
        is_descending: sort.is_descending != flags.reverse,
        ..sort
    }))
}

fn look_once(flags: &TopFlags, sort: Option<Sort>, settings: &Settings, zone: &TimeZone) -> Run {
    let mut reader = Reader::new(settings);
    let mut looks = Looks::default();
    looks.take(reader.look());
    // Rates are over this time.
    thread::sleep(flags.interval);
    let model = match looks.take(reader.look()) {
        Shown::Bus(model) => model,
        Shown::NoBus(none) => {
            let bus = none.bus;
            return Err(Failure::new(none.why.unwrap_or_else(|| {
                format!("there is no bus {bus:?}: its daemon or its first publisher makes it")
            })));
        }
    };
    let every = format_duration(flags.interval);
    let asked = once::Asked {
        // `--sort` is of one table.
        view: flags.view.or(sort.map(|_| View::Sources)),
        sort,
        filter: &flags.filter,
        every: &every,
        columns: print::columns(COLUMNS_UNKNOWN),
    };
    let mut out = print::stdout(settings.color);
    match settings.json {
        true => writeln!(out, "{}", once::to_json(&model, &asked))?,
        false => once::print_text(&mut out, &model, &asked, zone)?,
    }
    out.flush()?;
    Ok(Outcome::found(is_well(&model)))
}

/// For scripts: a daemon runs, and nothing was lost in the interval.
fn is_well(model: &Model) -> bool {
    model.daemon == Daemon::Runs && !model.is_losing()
}

/// What the first thread is told.
enum Message {
    Look(Reading),
    Key(KeyEvent),
    /// The terminal has another size.
    Size,
    /// There are no keys any more: the terminal is gone.
    NoKeys(io::Error),
    Signal(OnScreen),
    /// The thread that looks has ended, which only a panic makes it do.
    NoLooks,
}

fn watch(ui: Ui, settings: &Settings, zone: TimeZone) -> Run {
    let (to_us, messages) = mpsc::channel();
    let (intervals, asked) = mpsc::channel();
    signals::watch_screen({
        let to_us = to_us.clone();
        move |signal| drop(to_us.send(Message::Signal(signal)))
    })?;
    start_looking(settings, ui.interval, to_us.clone(), asked)?;
    let is_coloured = print::is_coloured(settings.color);
    // Keys are read once the terminal is ours.
    let screen = Screen::take(is_coloured)
        .map_err(|error| Failure::new(format!("the terminal cannot be used: {error}")))?;
    start_reading_keys(to_us)?;
    let mut watch = Watch {
        screen,
        ui,
        theme: Theme { is_coloured },
        zone,
        looks: Looks::default(),
        shown: None,
        page: Page::default(),
        intervals,
    };
    let ended = watch.run(&messages);
    // The terminal is as it was before anything is said on it.
    drop(watch);
    ended
}

fn start_looking(
    settings: &Settings,
    mut interval: Duration,
    to_us: Sender<Message>,
    asked: Receiver<Duration>,
) -> Result<(), Failure> {
    /// Tells of the end of the thread, however it ends.
    struct End(Sender<Message>);
    impl Drop for End {
        fn drop(&mut self) {
            let _ = self.0.send(Message::NoLooks);
        }
    }
    let mut reader = Reader::new(settings);
    thread::Builder::new()
        .name("millpond-looks".to_owned())
        .spawn(move || {
            let to_us = End(to_us);
            let mut due = Instant::now();
            loop {
                if to_us.0.send(Message::Look(reader.look())).is_err() {
                    return;
                }
                // A look that took long, or a pause of the whole process, is not made up for.
                due = (due + interval).max(Instant::now());
                let wait = due.saturating_duration_since(Instant::now());
                match asked.recv_timeout(wait) {
                    Ok(other) => {
                        interval = other;
                        due = Instant::now();
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
    Ok(())
}

fn start_reading_keys(to_us: Sender<Message>) -> Result<(), Failure> {
    thread::Builder::new()
        .name("millpond-keys".to_owned())
        .spawn(move || {
            loop {
                let message = match event::read() {
                    Ok(Event::Key(key)) => Message::Key(key),
                    Ok(Event::Resize(..)) => Message::Size,
                    Ok(_) => continue,
                    Err(error) => Message::NoKeys(error),
                };
                let is_last = matches!(message, Message::NoKeys(_));
                if to_us.send(message).is_err() || is_last {
                    return;
                }
            }
        })?;
    Ok(())
}

struct Watch {
    screen: Screen,
    ui: Ui,
    theme: Theme,
    zone: TimeZone,
    looks: Looks,
    /// While it is paused: what there was then.
    shown: Option<Shown>,
    page: Page,
    intervals: Sender<Duration>,
}

/// Whether it goes on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Watch {
    fn run(&mut self, messages: &Receiver<Message>) -> Run {
        while let Ok(message) = messages.recv() {
            if self.take(message)? == Then::End {
                return Ok(Outcome::Found);
            }
            // A burst of keys is one picture.
            while let Ok(message) = messages.try_recv() {
                if self.take(message)? == Then::End {
                    return Ok(Outcome::Found);
                }
            }
            self.draw()?;
        }
        Ok(Outcome::Found)
    }

    fn take(&mut self, message: Message) -> Result<Then, Failure> {
        match message {
            Message::Look(reading) => {
                let shown = self.looks.take(reading);
                if !self.ui.is_paused || self.shown.is_none() {
                    self.shown = Some(shown);
                }
            }
            Message::Key(key) => {
                let Page { rows_shown, rows } = self.page;
                match self.ui.key(key, rows_shown, rows) {
                    Asked::Nothing => {}
                    Asked::Redraw => self.screen.clear()?,
                    Asked::Interval(interval) => drop(self.intervals.send(interval)),
                    Asked::Suspend => self.suspend()?,
                    Asked::Quit => return Ok(Then::End),
                }
            }
            Message::Size => {}
            Message::NoKeys(error) => {
                return Err(Failure::new(format!("the terminal is gone: {error}")));
            }
            Message::Signal(OnScreen::Stop) => return Ok(Then::End),
            Message::Signal(OnScreen::Suspend) => self.suspend()?,
            // Somebody else has had the terminal.
            Message::Signal(OnScreen::Continued) => self.screen.resume()?,
            Message::NoLooks => {
                return Err(Failure::new("the thread that looks at the bus has ended"));
            }
        }
        Ok(Then::GoOn)
    }

    /// The shell has the terminal until it continues us.
    fn suspend(&mut self) -> Result<(), Failure> {
        self.screen.pause();
        signals::stop_ourselves()?;
        Ok(self.screen.resume()?)
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let Some(shown) = &self.shown else {
            return Ok(());
        };
        let mut page = Page::default();
        self.screen.draw(|frame| {
            page = screen::draw(frame, shown, &self.ui, self.theme, &self.zone);
        })?;
        self.page = page;
        Ok(())
    }
}
