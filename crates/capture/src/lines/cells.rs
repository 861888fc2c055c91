//! The line that is being written, and what the cursor does to it.
//!
//! As long as text is only added, a line is its bytes. The first time that the cursor goes back it becomes *cells*,
//! one a column: a character with what combines with it, of one column or two, the second one being empty; a tab is
//! one that spans columns. A byte that is no UTF-8 is a cell of one column. Nothing here knows how wide the terminal
//! is for wrapping: a progress bar that is wider than the terminal stays one line.
//!
//! Memory: at most `piece_bytes` of text and a few times that of cells. What is more goes out as a piece, and cannot be
//! changed any more; nor can what [`Line::flush`] gave out.

use unicode_width::UnicodeWidthChar;

use super::escapes::Action;

/// What comes out of a splitter: bytes, and whether their line goes on.
pub(super) trait Out<E>: FnMut(&[u8], bool) -> Result<(), E> {}
impl<E, F: FnMut(&[u8], bool) -> Result<(), E>> Out<E> for F {}

/// Where in `text` the bytes of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    at: u32,
    bytes: u32,
}

/// Nothing was written here, or a blank on a line that is written over: not shown at the end of it.
const BLANK: Cell = Cell {
    at: u32::MAX,
    bytes: 0,
};
/// A further column of the character before.
const SPANNED: Cell = Cell {
    at: u32::MAX - 1,
    bytes: 0,
};

impl Cell {
    fn shown_bytes(self) -> usize {
        if self == BLANK {
            1
        } else {
            self.bytes as usize
        }
    }
}

/// Columns where the width of the terminal is not known: what `CSI 999 C` gets to.
const COLUMNS_DEFAULT: usize = 512;
const TAB_COLUMNS: usize = 8;

#[derive(Debug)]
pub(super) struct Line {
    piece_bytes: usize,
    columns_limit: usize,
    /// The line; where `is_cells`, what cells point into, with holes.
    text: Vec<u8>,
    is_cells: bool,
    cells: Vec<Cell>,
    /// A column of `cells`, or behind them.
    cursor: usize,
    /// What all cells together would show.
    shown_bytes: usize,
    /// Columns that are out already, as far as they were counted.
    columns_out: usize,
    /// Start of a character whose end has not come; where `is_cells`.
    partial: Vec<u8>,
    /// The cursor was sent to the first column, and nothing came since: before a newline that means nothing.
    has_return: bool,
    /// A piece is out that goes on.
    is_open: bool,
    saved_column: Option<usize>,
    spare: Vec<u8>,
}

impl Line {
    pub(super) fn new(piece_bytes: usize) -> Self {
        Line {
            piece_bytes,
            columns_limit: COLUMNS_DEFAULT,
            text: Vec::new(),
            is_cells: false,
            cells: Vec::new(),
            cursor: 0,
            shown_bytes: 0,
            columns_out: 0,
            partial: Vec::new(),
            has_return: false,
            is_open: false,
            saved_column: None,
            spare: Vec::new(),
        }
    }

    pub(super) fn set_columns(&mut self, columns: usize) {
        self.columns_limit = columns;
    }

