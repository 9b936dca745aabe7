//! The blocks of a Markdown page that are checked, and the comments before them that say how.

use std::ops::Range;

/// How a block is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// `console`: commands after `$ `, each with what it prints.
    Console,
    /// `sh`: a script, of which nothing is shown.
    Sh,
    /// `rust`: a part of a file that is compiled.
    Rust,
}

/// One block.
#[derive(Debug)]
pub struct Block {
    pub language: Language,
    /// Line of its fence, from 1.
    pub line: usize,
    pub text: String,
    /// The file that it is a part of.
    pub quotes: Option<String>,
    /// Why it cannot be run here.
    pub not_run: Option<String>,
    /// Scripts that set the scene.
    pub before: Vec<String>,
    pub output_varies: bool,
    pub numbers_vary: bool,
    pub steps: Vec<Step>,
}

/// One command, and what the page says that it prints.
#[derive(Debug)]
pub struct Step {
    /// Line of the command, from 1.
    pub line: usize,
    pub command: String,
    pub shown: String,
    /// Where that is: indexes of lines.
    pub shown_lines: Range<usize>,
}

impl Block {
    /// Whether it has commands.
    pub fn has_commands(&self) -> bool {
        self.language != Language::Rust
    }
}

/// All `console`, `sh` and `rust` blocks, in order.
///
/// # Panics
/// On a comment that is not known, a reason that is missing, a fence that is not closed.
pub fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut blocks, mut comments) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if let Some(comment) = line.strip_prefix("<!--") {
            let first = at;
            while !lines[at].contains("-->") {
                at += 1;
            }
            let mut words = vec![comment];
            words.extend(&lines[first + 1..=at]);
            let words = words.join("\n");
            comments.push(words.split("-->").next().unwrap().trim().to_owned());
        } else if let Some(fence) = line.trim_start().strip_prefix("```") {
            let first = at + 1;
            at = (first..lines.len())
                .find(|at| lines[*at].trim() == "```")
                .unwrap_or_else(|| panic!("line {first}: this block is not closed"));
            let language = match fence.trim() {
                "console" => Some(Language::Console),
                "sh" => Some(Language::Sh),
                "rust" => Some(Language::Rust),
                _ => None,
            };
            if let Some(language) = language {
                blocks.push(block(language, &lines, first..at, &comments));
            }
            comments.clear();
        } else if !line.trim().is_empty() {
            comments.clear();
        }
        at += 1;
    }
    blocks
}

fn block(language: Language, lines: &[&str], body: Range<usize>, comments: &[String]) -> Block {
    let mut block = Block {
        language,
        line: body.start,
        text: lines[body.clone()].join("\n"),
        quotes: None,
        not_run: None,
        before: Vec::new(),
        output_varies: false,
        numbers_vary: false,
        steps: Vec::new(),
    };
    for comment in comments {
        let (what, rest) = comment.split_once(':').unwrap_or((comment, ""));
        let reason = rest.trim().to_owned();
        let has_reason = !reason.is_empty();
        match what.trim() {
            "not run" if has_reason => block.not_run = Some(reason),
            "quotes" if has_reason => block.quotes = Some(reason),
            "before" if has_reason => block.before.push(reason),
            "output varies" if has_reason => block.output_varies = true,
            "numbers vary" => block.numbers_vary = true,
            _ => panic!(
                "line {}: what does the comment `{comment}` mean?",
                body.start
            ),
        }
    }
    match language {
        Language::Sh => block.steps.push(Step {
            line: body.start + 1,
            command: block.text.clone(),
            shown: String::new(),
            shown_lines: body.end..body.end,
        }),
        Language::Console => block.steps = steps(lines, body),
        Language::Rust => {}
    }
    block
}

fn steps(lines: &[&str], body: Range<usize>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for at in body {
        let line = lines[at];
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: at + 1,
                command: command.to_owned(),
                shown: String::new(),
                shown_lines: at + 1..at + 1,
            });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| {
            panic!(
                "line {}: a console block begins with a command after `$ `",
                at + 1
            )
        });
        match line.strip_prefix("> ") {
            Some(more) if step.shown_lines.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
                step.shown_lines = at + 1..at + 1;
            }
            _ => {
                step.shown.push_str(line);
                step.shown.push('\n');
                step.shown_lines.end = at + 1;
            }
        }
    }
    steps
}

/// Whether the lines stand in the file one after the other, wherever they are indented to.
pub fn is_quoted_from(quote: &str, file: &str) -> bool {
    let (quote, file): (Vec<_>, Vec<_>) = (quote.lines().collect(), file.lines().collect());
    let Some(first) = quote.first() else {
        return false;
    };
    file.windows(quote.len()).any(|lines| {
        let Some(indent) = lines[0].strip_suffix(first) else {
            return false;
        };
        let mut pairs = lines.iter().zip(&quote);
        indent.trim().is_empty()
            && pairs.all(|(line, quote)| {
                line.is_empty() && quote.is_empty() || line.strip_prefix(indent) == Some(quote)
            })
    })
}

#[test]
fn a_quote_is_the_files_own_lines_in_their_order() {
    let file = "fn a() {\n    one();\n\n    if b {\n        two();\n    }\n}\n";
    assert!(is_quoted_from("one();\n\nif b {\n    two();\n}", file));
    assert!(is_quoted_from("two();", file));
    assert!(!is_quoted_from("one();\nif b {", file));
    assert!(!is_quoted_from("ne();", file));
    assert!(!is_quoted_from("one();\n\n  if b {", file));
    assert!(!is_quoted_from("", file));
}

#[test]
fn a_page_gives_its_blocks_with_what_they_show() {
    let text = "<!-- before: a\nb -->\n<!-- numbers vary -->\n```console\n$ x \\\n> y\n1\n2\n$ z\n```\n\
                text\n<!-- quotes: a.rs -->\n```rust\nx();\n```\n```rust,ignore\n```\n<!-- not run: it builds -->\n```sh\nmake\n```\n";
    let blocks = blocks(text);
    assert_eq!(blocks.len(), 3);
    assert_eq!(blocks[0].before, ["a\nb"]);
    assert!(blocks[0].numbers_vary);
    assert_eq!(blocks[0].steps.len(), 2);
    assert_eq!(blocks[0].steps[0].command, "x \\\ny");
    assert_eq!(blocks[0].steps[0].shown, "1\n2\n");
    assert_eq!(blocks[0].steps[0].shown_lines, 6..8);
    assert_eq!(blocks[0].steps[1].command, "z");
    assert_eq!(blocks[1].quotes.as_deref(), Some("a.rs"));
    assert_eq!(blocks[1].text, "x();");
    assert!(!blocks[1].has_commands());
    assert_eq!(blocks[2].not_run.as_deref(), Some("it builds"));
    assert_eq!(blocks[2].steps[0].command, "make");
}
