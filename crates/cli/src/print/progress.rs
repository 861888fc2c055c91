//! Progress of long work: one line at the bottom of standard error, where that is a terminal.
//!
//! The line appears when the work has taken [`DELAY`], is drawn by a thread of its own (so that the time left also goes on
//! where one step takes long), and goes without a trace: at the end of the work, when it fails, before a message is
//! printed, and at Ctrl-C. What comes out on standard output is never mixed with it: see [`Progress::for_output`].

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{
    HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike,
};
use millpond_logfile::QueryProgress;
use rustix::fs::FileType;

use crate::signals;
use crate::units::human_size;

/// Work that takes less shows nothing: a line that flashes up says nothing either.
const DELAY: Duration = Duration::from_millis(500);
/// How often the line is drawn.
const INTERVAL: Duration = Duration::from_millis(100);
/// A process that shall end does not wait longer for a terminal that takes nothing.
const CLEAR_PATIENCE: Duration = Duration::from_millis(500);
/// On less, the bar and the share that is done are all there is room for.
const COLUMNS_FULL: u16 = 60;
const COLUMNS_DEFAULT: u16 = 80;
/// The line leaves them free: there the terminal writes `^C`, which in the last column would go to the next line, and
/// the bar could not be taken away from there.
const COLUMNS_FREE: u16 = 3;

/// The line that is on the screen. One at a time: a command does one thing after the other.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);
/// A signal has ended the process, as good as: nothing is drawn any more.
static IS_OVER: AtomicBool = AtomicBool::new(false);
static WATCHES: Once = Once::new();

/// Brings the line up to date.
type Refresh = dyn Fn(&ProgressBar) + Send;

/// The progress of one piece of work. Clones are of the same line; it goes with [`Progress::finish`], or the last of them.
#[derive(Clone, Default)]
pub(crate) struct Progress(Option<Arc<Line>>);

struct Line {
    bar: ProgressBar,
    is_done: Arc<(Mutex<bool>, Condvar)>,
    drawing: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// Shows nothing, ever.
    pub(crate) fn none() -> Self {
        Progress(None)
    }

    /// Of so many bytes. Nobody asks how many where there is no terminal.
    pub(crate) fn of_bytes(total: impl FnOnce() -> u64) -> Self {
        if !io::stderr().is_terminal() {
            return Progress::none();
        }
        let total = total();
        let refresh = move |bar: &ProgressBar| {
            bar.set_message(format!(
                "{} of {}",
                human_size(bar.position()),
                human_size(total)
            ));
        };
        let full = "{wide_bar} {msg}{left}";
        Self::start(Some(total), (full, NARROW), Some(Box::new(refresh)))
    }

    /// Of so many rows, of which some were handled before.
    pub(crate) fn of_rows(total: u64, before: u64) -> Self {
        let full = "{wide_bar} {pos}/{len} rows, {per_sec}{left}";
        let progress = Self::start(Some(total), (full, NARROW), None);
        if let Progress(Some(line)) = &progress {
            line.bar.set_position(before);
            line.bar.reset_eta();
        }
        progress
    }

    /// Of rows that nobody has counted yet.
    pub(crate) fn of_rows_unknown() -> Self {
        let template = "{spinner} looking at {pos} rows";
        Self::start(None, (template, template), None)
    }

    /// Of so many steps that are not counted for anybody, with what is being done: see [`Progress::say`].
    pub(crate) fn of_steps(total: u64) -> Self {
        let full = "{wide_bar} {msg}{left}";
        Self::start(Some(total), (full, NARROW), None)
    }

    /// In words: see [`Progress::say`].
    pub(crate) fn in_words() -> Self {
        let template = "{spinner} {wide_msg}";
        Self::start(None, (template, template), None)
    }

    /// Of a query.
    pub(crate) fn of_query(query: &Arc<QueryProgress>) -> Self {
        let query = Arc::clone(query);
        let refresh = move |bar: &ProgressBar| {
            bar.set_position((query.share() * QUERY_STEPS as f64) as u64);
            bar.set_message(human_size(query.text_bytes_read()));
        };
        let full = "{wide_bar} {percent}%, {msg} searched{left}";
        let narrow = "{wide_bar} {percent}%, {msg}{left}";
        Self::start(Some(QUERY_STEPS), (full, narrow), Some(Box::new(refresh)))
    }

    /// This, as long as it cannot get into what the command puts out.
    ///
    /// To a file: all the way. To a terminal: until the first line comes, see [`Output`]. To a pipe: not at all, since who
    /// reads it may write to this very terminal, as a pager does.
    pub(crate) fn for_output(make: impl FnOnce() -> Self) -> Self {
        match is_pipe(&io::stdout()) {
            true => Progress::none(),
            false => make(),
        }
    }

    fn start(
        length: Option<u64>,
        (full, narrow): (&'static str, &'static str),
        refresh: Option<Box<Refresh>>,
    ) -> Self {
        if !io::stderr().is_terminal() {
            return Progress::none();
        }
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
        let is_done = Arc::new((Mutex::new(false), Condvar::new()));
        let (of_thread, done_of_thread) = (bar.clone(), Arc::clone(&is_done));
        let drawing = std::thread::Builder::new()
            .name("millpond-progress".to_owned())
            .spawn(move || {
                draw(
                    &of_thread,
                    &done_of_thread,
                    (full, narrow),
                    refresh.as_deref(),
                );
            });
        // Without a thread there is no line, and the work is done all the same.
        let Ok(drawing) = drawing else {
            return Progress::none();
        };
        Progress(Some(Arc::new(Line {
            bar,
            is_done,
            drawing: Mutex::new(Some(drawing)),
        })))
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        if let Some(line) = &self.0 {
            line.bar.inc(more);
        }
    }

