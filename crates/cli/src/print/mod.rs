//! What people see: colour decided once, lines as text or JSON, tables.

pub(crate) mod events;
pub(crate) mod hits;
pub(crate) mod progress;
pub(crate) mod table;

use std::fmt::Display;
use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use crate::flags::Color;

/// No output is made narrower than this.
const COLUMNS_MIN: usize = 40;

pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const PLAIN: Style = Style::new();

fn choice(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

/// Whether colour belongs on standard output.
pub(crate) fn is_coloured(color: Color) -> bool {
    AutoStream::new(io::stdout(), choice(color)).current_choice() != ColorChoice::Never
}

/// Whether colour belongs on standard error.
pub(crate) fn is_coloured_stderr(color: Color) -> bool {
    AutoStream::new(io::stderr(), choice(color)).current_choice() != ColorChoice::Never
}

/// Standard output for data; styles are stripped where colour does not belong.
pub(crate) fn stdout(color: Color) -> io::BufWriter<AutoStream<io::Stdout>> {
    io::BufWriter::with_capacity(64 << 10, AutoStream::new(io::stdout(), choice(color)))
}

/// Standard output for log lines: every byte goes out as it is.
pub(crate) fn data_stdout() -> io::BufWriter<io::Stdout> {
    io::BufWriter::with_capacity(64 << 10, io::stdout())
}

/// How wide the terminal is, or COLUMNS says it is; `default` where nobody says.
pub(crate) fn columns(default: usize) -> usize {
    known_columns().unwrap_or(default)
}

/// As [`columns`]; `None` where nobody says, as in a pipe.
pub(crate) fn known_columns() -> Option<usize> {
    let terminal = rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|&columns| columns > 0);
    let named = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal
        .or_else(named)
        .map(|columns: usize| columns.max(COLUMNS_MIN))
}

/// `error: ..` on standard error.
pub(crate) fn error_line(color: Color, message: &dyn Display) {
    talk(color, RED, "error", message);
}

/// `warning: ..` on standard error.
pub(crate) fn warning_line(color: Color, message: &dyn Display) {
    talk(color, YELLOW, "warning", message);
}

/// `word: message` on standard error.
pub(crate) fn talk(color: Color, style: Style, word: &str, message: &dyn Display) {
    progress::aside(|| {
        let mut stderr = AutoStream::new(io::stderr(), choice(color));
        // Nobody is left to hear that standard error is closed.
        let _ = writeln!(stderr, "{style}{word}:{style:#} {message}");
    });
}
