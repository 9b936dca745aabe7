//! `palisade-jepsen check`: reads, has it judged within bounds, prints.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use jepsen_checker::html::{Page, TimelineOptions};
use jepsen_checker::witness::LogDump;
use jepsen_checker::{Budget, Settings};

use crate::arguments::CheckArguments;
use crate::output::{Decided, Judged, Style, eprint_line, print};
use crate::{exit, guess, progress};

/// Checks all files; the exit status.
pub(crate) fn run(arguments: &CheckArguments) -> u8 {
    if let Err(problem) = refuse(arguments) {
        eprint_line(&problem);
        return exit::UNUSABLE;
    }
    let style = match (arguments.json, arguments.files.len()) {
        (true, _) => Style::Json,
        (false, 1) => Style::Explained,
        (false, _) => Style::Line,
    };
    let mut out = std::io::stdout().lock();
    let mut worst = exit::VALID;
    for file in &arguments.files {
        let name = if is_stdin(file) {
            "-".to_owned()
        } else {
            file.display().to_string()
        };
        let result = judge(arguments, file, &name, style);
        // The verdict stands without its page.
        if let (Ok(judged), Some(page)) = (&result, &arguments.html)
            && let Err(problem) = write_page(judged, &name, page)
        {
            eprint_line(&problem);
            worst = exit::worst(worst, exit::UNUSABLE);
        }
        let status = result.as_ref().map_or(exit::UNUSABLE, Judged::status);
        worst = exit::worst(worst, status);
        let printed = print(&mut out, &name, &result, style).and_then(|()| out.flush());
        if let Err(error) = printed {
            // Whoever closed the pipe has read enough.
            if error.kind() != ErrorKind::BrokenPipe {
                eprint_line(&format!("cannot print: {error}"));
                worst = exit::worst(worst, exit::UNUSABLE);
            }
            return worst;
        }
    }
    worst
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn refuse(arguments: &CheckArguments) -> Result<(), String> {
    if arguments.html.is_some() && arguments.files.len() > 1 {
        return Err("--html writes the page of one history: name one FILE".to_owned());
    }
    if arguments.log.is_some() && arguments.files.len() > 1 {
        return Err("--log is the log of one history: name one FILE".to_owned());
    }
    if arguments.files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return Err("standard input is one history: name `-` once".to_owned());
    }
    Ok(())
}

fn judge(
    arguments: &CheckArguments,
    file: &Path,
    name: &str,
    style: Style,
) -> Result<Judged, String> {
    let started = Instant::now();
    let input = read(file)?;
    let guessed = |guessed: bool| if guessed { " (guessed)" } else { "" };
    let format = match arguments.format {
        Some(format) => format,
        None => guess::format(&input)?,
    };
    let fail = arguments.fail.map_or(format.fail_meaning(), Into::into);
    let history = format
        .read(&input[..], fail)
        .map_err(|error| error.to_string())?;
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => guess::model(&history)?,
    };
    let decided = match &arguments.log {
        Some(log) => {
            let log = log_dump(log)?;
            model.witness(&history, Some(&log)).map(Decided::Witness)
        }
        None => {
            let explain = !matches!(style, Style::Line);
            progress::during(name, arguments.timeout, || {
                let deadline = started.checked_add(arguments.timeout);
                let stop = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let budget = Budget {
                    steps: arguments.steps.unwrap_or(u64::MAX),
                    memory_bytes: arguments.memory_mib << 20,
                    stop: &stop,
                };
                let workers = std::thread::available_parallelism().map_or(1, usize::from);
                let settings = Settings {
                    explain,
                    workers,
                    ..Settings::default()
                };
                model
                    .check(&history, &settings, &budget)
                    .map(Decided::Search)
            })
        }
    };
    let decided = decided.map_err(|error| error.to_string())?;
    let model_name = match &decided {
        Decided::Search(report) => report.model,
        Decided::Witness(report) => report.model,
    };
    let chosen = format!(
        "format {}{}, model {model_name}{}",
        format.name(),
        guessed(arguments.format.is_none()),
        guessed(arguments.model.is_none())
    );
    Ok(Judged {
        history,
        decided,
        chosen,
        took: started.elapsed(),
    })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut input = Vec::new();
    let read = if is_stdin(file) {
        std::io::stdin().lock().read_to_end(&mut input)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut input))
    };
    read.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(input)
}

fn log_dump(file: &Path) -> Result<LogDump, String> {
    let problem = |error: String| format!("the log {}: {error}", file.display());
    let text = String::from_utf8(read(file).map_err(problem)?)
        .map_err(|_| problem("this is not UTF-8 text".to_owned()))?;
    LogDump::read(&text).map_err(|error| problem(error.to_string()))
}

fn write_page(judged: &Judged, name: &str, page: &Path) -> Result<(), String> {
    let Decided::Search(report) = &judged.decided else {
        return Ok(());
    };
    let history = &judged.history;
    let statistics = report.statistics();
    let markup = Page::of_report(name, history, report, TimelineOptions::default())
        .with_fact("operations", &history.operations().len().to_string())
        .with_fact("independent parts", &report.partitions.len().to_string())
        .with_fact("read as", &judged.chosen)
        .with_fact("decided in", &seconds(judged.took))
        .with_fact(
            "configurations visited",
            &statistics.configurations.to_string(),
        );
    std::fs::write(page, markup.to_string())
        .map_err(|error| format!("the page {} cannot be written: {error}", page.display()))
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
