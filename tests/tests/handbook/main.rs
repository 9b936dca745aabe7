//! The handbook does what it says: every command block of the README and of the book's pages runs, in
//! order, against the built programs and a real cluster, and prints what the page shows. Rust is quoted
//! from files that are compiled. Links lead somewhere.
//!
//! Each page has a shell of its own, in an empty folder, in a network and process namespace of its
//! own: `localhost:7101` is the page's cluster, `pkill` finds only the page's processes, and all of
//! them end with the page. Where namespaces are not allowed the pages are `SKIPPED`; the other tests
//! run. How pages are written is in docs/testing.md, "The handbook".
//!
//! `UPDATE_HANDBOOK=1` writes what was printed into the pages wherever they show something else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod links;
mod page;
mod shell;
mod shown;

use std::path::{Path, PathBuf};

use page::{Block, Language};
use shell::Shell;
use shown::Bindings;

/// A test for each page that has commands.
macro_rules! pages {
    ($($name:ident => $path:literal,)*) => {
        const PAGES: &[&str] = &[$($path),*];
        $(#[test] fn $name() { run($path); })*
    };
}

pages! {
    the_readme_runs => "README.md",
    the_fencing_guide_runs => "docs/fencing.md",
    operations_run => "docs/operations.md",
    the_api_page_runs => "docs/api.md",
    the_checker_page_runs => "docs/checker.md",
    testing_runs => "docs/testing.md",
    the_mutants_page_runs => "docs/testing-mutants.md",
    the_quick_start_runs => "docs/quick-start.md",
    the_runbook_runs => "docs/runbook.md",
    the_library_page_runs => "docs/library.md",
    the_sizing_page_runs => "docs/sizing.md",
    the_deploy_page_runs => "docs/deploying.md",
    the_command_line_page_runs => "docs/cli.md",
    the_sidecar_page_runs => "docs/sidecar.md",
    the_client_page_runs => "docs/client.md",
}

fn root() -> PathBuf {
    Path::new("..").canonicalize().unwrap()
}

/// The README, and every page that docs/SUMMARY.md names.
fn all_pages() -> Vec<PathBuf> {
    let summary = Path::new("docs/SUMMARY.md");
    let text = std::fs::read_to_string(root().join(summary)).expect("the book has a summary");
    let chapters = links::of(&text)
        .into_iter()
        .map(|link| PathBuf::from("docs").join(link));
    [PathBuf::from("README.md"), summary.to_owned()]
        .into_iter()
        .chain(chapters)
        .collect()
}

#[test]
fn every_page_with_commands_has_a_test() {
    for path in all_pages() {
        let text = std::fs::read_to_string(root().join(&path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let has_commands = page::blocks(&text).iter().any(Block::has_commands);
        let listed = PAGES.contains(&path.to_str().unwrap());
        assert!(
            listed || !has_commands,
            "{} has command blocks and no test in tests/tests/handbook/main.rs",
            path.display()
        );
    }
}

#[test]
fn rust_in_the_book_is_quoted_from_a_file_that_is_compiled() {
    let mut wrong = Vec::new();
    for path in all_pages() {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let blocks = page::blocks(&text);
        let rust = blocks.iter().filter(|block| !block.has_commands());
        for block in rust {
            let place = format!("{}:{}", path.display(), block.line);
            let Some(file) = &block.quotes else {
                wrong.push(format!("{place}: name the file: <!-- quotes: FILE -->"));
                continue;
            };
            let source = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            if !page::is_quoted_from(&block.text, &source) {
                wrong.push(format!("{place}: these lines are not in {file}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_book_once() {
    let mut pages = all_pages();
    pages.sort();
    let twice: Vec<_> = pages.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "mdbook refuses {twice:?}");
}

#[test]
fn every_link_leads_somewhere() {
    let broken = links::broken(&root(), &all_pages());
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

fn run(path: &str) {
    let file = root().join(path);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut blocks = page::blocks(&text);
    blocks.retain(|block| block.has_commands() && block.not_run.is_none());
    if blocks.is_empty() {
        return;
    }
    let Some(mut shell) = Shell::start(&root()) else {
        eprintln!("SKIPPED {path}: this system allows no network and process namespaces here");
        return;
    };
    let mut bindings = Bindings::default();
    let mut edits = Vec::new();
    for block in &blocks {
        run_block(path, block, &mut shell, &mut bindings, &mut edits);
    }
    if !edits.is_empty() {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (range, new) in edits.into_iter().rev() {
            lines.splice(range, new);
        }
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        eprintln!("{path}: wrote what was printed");
    }
}

type Edit = (std::ops::Range<usize>, Vec<String>);

fn run_block(
    path: &str,
    block: &Block,
    shell: &mut Shell,
    bindings: &mut Bindings,
    edits: &mut Vec<Edit>,
) {
    for before in &block.before {
        let done = shell.run(before, true);
        assert_eq!(
            done.status, 0,
            "{path}:{}: before the block:\n{}",
            block.line, done.output
        );
    }
    for step in &block.steps {
        let command = bindings.put_into(&step.command);
        let done = shell.run(&command, block.language == Language::Sh);
        let place = format!("{path}:{}", step.line);
        assert_eq!(
            done.status, 0,
            "{place}: exit status {} of\n{command}\nwhich printed\n{}",
            done.status, done.output
        );
        if block.language == Language::Sh || block.output_varies {
            continue;
        }
        if !bindings.matches(&step.shown, &done.output, block.numbers_vary) {
            assert!(
                std::env::var_os("UPDATE_HANDBOOK").is_some(),
                "{place}: the page shows\n{}\nand `{command}` printed\n{}",
                step.shown,
                done.output
            );
            let printed: Vec<String> = done.output.lines().map(str::to_owned).collect();
            bindings.matches(&done.output, &done.output, false);
            edits.push((step.shown_lines.clone(), printed));
        }
    }
}
