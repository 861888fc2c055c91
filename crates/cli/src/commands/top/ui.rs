//! What keys do: a state, and what a key makes of it. No terminal.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::View;
use super::table::{Sort, Table, clean};

/// It is not looked more often.
pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Nor less often.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Longer than any name.
const FILTER_CHARS_MAX: usize = 128;

/// What a key asks for beyond another picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// Everything is drawn anew: something else has written to the terminal.
    Redraw,
    /// To be looked at this often from now on.
    Interval(Duration),
    Suspend,
    Quit,
}

/// What is shown of what there is.
#[derive(Debug, Clone)]
pub(super) struct Ui {
    pub(super) view: View,
    /// By the place of the view in [`View::ALL`].
    sorts: Vec<Sort>,
    pub(super) filter: String,
    /// While a filter is typed: the one before.
    pub(super) typing: Option<String>,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    /// Rows above the first that is shown.
    pub(super) offset: usize,
    pub(super) interval: Duration,
}

impl Ui {
    pub(super) fn new(view: View, filter: &str, interval: Duration) -> Self {
        let sort = |view: View| view.sort(None);
        let none = |view: View| Table::sort_by(view.columns(), view.columns().len());
        Ui {
            view,
            sorts: View::ALL
                .map(|view| sort(view).unwrap_or_else(|| none(view)))
                .into(),
            filter: clean(filter),
            typing: None,
            is_paused: false,
            has_help: false,
            offset: 0,
            interval,
        }
    }

    fn place(&self) -> usize {
        let is_it = |view: &View| *view == self.view;
        View::ALL.iter().position(is_it).unwrap_or(0)
    }

    pub(super) fn sort(&self) -> Sort {
        self.sorts[self.place()]
    }

    pub(super) fn set_sort(&mut self, sort: Sort) {
        let place = self.place();
        self.sorts[place] = sort;
    }