    /// As after a newline.
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        self.text.is_empty()
            && !self.is_cells
            && !self.has_return
            && !self.is_open
            && self.saved_column.is_none()
    }

    /// Whether a flush would give out anything.
    pub(super) fn has_text(&self) -> bool {
        if self.is_cells {
            self.columns_to_show() > 0
        } else {
            !self.text.is_empty()
        }
    }

    /// Whether there is anything that a newline would end.
    pub(super) fn is_begun(&self) -> bool {
        self.is_open || !self.partial.is_empty() || self.last_written() > 0
    }

    pub(super) fn has_saved(&self) -> bool {
        self.saved_column.is_some()
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.text.capacity()
            + self.partial.capacity()
            + self.spare.capacity()
            + self.cells.capacity() * size_of::<Cell>()
    }

    // ---- text

    /// Writes `run` at the cursor: text and tabs, and those control characters that are kept.
    pub(super) fn write<E>(&mut self, run: &[u8], out: &mut impl Out<E>) -> Result<(), E> {
        self.apply_return(out)?;
        if self.is_cells {
            self.write_cells(run, out)
        } else {
            self.append(run, out)
        }
    }

    fn append<E>(&mut self, mut run: &[u8], out: &mut impl Out<E>) -> Result<(), E> {
        while self.text.len() + run.len() > self.piece_bytes {
            self.is_open = true;
            if self.text.is_empty() {
                let (piece, rest) = run.split_at(piece_end(run, self.piece_bytes));
                run = rest;
                out(piece, true)?;
            } else {
                let (first, rest) = run.split_at(self.piece_bytes + 1 - self.text.len());
                self.text.extend_from_slice(first);
                run = rest;
                let end = piece_end(&self.text, self.piece_bytes);
                let result = out(&self.text[..end], true);
                self.text.drain(..end);
                result?;
            }
        }
        self.text.extend_from_slice(run);
        Ok(())
    }

    fn write_cells<E>(&mut self, mut run: &[u8], out: &mut impl Out<E>) -> Result<(), E> {
        while !self.partial.is_empty() {
            let Some((&byte, rest)) = run.split_first() else {
                return Ok(());
            };
            self.partial.push(byte);
            match std::str::from_utf8(&self.partial).map_err(|error| error.error_len()) {
                Err(None) => run = rest,
                Ok(_) => {
                    run = rest;
                    let text = std::mem::take(&mut self.partial);
                    self.write_valid(&String::from_utf8_lossy(&text), out)?;
                }
                Err(Some(_)) => {
                    // The byte that does not fit may begin a character of its own.
                    self.partial.pop();
                    self.settle(out)?;
                }
            }
        }
        for chunk in run.utf8_chunks() {
            self.write_valid(chunk.valid(), out)?;
            let invalid = chunk.invalid();
            let is_partial = run.as_ptr_range().end == invalid.as_ptr_range().end
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_partial {
                self.partial.extend_from_slice(invalid);
            } else {
                for byte in invalid {
                    self.put(&[*byte], 1, out)?;
                }
            }
        }
        Ok(())
    }

    fn write_valid<E>(&mut self, text: &str, out: &mut impl Out<E>) -> Result<(), E> {
        for char in text.chars() {
            match char {
                '\t' => self.tab(out)?,
                _ => {
                    let mut bytes = [0; 4];
                    let bytes = char.encode_utf8(&mut bytes).as_bytes();
                    self.put(bytes, char.width().unwrap_or(0), out)?;
                }
            }
        }
        Ok(())
    }

    /// A character that was begun and will not end: its bytes, one by one.
    fn settle<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        for byte in std::mem::take(&mut self.partial) {
            self.put(&[byte], 1, out)?;
        }
        Ok(())
    }

    fn put<E>(&mut self, bytes: &[u8], columns: usize, out: &mut impl Out<E>) -> Result<(), E> {
        if columns == 0 && self.cursor > 0 && self.cursor <= self.cells.len() {
            self.join(bytes);
        } else {
            let cell = if bytes == b" " {
                BLANK
            } else {
                self.store(bytes)
            };
            self.put_cell(cell, columns.max(1));
        }
        self.give_pieces(out)
    }

    fn store(&mut self, bytes: &[u8]) -> Cell {
        let at = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        Cell {
            at,
            bytes: bytes.len() as u32,
        }
    }

    fn put_cell(&mut self, cell: Cell, columns: usize) {
        self.pad(self.cursor);
        let end = self.cursor + columns;
        self.part(self.cursor);
        self.part(end);
        self.pad(end);
        self.set(self.cursor, cell);
        for at in self.cursor + 1..end {
            self.set(at, SPANNED);
        }
        self.cursor = end;
    }

    /// Adds `bytes` to the character before the cursor.
    fn join(&mut self, bytes: &[u8]) {
        let mut at = self.cursor - 1;
        while at > 0 && self.cells[at] == SPANNED {
            at -= 1;
        }
        let cell = self.cells[at];
        let (start, end) = (cell.at as usize, cell.at as usize + cell.bytes as usize);
        let joined = if cell == BLANK || cell == SPANNED {
            let mut joined = self.store(b" ");
            self.text.extend_from_slice(bytes);
            joined.bytes += bytes.len() as u32;
            joined
        } else {
            let at = if end == self.text.len() {
                start
            } else {
                let at = self.text.len();
                self.text.extend_from_within(start..end);
                at
            };
            self.text.extend_from_slice(bytes);
            Cell {
                at: at as u32,
                bytes: cell.bytes + bytes.len() as u32,
            }
        };
        self.set(at, joined);
    }

    /// To the next multiple of 8; behind the text it is text itself.
    fn tab<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        let stop = self.next_tab(self.cursor);
        if self.cursor < self.cells.len() {
            self.cursor = stop;
            return Ok(());
        }
        let cell = self.store(b"\t");
        self.put_cell(cell, stop - self.cursor);
        self.give_pieces(out)
    }

    fn next_tab(&self, column: usize) -> usize {
        let column = column + self.columns_out;
        (column / TAB_COLUMNS + 1) * TAB_COLUMNS - self.columns_out
    }

    // ---- the cursor

    /// To the first column.
    pub(super) fn carriage_return(&mut self) {
        self.has_return = true;
    }

    /// Does what a `\r` asked for, now that no newline came behind it. Where a piece is out the line cannot be
    /// overwritten any more: it ends.
    fn apply_return<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if !std::mem::take(&mut self.has_return) {
            return Ok(());
        }
        self.settle(out)?;
        if self.is_open {
            return self.end(out);
        }
        if !self.is_cells && !self.text.is_empty() {
            self.make_cells();
            // What stands behind the next state of a bar is of the bar: no blanks that were meant to stay.
            for cell in &mut self.cells {
                if cell.bytes == 1 && self.text[cell.at as usize] == b' ' {
                    *cell = BLANK;
                }
            }
        }
        self.cursor = 0;
        Ok(())
    }

    /// Before anything that the cursor has to be known for.
    fn prepare<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        self.apply_return(out)?;
        self.settle(out)?;
        self.make_cells();
        Ok(())
    }

    pub(super) fn left<E>(&mut self, columns: usize, out: &mut impl Out<E>) -> Result<(), E> {
        if self.has_return || (!self.is_cells && self.text.is_empty()) {
            return Ok(());
        }
        self.prepare(out)?;
        self.cursor = self.cursor.saturating_sub(columns);
        Ok(())
    }

    fn right<E>(&mut self, columns: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        self.go_to(self.cursor + columns);
        Ok(())
    }

    /// To `column` of the whole line.
    fn column<E>(&mut self, column: usize, out: &mut impl Out<E>) -> Result<(), E> {
        if column == 0 {
            self.carriage_return();
            return Ok(());
        }
        self.prepare(out)?;
        self.go_to(column.saturating_sub(self.columns_out));
        Ok(())
    }

    fn tabs<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        let count = count.min(self.columns_limit);
        let stop = (0..count).fold(self.cursor, |column, _| self.next_tab(column));
        self.go_to(stop);
        Ok(())
    }

    fn back_tabs<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        let column = self.cursor + self.columns_out;
        let stops = column.div_ceil(TAB_COLUMNS).saturating_sub(count);
        self.cursor = (stops * TAB_COLUMNS).saturating_sub(self.columns_out);
        Ok(())
    }

    fn go_to(&mut self, column: usize) {
        let last = self.columns_limit.saturating_sub(1);
        // Who is behind the last column already (the text did not wrap here) is not thrown back.
        self.cursor = column.min(last.max(self.cursor));
    }

    pub(super) fn save(&mut self) {
        let column = match (self.has_return, self.is_cells) {
            (true, _) => 0,
            (false, true) => self.cursor + self.columns_out,
            (false, false) => columns_of(&self.text) + self.columns_out,
        };
        self.saved_column = Some(column);
    }

    pub(super) fn restore<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        let Some(column) = self.saved_column.take() else {
            return Ok(());
        };
        self.has_return = false;
        if self.is_cells || columns_of(&self.text) + self.columns_out != column {
            self.column(column, out)?;
        }
        Ok(())
    }

    /// Does what `action` asks for within a line. What leaves the line is not for here.
    pub(super) fn act<E>(&mut self, action: Action, out: &mut impl Out<E>) -> Result<(), E> {
        match action {
            Action::Column(column) => self.column(column, out),
            Action::Left(columns) => self.left(columns, out),
            Action::Right(columns) => self.right(columns, out),
            Action::Tabs(count) => self.tabs(count, out),
            Action::BackTabs(count) => self.back_tabs(count, out),
            Action::EraseRight => self.erase_right(out),
            Action::EraseLeft => self.erase_left(out),
            Action::EraseLine => self.erase_line(out),
            Action::EraseChars(count) => self.erase_chars(count, out),
            Action::DeleteChars(count) => self.delete_chars(count, out),
            Action::InsertBlanks(count) => self.insert_blanks(count, out),
            Action::Repeat(count) => self.repeat(count, out),
            _ => Ok(()),
        }
    }

    // ---- changes

    fn erase_right<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if self.has_return && !self.is_open {
            self.clear_text();
            return Ok(());
        }
        self.apply_return(out)?;
        self.settle(out)?;
        match self.is_cells {
            true => self.erase(self.cursor, usize::MAX, out),
            false => Ok(()),
        }
    }

    fn erase_left<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        self.erase(0, self.cursor + 1, out)
    }

    fn erase_line<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if self.has_return && !self.is_open {
            self.clear_text();
            return Ok(());
        }
        if self.has_return || self.has_text() || !self.partial.is_empty() {
            self.prepare(out)?;
            self.erase(0, usize::MAX, out)?;
        }
        Ok(())
    }

    fn erase_chars<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        self.erase(self.cursor, self.cursor + count, out)
    }

    /// A tab of which a part is erased is blanks from then on: that may be more than a piece.
    fn erase<E>(&mut self, from: usize, to: usize, out: &mut impl Out<E>) -> Result<(), E> {
        let to = to.min(self.cells.len());
        if from >= to {
            return Ok(());
        }
        self.part(from);
        self.part(to);
        for at in from..to {
            self.set(at, BLANK);
        }
        if to == self.cells.len() {
            self.cut(from);
        }
        self.give_pieces(out)
    }

    fn delete_chars<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        let from = self.cursor;
        let to = (from + count).min(self.cells.len());
        if from < to {
            self.part(from);
            self.part(to);
            let bytes: usize = self
                .cells
                .drain(from..to)
                .map(|cell| cell.shown_bytes())
                .sum();
            self.shown_bytes -= bytes;
            // What is left of a tab is blanks.
            self.give_pieces(out)?;
        }
        Ok(())
    }

    fn insert_blanks<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        let count = count.min(self.columns_limit);
        if self.cursor < self.cells.len() {
            self.part(self.cursor);
            let blanks = std::iter::repeat_n(BLANK, count);
            self.cells.splice(self.cursor..self.cursor, blanks);
            self.shown_bytes += count;
            self.give_pieces(out)?;
        }
        Ok(())
    }

    fn repeat<E>(&mut self, count: usize, out: &mut impl Out<E>) -> Result<(), E> {
        self.prepare(out)?;
        let before = self.cursor.checked_sub(1).and_then(|at| self.cells.get(at));
        let Some(&cell) = before.filter(|cell| **cell != SPANNED) else {
            return Ok(());
        };
        let start = cell.at as usize;
        let bytes = match cell {
            BLANK => b" ".to_vec(),
            // Only the character is repeated, not what was combined with it.
            _ => first_char(&self.text[start..start + cell.bytes as usize]).to_vec(),
        };
        for _ in 0..count.min(self.columns_limit) {
            self.put(&bytes, 1, out)?;
        }
        Ok(())
    }

    // ---- going out

    /// Ends the line.
    pub(super) fn end<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if !self.is_cells {
            let result = out(&self.text, false);
            self.clear();
            return result;
        }
        self.settle(out)?;
        let mut shown = std::mem::take(&mut self.spare);
        shown.clear();
        self.show(self.last_written(), &mut shown);
        self.clear();
        let result = out(&shown, false);
        self.spare = shown;
        result
    }

    /// Ends the line unless nothing was written on it.
    pub(super) fn end_if_begun<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if self.is_begun() {
            return self.end(out);
        }
        self.clear();
        Ok(())
    }

    /// Gives out what there is. The line goes on; what is out stays as it is.
    pub(super) fn flush<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if !self.has_text() {
            return Ok(());
        }
        self.is_open = true;
        if !self.is_cells {
            self.columns_out += columns_of(&self.text);
            let result = out(&self.text, true);
            self.text.clear();
            return result;
        }
        let columns = self.columns_to_show();
        let mut shown = std::mem::take(&mut self.spare);
        shown.clear();
        self.show(columns, &mut shown);
        let partial = std::mem::take(&mut self.partial);
        self.clear_text();
        self.has_return |= self.cursor == 0;
        self.cursor = self.cursor.saturating_sub(columns);
        self.columns_out += columns;
        // Where the cursor is further right, what comes is still padded up to it.
        self.is_cells = self.cursor > 0;
        if self.is_cells {
            self.partial = partial;
        } else {
            self.text = partial;
        }
        let result = out(&shown, true);
        self.spare = shown;
        result
    }

    /// Takes the line as it is shown now, the last piece of it, and starts a new one.
    pub(super) fn take_into(&mut self, shown: &mut Vec<u8>) {
        shown.clear();
        if self.is_cells {
            self.show(self.last_written(), shown);
            shown.append(&mut self.partial);
        } else {
            shown.extend_from_slice(&self.text);
        }
        // The start of a character that is still to come is counted by nobody before.
        shown.drain(..shown.len().saturating_sub(self.piece_bytes));
        self.clear();
    }

    /// After every change: keeps the line, and what it takes to hold it, within bounds.
    fn give_pieces<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if self.text.len() > 2 * self.shown_bytes + 4096 {
            self.compact();
        }
        while self.shown_bytes > self.piece_bytes {
            self.is_open = true;
            let mut bytes = 0;
            let mut columns = 0;
            while bytes + self.cells[columns].shown_bytes() <= self.piece_bytes {
                bytes += self.cells[columns].shown_bytes();
                columns += 1;
            }
            let mut shown = std::mem::take(&mut self.spare);
            shown.clear();
            if columns == 0 {
                // One character with more marks on it than a piece holds.
                let cell = &mut self.cells[0];
                let start = cell.at as usize;
                shown.extend_from_slice(&self.text[start..start + self.piece_bytes]);
                cell.at += self.piece_bytes as u32;
                cell.bytes -= self.piece_bytes as u32;
                bytes = self.piece_bytes;
            } else {
                self.show(columns, &mut shown);
                self.cells.drain(..columns);
                self.cursor = self.cursor.saturating_sub(columns);
                self.columns_out += columns;
            }
            self.shown_bytes -= bytes;
            let result = out(&shown, true);
            self.spare = shown;
            result?;
        }
        Ok(())
    }

    fn show(&self, columns: usize, shown: &mut Vec<u8>) {
        for cell in &self.cells[..columns.min(self.cells.len())] {
            match *cell {
                BLANK => shown.push(b' '),
                SPANNED => {}
                Cell { at, bytes } => {
                    shown.extend_from_slice(&self.text[at as usize..(at + bytes) as usize]);
                }
            }
        }
    }

    /// Columns up to the last that is no blank.
    fn last_written(&self) -> usize {
        if !self.is_cells {
            return self.text.len();
        }
        let last = self.cells.iter().rposition(|cell| *cell != BLANK);
        last.map_or(0, |last| last + 1)
    }

    /// Where more may be written behind it, blanks up to the cursor count as well.
    fn columns_to_show(&self) -> usize {
        let cursor = self.cursor.min(self.cells.len());
        self.last_written().max(cursor)
    }

    // ---- cells

    fn make_cells(&mut self) {
        if self.is_cells {
            return;
        }
        self.is_cells = true;
        self.cells.clear();
        self.shown_bytes = self.text.len();
        let mut at = 0;
        let text = std::mem::take(&mut self.text);
        for chunk in text.utf8_chunks() {
            for char in chunk.valid().chars() {
                let bytes = char.len_utf8() as u32;
                let columns = match char {
                    '\t' => self.next_tab(self.cells.len()) - self.cells.len(),
                    _ => char.width().unwrap_or(0),
                };
                // What combines extends the character before, which lies right before it.
                let head = self.cells.iter().rposition(|cell| *cell != SPANNED);
                match head.filter(|_| columns == 0) {
                    Some(head) => self.cells[head].bytes += bytes,
                    None => {
                        self.cells.push(Cell { at, bytes });
                        let spanned = columns.saturating_sub(1);
                        self.cells.extend(std::iter::repeat_n(SPANNED, spanned));
                    }
                }
                at += bytes;
            }
            for _ in chunk.invalid() {
                self.cells.push(Cell { at, bytes: 1 });
                at += 1;
            }
        }
        self.text = text;
        self.cursor = self.cells.len();
    }

    fn pad(&mut self, columns: usize) {
        if let Some(more) = columns.checked_sub(self.cells.len()) {
            self.cells.extend(std::iter::repeat_n(BLANK, more));
            self.shown_bytes += more;
        }
    }

    fn set(&mut self, at: usize, cell: Cell) {
        let old = std::mem::replace(&mut self.cells[at], cell);
        self.shown_bytes = self.shown_bytes - old.shown_bytes() + cell.shown_bytes();
    }

    fn cut(&mut self, columns: usize) {
        let cut = self.cells[columns..].iter();
        self.shown_bytes -= cut.map(|cell| cell.shown_bytes()).sum::<usize>();
        self.cells.truncate(columns);
    }

    /// Where a character lies across the border before column `at`, blanks take its place.
    fn part(&mut self, at: usize) {
        if self.cells.get(at) != Some(&SPANNED) {
            return;
        }
        let mut start = at;
        while start > 0 && self.cells[start] == SPANNED {
            start -= 1;
        }
        let mut end = at;
        while self.cells.get(end) == Some(&SPANNED) {
            end += 1;
        }
        for at in start..end {
            self.set(at, BLANK);
        }
    }

    fn compact(&mut self) {
        let mut text = std::mem::take(&mut self.spare);
        text.clear();
        for cell in &mut self.cells {
            if *cell != BLANK && *cell != SPANNED {
                let at = text.len() as u32;
                let start = cell.at as usize;
                text.extend_from_slice(&self.text[start..start + cell.bytes as usize]);
                cell.at = at;
            }
        }
        self.spare = std::mem::replace(&mut self.text, text);
    }

    fn clear_text(&mut self) {
        self.text.clear();
        self.cells.clear();
        self.partial.clear();
        self.shown_bytes = 0;
        self.is_cells = false;
    }

    fn clear(&mut self) {
        self.clear_text();
        self.cursor = 0;
        self.columns_out = 0;
        self.has_return = false;
        self.is_open = false;
        self.saved_column = None;
    }
}

/// Where to cut `bytes`, of which there are more than fit into a piece: between two characters.
pub(super) fn piece_end(bytes: &[u8], piece_bytes: usize) -> usize {
    let is_inside = |at: usize| bytes[at] & 0xc0 == 0x80;
    let earliest = piece_bytes.saturating_sub(3).max(1);
    (earliest..=piece_bytes)
        .rev()
        .find(|at| !is_inside(*at))
        .unwrap_or(piece_bytes)
}

fn first_char(bytes: &[u8]) -> &[u8] {
    let end = (1..bytes.len()).find(|at| bytes[*at] & 0xc0 != 0x80);
    &bytes[..end.unwrap_or(bytes.len())]
}

fn columns_of(text: &[u8]) -> usize {
    let mut columns = 0;
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            columns += match char {
                '\t' => TAB_COLUMNS - columns % TAB_COLUMNS,
                _ => char.width().unwrap_or(0),
            };
        }
        columns += chunk.invalid().len();
    }
    columns
}
