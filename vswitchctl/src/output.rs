//! What a command prints: text for people, or one JSON document.
//!
//! A command never prints; it returns both forms and `main` writes the one that was asked for. So
//! nothing but that document can reach standard output, and rendering is tested without a process.
//! The one exception are lists without a bound, which a [`Listing`] writes as they come.
//!
//! Labels and names are other people's text: control characters in them are shown, not obeyed.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Output {
    /// For people; ends with a newline unless it is empty.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: Value,
    /// A failure that comes with something to print nevertheless.
    pub(crate) failure: Option<Failure>,
}

impl Output {
    /// Text and the value behind it.
    pub(crate) fn new(text: impl Into<String>, value: &impl Serialize) -> Result<Self, Failure> {
        let json = serde_json::to_value(value).map_err(|e| Failure::Unreadable(e.to_string()))?;
        let mut text = text.into();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(Self { text, json, failure: None })
    }

    /// Done, and nothing to say: no text, `{}`.
    pub(crate) fn silent() -> Self {
        Self { text: String::new(), json: Value::Object(serde_json::Map::new()), failure: None }
    }

    /// Done, and everything is printed.
    pub(crate) fn printed() -> Self {
        Self { text: String::new(), json: Value::Null, failure: None }
    }

    /// The same, but the command failed.
    pub(crate) fn and_failure(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
    }
}

/// Where the answer goes, in the form that was asked for.
pub(crate) struct Printer {
    json: bool,
    out: Box<dyn Write>,
}

impl Printer {
    /// One that writes JSON, or text for people.
    pub(crate) fn new(json: bool, out: impl Write + 'static) -> Self {
        Self { json, out: Box::new(out) }
    }

    /// Writes an answer.
    ///
    /// # Errors
    /// What the kernel says; that the reader has seen enough (`| head`) is none.
    pub(crate) fn print(&mut self, output: &Output) -> io::Result<()> {
        let text = match (self.json, &output.json) {
            (true, Value::Null) => String::new(),
            (true, json) => format!("{json:#}\n"),
            (false, _) => output.text.clone(),
        };
        self.write(&text).map(|_| ())
    }

    /// Writes `text` at once; whether the reader wants more.
    fn write(&mut self, text: &str) -> io::Result<bool> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// A list that is printed page by page: as JSON one array, an element per line.
pub(crate) struct Listing<'a> {
    printer: &'a mut Printer,
    is_empty: bool,
}

impl<'a> Listing<'a> {
    pub(crate) fn new(printer: &'a mut Printer) -> Self {
        Self { printer, is_empty: true }
    }

    /// Prints a page; whether the reader wants more.
    pub(crate) fn page<T: Serialize>(
        &mut self,
        items: &[T],
        render: impl FnOnce(&[T]) -> String,
    ) -> Result<bool, Failure> {
        let mut text = String::new();
        if self.printer.json {
            for item in items {
                text.push_str(if std::mem::take(&mut self.is_empty) { "[\n  " } else { ",\n  " });
                text.push_str(&serde_json::to_string(item).map_err(|e| Failure::Unreadable(e.to_string()))?);
            }
        } else {
            text = render(items);
        }
        self.write(&text)
    }

    /// Prints what ends the list.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        let end = if self.is_empty { "[]\n" } else { "\n]\n" };
        if self.printer.json { self.write(end).map(|_| ()) } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<bool, Failure> {
        self.printer.write(text).map_err(|e| Failure::Output(e.to_string()))
    }
}

/// Columns aligned with two spaces between them; numbers to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; a heading that begins with `>` makes a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        Self { rows: vec![headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect()], right }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let cells = cells.into_iter().map(|c| if c.is_empty() { "-".to_owned() } else { visible(&c) }).collect();
        self.rows.push(cells);
    }

    /// The table as text, each line after `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let width = |column: usize| self.rows.iter().map(|row| columns(&row[column])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (index, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[index] - columns(cell));
                let gap = if index == 0 { "" } else { "  " };
                line.push_str(gap);
                if self.right[index] {
                    line.extend([padding.as_str(), cell]);
                } else {
                    line.extend([cell, padding.as_str()]);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The width of a cell on the screen; every character that we print is one column wide.
fn columns(cell: &str) -> usize {
    cell.chars().count()
}

/// Text on one line and without orders to the terminal: control characters as Rust would write them.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Values with a separator between them.
pub(crate) fn join<T: ToString>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

/// `1 port`, `2 ports`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_not_padded() {
        let mut table = Table::new(&["NAME", ">FRAMES", "NOTE"]);
        table.row(["web".into(), "7".into(), String::new()]);
        table.row(["· worker 0".into(), "123456789".into(), "x".into()]);
        assert_eq!(
            table.render("  "),
            "  NAME           FRAMES  NOTE\n  web                 7  -\n  · worker 0  123456789  x\n"
        );
    }

    #[test]
    fn control_characters_are_shown() {
        let mut table = Table::new(&["NAME"]);
        table.row(["\u{1b}[2Jweb\n".into()]);
        assert_eq!(table.render(""), "NAME\n\\u{1b}[2Jweb\\n\n");
        assert_eq!(visible("plain · ü"), "plain · ü");
    }

    #[derive(Clone, Default)]
    struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn listed(json: bool, pages: &[&[u8]]) -> String {
        let written = Shared::default();
        let mut printer = Printer::new(json, written.clone());
        let mut listing = Listing::new(&mut printer);
        for page in pages {
            assert!(listing.page(page, |page| format!("{}\n", join(page, " "))).unwrap());
        }
        listing.end().unwrap();
        let bytes = written.0.borrow().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_list_in_pages_is_one_document() {
        for pages in [&[][..], &[&[][..]], &[&[1, 2][..], &[][..], &[3][..]]] {
            let all: Vec<u8> = pages.concat();
            assert_eq!(serde_json::from_str::<Vec<u8>>(&listed(true, pages)).unwrap(), all);
        }
        assert_eq!(listed(false, &[&[1, 2], &[3]]), "1 2\n3\n");
    }

    #[test]
    fn an_empty_answer_is_still_a_document() {
        assert_eq!(Output::silent().json.to_string(), "{}");
        assert_eq!(Output::new("", &Vec::<u8>::new()).unwrap().json.to_string(), "[]");
    }
}
