//! The command blocks of a Markdown page, and the comments before them that say how to run them.

use std::ops::Range;

/// How a block is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// `console`: commands after `$ `, each with what it prints.
    Console,
    /// `sh`: a script, of which nothing is shown.
    Sh,
}

/// One block of commands.
#[derive(Debug)]
pub struct Block {
    pub language: Language,
    /// Line of its fence, from 1.
    pub line: usize,
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

/// All `console` and `sh` blocks, in order.
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
            command: lines[body.clone()].join("\n"),
            shown: String::new(),
            shown_lines: body.end..body.end,
        }),
        Language::Console => block.steps = steps(lines, body),
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

#[test]
fn a_page_gives_its_blocks_with_what_they_show() {
    let text = "<!-- before: a\nb -->\n<!-- numbers vary -->\n```console\n$ x \\\n> y\n1\n2\n$ z\n```\n\
                text\n```rust\n```\n<!-- not run: it builds -->\n```sh\nmake\n```\n";
    let blocks = blocks(text);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].before, ["a\nb"]);
    assert!(blocks[0].numbers_vary);
    assert_eq!(blocks[0].steps.len(), 2);
    assert_eq!(blocks[0].steps[0].command, "x \\\ny");
    assert_eq!(blocks[0].steps[0].shown, "1\n2\n");
    assert_eq!(blocks[0].steps[0].shown_lines, 6..8);
    assert_eq!(blocks[0].steps[1].command, "z");
    assert_eq!(blocks[1].not_run.as_deref(), Some("it builds"));
    assert_eq!(blocks[1].steps[0].command, "make");
}
