//! `palisade completions` and `palisade man`: what can be said of the command line without a cluster.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;
use serde_json::json;

use crate::arguments::{Arguments, ManArguments};
use crate::exit;
use crate::output::Output;

/// Prints a shell's completion script.
pub(crate) fn completions(shell: clap_complete::Shell, output: Output) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "palisade", &mut script);
    output.write(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints one page, or writes all of them.
pub(crate) fn run(arguments: &ManArguments, output: Output) -> ExitCode {
    match &arguments.out {
        Some(folder) => match write_all(folder) {
            Ok(pages) => output.show(&json!({ "pages": pages }), |_| {
                format!("{} pages in {}\n", pages.len(), folder.display())
            }),
            Err(error) => exit::fail(
                exit::USAGE,
                format_args!("cannot write into {}: {error}", folder.display()),
            ),
        },
        None => print(&arguments.command, output),
    }
}

fn print(names: &[String], output: Output) -> ExitCode {
    let mut command = &root();
    for name in names {
        let Some(found) = visible(command).find(|command| command.get_name() == name) else {
            let names: Vec<_> = visible(command).map(clap::Command::get_name).collect();
            let message = match names.as_slice() {
                [] => format!("{} has no commands", command.get_name()),
                names => format!("no command `{name}`: there are {}", names.join(", ")),
            };
            return exit::fail(exit::USAGE, message);
        };
        command = found;
    }
    let mut page = Vec::new();
    match page_of(command).render(&mut page) {
        Ok(()) => {
            output.write(&String::from_utf8_lossy(&page));
            ExitCode::SUCCESS
        }
        Err(error) => exit::fail(exit::UNAVAILABLE, error),
    }
}

/// One page for each command, and one for `palisade` itself.
fn write_all(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let mut pages = Vec::new();
    write(&root(), folder, &mut pages)?;
    pages.sort();
    Ok(pages)
}

fn write(command: &clap::Command, folder: &Path, pages: &mut Vec<PathBuf>) -> io::Result<()> {
    for command in visible(command) {
        write(command, folder, pages)?;
    }
    pages.push(page_of(command).generate_to(folder)?);
    Ok(())
}

fn page_of(command: &clap::Command) -> Man {
    let source = concat!("palisade ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).manual("Palisade")
}

fn visible(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
}

/// The grammar with the full name of each command. Pages have no page `help`.
fn root() -> clap::Command {
    let mut root = Arguments::command().disable_help_subcommand(true);
    root.build();
    root
}