    /// So much is done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(line) = &self.0 {
            line.bar.set_position(done);
        }
    }

    /// What is being done; cut to the width of the terminal.
    pub(crate) fn say(&self, what: impl Into<String>) {
        if let Some(line) = &self.0 {
            line.bar.set_message(what.into());
        }
    }

    /// Takes the line away, for good.
    pub(crate) fn finish(&self) {
        if let Some(line) = &self.0 {
            line.finish();
        }
    }
}

/// Of a query, whose share of what is done is no number of things.
const QUERY_STEPS: u64 = 10_000;

/// The time that is left, once there is something to tell it from.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 {
        // A string takes everything.
        let _ = write!(out, ", {:#} left", HumanDuration(state.eta()));
    }
}

/// For terminals that are too narrow for more.
const NARROW: &str = "{wide_bar} {percent}%{left}";

impl Line {
    fn finish(&self) {
        let (is_done, changed) = &*self.is_done;
        *lock(is_done) = true;
        changed.notify_all();
        if let Some(drawing) = lock(&self.drawing).take() {
            // It has not panicked, and if it has the line does not matter.
            let _ = drawing.join();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Standard error, as something that is drawn on: each drawing in one write.
#[derive(Debug, Default)]
struct Screen {
    pending: Mutex<String>,
}

impl Screen {
    fn put(&self, text: &str) -> io::Result<()> {
        lock(&self.pending).push_str(text);
        Ok(())
    }

    fn go(&self, count: usize, letter: char) -> io::Result<()> {
        match count {
            0 => Ok(()),
            count => self.put(&format!("\x1b[{count}{letter}")),
        }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        let size = rustix::termios::tcgetwinsize(io::stderr());
        let columns = size.map_or(0, |size| size.ws_col);
        let columns = if columns == 0 {
            COLUMNS_DEFAULT
        } else {
            columns
        };
        columns.saturating_sub(COLUMNS_FREE).max(1)
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.go(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.go(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.go(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.go(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text)?;
        self.put("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *lock(&self.pending));
        io::stderr().write_all(text.as_bytes())
    }
}

/// What the thread does.
fn draw(
    bar: &ProgressBar,
    (is_done, changed): &(Mutex<bool>, Condvar),
    (full, narrow): (&str, &str),
    refresh: Option<&Refresh>,
) {
    let mut pause = DELAY;
    let mut is_done = lock(is_done);
    let mut is_shown = false;
    loop {
        let waited = changed.wait_timeout_while(is_done, pause, |is_done| !*is_done);
        is_done = waited.unwrap_or_else(PoisonError::into_inner).0;
        if *is_done {
            break;
        }
        refresh.inspect(|refresh| refresh(bar));
        let mut shown = lock(&SHOWN);
        // ORDERING: Relaxed; both are under the lock.
        if IS_OVER.load(Ordering::Relaxed) {
            return;
        }
        if !std::mem::replace(&mut is_shown, true) {
            WATCHES.call_once(watch_signals);
            let is_narrow = Screen::default().width() < COLUMNS_FULL;
            if let Ok(style) = ProgressStyle::with_template(if is_narrow { narrow } else { full }) {
                bar.set_style(style.with_key("left", left));
            }
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(Screen::default())));
            *shown = Some(bar.clone());
            pause = INTERVAL;
        }
        bar.tick();
    }
    if is_shown {
        *lock(&SHOWN) = None;
        bar.finish_and_clear();
    }
}

/// Ctrl-C, and a request to end: the line goes first, then the process does what it would have done without us. Where the
/// command has set out to stop in order (`import`), that goes on beside it.
fn watch_signals() {
    let watched = signals::watch_default(|| {
        let (cleared, is_cleared) = mpsc::channel();
        let clearing = std::thread::Builder::new().spawn(move || {
            let mut shown = lock(&SHOWN);
            // ORDERING: Relaxed; under the lock.
            IS_OVER.store(true, Ordering::Relaxed);
            if let Some(bar) = shown.take() {
                bar.finish_and_clear();
            }
            // Nobody waits any more: it took too long.
            let _ = cleared.send(());
        });
        if clearing.is_ok() {
            // Late or not, the process ends now.
            let _ = is_cleared.recv_timeout(CLEAR_PATIENCE);
        }
    });
    // Without a watch Ctrl-C leaves the line, which is not worth an error.
    drop(watched);
}

/// Does something with standard error while no line of ours is on it.
pub(crate) fn aside<T>(act: impl FnOnce() -> T) -> T {
    match &*lock(&SHOWN) {
        Some(bar) => bar.suspend(act),
        None => act(),
    }
}

/// Whether what is written there goes to another process.
fn is_pipe(out: &io::Stdout) -> bool {
    let kind = rustix::fs::fstat(out).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::Socket))
}

/// Standard output, and a line of progress that goes before anything appears on the same terminal.
pub(crate) struct Output {
    out: io::Stdout,
    /// Taken at the first byte; of a terminal only.
    progress: Progress,
}

impl Output {
    /// Lines of bytes as they are: see `print::data_stdout`.
    pub(crate) fn new(progress: &Progress) -> io::BufWriter<Self> {
        let out = io::stdout();
        let progress = match out.is_terminal() {
            true => progress.clone(),
            false => Progress::none(),
        };
        io::BufWriter::with_capacity(64 << 10, Output { out, progress })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::mem::take(&mut self.progress).finish();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
