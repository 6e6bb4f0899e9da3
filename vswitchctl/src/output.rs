//! What a command prints: text for people, or one JSON document.
//!
//! A command never prints; it returns both forms and `main` writes the one that was asked for. So
//! nothing but that document can reach standard output, and rendering is tested without a process.
//!
//! Labels and names are other people's text: control characters in them are shown, not obeyed.

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

    /// The same, but the command failed.
    pub(crate) fn and_failure(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
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

    #[test]
    fn an_empty_answer_is_still_a_document() {
        assert_eq!(Output::silent().json.to_string(), "{}");
        assert_eq!(Output::new("", &Vec::<u8>::new()).unwrap().json.to_string(), "[]");
    }
}
