//! The terminal, taken and given back: at the end, at an error, at a panic, and while the command is stopped.

use std::io::{self, BufWriter, Stdout, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::style::force_color_output;
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// Whether the terminal is ours now. One for the process: whoever panics gives it back.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// A screen of 200 by 60 is sent as one.
const FRAME_BYTES: usize = 64 << 10;

/// A terminal with a screen of its own on it; dropped, it is as it was.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Takes the terminal. A panic of any thread gives it back before it is told.
    pub(super) fn take(is_coloured: bool) -> io::Result<Self> {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        force_color_output(is_coloured);
        enter()?;
        let out = BufWriter::with_capacity(FRAME_BYTES, io::stdout());
        let terminal = Terminal::new(CrosstermBackend::new(out));
        match terminal {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// One frame: what changed is sent, at once, and shown at once where the terminal can do that.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        // ORDERING: Acquire; pairs with the Release of who gave it back.
        if !IS_TAKEN.load(Ordering::Acquire) {
            return Err(io::Error::other("the terminal was given back"));
        }
        ratatui::crossterm::queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        self.terminal.draw(picture)?;
        ratatui::crossterm::queue!(self.terminal.backend_mut(), EndSynchronizedUpdate)?;
        Write::flush(self.terminal.backend_mut())
    }

    /// The next frame is sent whole.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // That of ratatui asks the terminal where its cursor is: the answer would come to whoever reads keys.
        execute!(self.terminal.backend_mut(), Clear(ClearType::All))?;
        // Of two buffers, the one of the last frame is emptied.
        self.terminal.swap_buffers();
        Ok(())
    }

    /// Gives the terminal back until [`Screen::resume`].
    pub(super) fn pause(&mut self) {
        give_back();
    }

    /// Takes it again, whatever became of it meanwhile.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        give_back();
        enter()?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    // ORDERING: Release; pairs with the Acquire of `draw`. From here on there is something to give back.
    IS_TAKEN.store(true, Ordering::Release);
    let entered = execute!(io::stdout(), EnterAlternateScreen, Hide);
    if entered.is_err() {
        give_back();
    }
    entered
}

/// Once for each time it was taken, whoever asks: leaving twice would move the cursor.
fn give_back() {
    // ORDERING: AcqRel; one of several threads does it.
    if IS_TAKEN.swap(false, Ordering::AcqRel) {
        // Nobody is left to hear that the terminal is gone.
        let _ = execute!(
            io::stdout(),
            EndSynchronizedUpdate,
            LeaveAlternateScreen,
            Show
        );
        let _ = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Run by the test below, on a terminal.
    #[test]
    #[ignore = "needs a terminal of its own; `a_panic_gives_the_terminal_back` runs it"]
    fn panics_on_a_screen() {
        let mut screen = Screen::take(false).expect("a terminal");
        screen
            .draw(|frame| frame.render_widget("on-the-screen", frame.area()))
            .expect("it can be drawn on");
        let thread = std::thread::spawn(|| panic!("in the middle of it"));
        assert!(thread.join().is_err());
        let after = screen.draw(|_| {});
        assert!(after.is_err(), "nothing is drawn over the message");
        panic!("once more");
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        let exe = std::env::current_exe().expect("this test has a file");
        let test = "commands::top::terminal::tests::panics_on_a_screen";
        let inner = format!(
            "stty rows 24 cols 80; before=$(stty -g); '{}' --ignored --exact {test} --nocapture; \
             [ \"$before\" = \"$(stty -g)\" ] && echo modes are the same",
            exe.display()
        );
        let run = Command::new("script")
            .args(["-qec", &inner, "/dev/null"])
            .env("TERM", "xterm-256color")
            .output();
        let Ok(output) = run else {
            eprintln!("skipped: there is no `script` to run something on a terminal");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let at = |what: &str| {
            let place = text.find(what);
            place.unwrap_or_else(|| panic!("{what:?} is not in {text:?}"))
        };
        assert!(at("\x1b[?1049h") < at("on-the-screen"), "{text:?}");
        assert!(at("on-the-screen") < at("\x1b[?1049l"), "{text:?}");
        assert!(at("\x1b[?1049l") < at("in the middle of it"), "{text:?}");
        assert!(at("in the middle of it") < at("once more"), "{text:?}");
        assert_eq!(text.matches("\x1b[?1049l").count(), 1, "{text:?}");
        assert!(text.contains("\x1b[?25h"), "the cursor is shown: {text:?}");
        assert!(text.contains("modes are the same"), "{text:?}");
    }
}
