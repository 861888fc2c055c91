//! Commands on terminals and pipes: their bytes go where they went before, untouched, and to the bus as lines.
//!
//! [`Capture::run`] puts a command on a terminal of its own and stands between that and whoever started it. What the
//! command writes is passed on first; then it is copied to two places: as *lines*, readable ones, under
//! `log:SERVICE:pty:out`, and as the *raw stream*, what a terminal is given, under `pty:SERVICE:out`. Nobody in
//! between ever waits for the bus: where a lane is full, lines are dropped and counted.

mod cast;
mod error;
mod level;
mod lines;
mod pty;
mod raw;
mod replies;
mod session;

pub use cast::{CastError, CastHeader, CastWriter};
pub use error::{Error, ErrorKind};
pub use level::detect_level;
pub use lines::{LineSplitter, Note, PIECE_BYTES, View};
pub use pty::{Pty, Running, WindowSize};
pub use raw::{RawEvent, RawName};
pub use session::{Capture, CommandSpec, Controller, Ending, Exit, Front, Mode, Newlines, Spec};
