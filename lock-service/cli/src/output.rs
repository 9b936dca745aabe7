//! How results are shown: tables for people, JSON for programs, colour on a terminal only.

use std::convert::Infallible;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::exit;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    colour: bool,
}

impl Output {
    /// Colour when standard output is a terminal, unless `NO_COLOR` is set.
    pub(crate) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !plain && std::io::stdout().is_terminal(),
        }
    }

    /// Prints a result: as JSON, or as what `people` makes of it.
    pub(crate) fn show<T: Serialize>(
        self,
        result: &T,
        people: impl FnOnce(&T) -> String,
    ) -> ExitCode {
        let text = match self.json {
            true => serde_json::to_string_pretty(result).map(|json| json + "\n"),
            false => Ok(people(result)),
        };
        match text {
            Ok(text) => {
                self.write(&text);
                ExitCode::SUCCESS
            }
            Err(error) => exit::fail(exit::UNAVAILABLE, error),
        }
    }

    /// Writes to standard output; whether somebody still reads it.
    pub(crate) fn write(self, text: &str) -> bool {
        // A reader that has gone away (`| head`) is no failure of ours.
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).is_ok() && out.flush().is_ok()
    }

    /// Columns below a header, as wide as their widest cell.
    pub(crate) fn table<const N: usize>(self, header: [&str; N], rows: &[[String; N]]) -> String {
        let header = header.map(str::to_owned);
        let mut widths = [0; N];
        for row in std::iter::once(&header).chain(rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |row: &[String; N]| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        };
        let mut text = match self.colour {
            true => format!("\x1b[1m{}\x1b[0m\n", line(&header)),
            false => line(&header) + "\n",
        };
        for row in rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

/// Who looks on is told after this what is being waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// Waits for ever. Says after a while what for, if somebody looks on at a terminal.
pub(crate) async fn tell<T: Display>(what: impl Future<Output = T>) -> Infallible {
    if std::io::stderr().is_terminal() {
        tokio::time::sleep(SILENCE).await;
        exit::say(what.await);
    }
    std::future::pending().await
}

/// A value, or a dash for none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Milliseconds for people, in seconds.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_colour_is_not_counted() {
        let rows = [
            ["a".to_owned(), "long cell".to_owned()],
            ["bcd".to_owned(), "-".to_owned()],
        ];
        let plain = Output {
            json: false,
            colour: false,
        };
        assert_eq!(
            plain.table(["X", "Y"], &rows),
            "X    Y\na    long cell\nbcd  -\n"
        );
        let coloured = Output {
            json: false,
            colour: true,
        };
        let table = coloured.table(["X", "Y"], &rows);
        assert_eq!(table.lines().nth(1), Some("a    long cell"));
        assert_eq!(table.lines().next(), Some("\u{1b}[1mX    Y\u{1b}[0m"));
    }
}
