//! Compares what a page shows with what was printed.
//!
//! Ids and tokens differ from run to run, so the first time that a page shows one it is bound to what
//! was printed in its place, and from then on it stands for that, in outputs and in commands. Numbers
//! of milliseconds, positions and process ids match any. `...` matches the rest of a word or more,
//! within its line; on a line of its own it matches any lines. A run of blanks matches any other.

use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(char),
    Blank,
    Newline,
    /// What is drawn at random: hexadecimal of 12 or 32 digits, or a number of 15 digits or more.
    Id(String),
    Number(String),
    /// A number that is a time, a position or a process id.
    Varying,
    /// `...`
    Any,
    /// `...` on a line of its own.
    AnyLines,
}

/// What the values that a page shows stand for.
#[derive(Clone, Default)]
pub struct Bindings {
    printed_of: HashMap<String, String>,
}

impl Bindings {
    /// The command with the values of this run.
    pub fn put_into(&self, command: &str) -> String {
        let replace =
            |text: String, (shown, printed): (&String, &String)| text.replace(shown, printed);
        self.printed_of.iter().fold(command.to_owned(), replace)
    }

    /// Whether this was shown; binds the ids in it if it was.
    pub fn matches(&mut self, shown: &str, printed: &str, numbers_vary: bool) -> bool {
        let mut bound = self.clone();
        let (shown, printed) = (pieces(shown), pieces(printed));
        let same = bound.walk(&shown, &printed, numbers_vary);
        if same {
            *self = bound;
        }
        same
    }

    fn walk(&mut self, shown: &[Piece], printed: &[Piece], numbers_vary: bool) -> bool {
        let Some((first, shown)) = shown.split_first() else {
            return printed.is_empty();
        };
        if matches!(first, Piece::Any | Piece::AnyLines) {
            let across = *first == Piece::AnyLines;
            return (0..=printed.len())
                .take_while(|n| across || !printed[..*n].contains(&Piece::Newline))
                .any(|n| {
                    let mut attempt = self.clone();
                    let same = attempt.walk(shown, &printed[n..], numbers_vary);
                    if same {
                        *self = attempt;
                    }
                    same
                });
        }
        let Some((other, printed)) = printed.split_first() else {
            return false;
        };
        let same = match (first, other) {
            (Piece::Id(shown), Piece::Id(printed)) => self.bind(shown, printed),
            (Piece::Number(_), Piece::Number(_)) if numbers_vary => true,
            (shown, printed) => shown == printed,
        };
        same && self.walk(shown, printed, numbers_vary)
    }

    /// One shown value stands for one printed value, and no other shown value does.
    fn bind(&mut self, shown: &str, printed: &str) -> bool {
        match self.printed_of.get(shown) {
            Some(bound) => bound == printed,
            None if self.printed_of.values().any(|bound| bound == printed) => false,
            None => {
                self.printed_of.insert(shown.to_owned(), printed.to_owned());
                true
            }
        }
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for line in text.trim_end().lines() {
        let line = line.trim_end();
        if line.trim() == "..." {
            pieces.push(Piece::AnyLines);
        } else {
            line_pieces(line, &mut pieces);
        }
        pieces.push(Piece::Newline);
    }
    pieces
}

fn line_pieces(line: &str, pieces: &mut Vec<Piece>) {
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let done = &line[..line.len() - rest.len()];
        let word = rest
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or("");
        let length = if rest.starts_with("...") {
            pieces.push(Piece::Any);
            3
        } else if first.is_whitespace() {
            pieces.push(Piece::Blank);
            rest.len() - rest.trim_start().len()
        } else if is_id(word) {
            pieces.push(Piece::Id(word.to_owned()));
            word.len()
        } else if first.is_ascii_digit() {
            // What is behind it, a unit perhaps, is text.
            let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
            let number = word.strip_suffix(unit).unwrap_or(word);
            pieces.push(match varies(done) {
                true => Piece::Varying,
                false => Piece::Number(number.to_owned()),
            });
            number.len()
        } else if !word.is_empty() {
            pieces.extend(word.chars().map(Piece::Text));
            word.len()
        } else {
            pieces.push(Piece::Text(first));
            first.len_utf8()
        };
        rest = &rest[length..];
    }
}

fn is_id(word: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    (word.bytes().all(hex) && matches!(word.len(), 12 | 32)) || (digits && word.len() >= 15)
}

/// Whether a number after this is never the same twice.
fn varies(before: &str) -> bool {
    let position = before
        .rsplit_once("osition\":\"")
        .is_some_and(|(_, after)| after.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    position || before.ends_with("_ms\":") || before.ends_with("pid ")
}

#[test]
fn a_shown_value_stands_for_one_printed_value() {
    let mut bindings = Bindings::default();
    assert!(bindings.matches(
        "token 1882437372084225\n",
        "token 1999999999999999\n",
        false
    ));
    assert_eq!(
        bindings.put_into("x 1882437372084225"),
        "x 1999999999999999"
    );
    assert!(!bindings.matches("1882437372084225", "1888888888888888", false));
    assert!(!bindings.matches("1882437372084226", "1999999999999999", false));
    assert!(bindings.matches("1882437372084226", "1777777777777777", false));
}

#[test]
fn only_what_varies_may_differ() {
    let same = |shown: &str, printed: &str| Bindings::default().matches(shown, printed, false);
    assert!(same(
        "{\"a_ms\":1,\"position\":\"3.0\"}",
        "{\"a_ms\":22,\"position\":\"14.2\"}"
    ));
    assert!(!same("{\"place\":1}", "{\"place\":2}"));
    assert!(same("held by ... now", "held by x y 7 now"));
    assert!(!same("held by ... now", "held by x\nnow"));
    assert!(same("a\n...\nz", "a\nb\nc\nz"));
    assert!(!same("a", "a\nb"));
    assert!(!same("", "a"));
    assert!(Bindings::default().matches("n 1", "n 2", true));
    assert!(Bindings::default().matches("1.2s", "13.0s", true));
    assert!(!Bindings::default().matches("1.2s", "1.2m", true));
    assert!(!same("1.2s", "1.3s"));
}