    /// One key. `page`: rows that are shown at a time; `rows`: how many there are.
    pub(super) fn key(&mut self, key: KeyEvent, page: usize, rows: usize) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return self.control_key(key.code);
        }
        if self.typing.is_some() {
            self.filter_key(key.code);
            return Asked::Nothing;
        }
        if self.has_help {
            self.has_help = false;
            // Whatever closes it does no more, but for those that are meant for leaving.
            return match key.code {
                KeyCode::Char('q') => Asked::Quit,
                _ => Asked::Nothing,
            };
        }
        let last = rows.saturating_sub(page);
        match key.code {
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.has_help = true,
            KeyCode::Char(' ' | 'p') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(digit @ '1'..='6') => {
                self.show(View::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab => self.step_view(1),
            KeyCode::BackTab => self.step_view(View::ALL.len() - 1),
            KeyCode::Right | KeyCode::Char('>') => self.step_sort(1),
            KeyCode::Left | KeyCode::Char('<') => self.step_sort(usize::MAX),
            KeyCode::Char('r') => {
                let mut sort = self.sort();
                sort.is_descending = !sort.is_descending;
                self.set_sort(sort);
            }
            KeyCode::Char('+') => return self.step_interval(0.5),
            KeyCode::Char('-') => return self.step_interval(2.0),
            KeyCode::Down | KeyCode::Char('j') => self.offset = (self.offset + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset = (self.offset + page.max(1)).min(last),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(page.max(1)),
            KeyCode::Home | KeyCode::Char('g') => self.offset = 0,
            KeyCode::End | KeyCode::Char('G') => self.offset = last,
            _ => {}
        }
        Asked::Nothing
    }

    fn control_key(&mut self, code: KeyCode) -> Asked {
        match code {
            KeyCode::Char('c' | 'd') => Asked::Quit,
            KeyCode::Char('z') => Asked::Suspend,
            KeyCode::Char('l') => Asked::Redraw,
            KeyCode::Char('u') if self.typing.is_some() => {
                self.filter.clear();
                Asked::Nothing
            }
            _ => Asked::Nothing,
        }
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => self.filter = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                let typed = clean(&character.to_string());
                self.filter.push_str(&typed);
            }
            _ => {}
        }
        self.offset = 0;
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.offset = 0;
    }

    fn step_view(&mut self, by: usize) {
        self.show(View::ALL[(self.place() + by) % View::ALL.len()]);
    }

    /// To the next column, or with `usize::MAX` to the one before; pictures are sorted by what they show.
    fn step_sort(&mut self, by: usize) {
        let columns = self.view.columns();
        let count = columns.len();
        let column = match self.sort().column {
            now if now >= count && by == 1 => 0,
            now if now >= count => count - 1,
            now if by == 1 => (now + 1) % count,
            now => (now + count - 1) % count,
        };
        self.set_sort(Table::sort_by(columns, column));
        self.offset = 0;
    }

    fn step_interval(&mut self, by: f64) -> Asked {
        let interval = self.interval.mul_f64(by).clamp(INTERVAL_MIN, INTERVAL_MAX);
        self.interval = interval;
        Asked::Interval(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ui() -> Ui {
        Ui::new(View::Sources, "", Duration::from_secs(1))
    }

    fn press(ui: &mut Ui, code: KeyCode) -> Asked {
        ui.key(KeyEvent::from(code), 10, 25)
    }

    fn type_text(ui: &mut Ui, text: &str) {
        for character in text.chars() {
            press(ui, KeyCode::Char(character));
        }
    }

    #[test]
    fn keys_that_leave_mean_letters_while_a_filter_is_typed() {
        let mut ui = ui();
        type_text(&mut ui, "/q r");
        assert_eq!(ui.filter, "q r");
        assert!(!ui.is_paused);
        press(&mut ui, KeyCode::Backspace);
        press(&mut ui, KeyCode::Enter);
        assert_eq!(ui.filter, "q ");
        assert!(ui.typing.is_none());
        assert_eq!(press(&mut ui, KeyCode::Char('q')), Asked::Quit);
    }

    #[test]
    fn escape_brings_back_the_filter_before_and_then_takes_it_away() {
        let mut ui = ui();
        type_text(&mut ui, "/web");
        press(&mut ui, KeyCode::Enter);
        type_text(&mut ui, "/-2");
        assert_eq!(ui.filter, "web-2");
        press(&mut ui, KeyCode::Esc);
        assert_eq!(ui.filter, "web");
        press(&mut ui, KeyCode::Esc);
        assert_eq!(ui.filter, "");
    }

    #[test]
    fn control_keys_work_everywhere() {
        let control = |ui: &mut Ui, letter| {
            let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
            ui.key(key, 10, 25)
        };
        let mut ui = ui();
        for start in ["", "/abc", "?"] {
            type_text(&mut ui, start);
            assert_eq!(control(&mut ui, 'c'), Asked::Quit, "{start:?}");
            assert_eq!(control(&mut ui, 'z'), Asked::Suspend, "{start:?}");
            assert_eq!(control(&mut ui, 'l'), Asked::Redraw, "{start:?}");
            press(&mut ui, KeyCode::Esc);
        }
    }

    #[test]
    fn sorting_goes_around_every_column_and_back_and_each_view_has_its_own() {
        let mut ui = ui();
        let first = ui.sort();
        for _ in View::Sources.columns() {
            press(&mut ui, KeyCode::Right);
        }
        assert_eq!(ui.sort(), first);
        press(&mut ui, KeyCode::Left);
        assert_eq!(ui.sort().column, first.column - 1);
        press(&mut ui, KeyCode::Char('r'));
        let turned = ui.sort();
        press(&mut ui, KeyCode::Tab);
        assert_eq!(ui.view, View::Services);
        assert_eq!(Some(ui.sort()), View::Services.sort(None));
        press(&mut ui, KeyCode::BackTab);
        assert_eq!(ui.sort(), turned);
        // Those that come in the order in which they are made can be sorted too.
        press(&mut ui, KeyCode::Char('6'));
        assert_eq!(ui.sort().column, View::Daemon.columns().len());
        press(&mut ui, KeyCode::Right);
        assert_eq!(ui.sort().column, 0);
    }

    #[test]
    fn scrolling_stays_where_there_are_rows() {
        let mut ui = ui();
        for _ in 0..9 {
            press(&mut ui, KeyCode::PageDown);
        }
        assert_eq!(ui.offset, 15);
        press(&mut ui, KeyCode::Down);
        assert_eq!(ui.offset, 15);
        press(&mut ui, KeyCode::Home);
        press(&mut ui, KeyCode::Up);
        assert_eq!(ui.offset, 0);
        ui.key(KeyEvent::from(KeyCode::End), 10, 3);
        assert_eq!(ui.offset, 0);
    }

    #[test]
    fn the_interval_has_limits() {
        let mut ui = ui();
        for _ in 0..20 {
            press(&mut ui, KeyCode::Char('+'));
        }
        assert_eq!(ui.interval, INTERVAL_MIN);
        for _ in 0..30 {
            press(&mut ui, KeyCode::Char('-'));
        }
        assert_eq!(ui.interval, INTERVAL_MAX);
    }
}
