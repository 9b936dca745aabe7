//! What is printed for each file: a line, or a JSON object.

use std::io::Write;
use std::time::Duration;

use jepsen_checker::explain;
use jepsen_checker::witness::{WitnessReport, WitnessVerdict};
use jepsen_checker::{History, Report, Verdict};
use serde_json::{Value as Json, json};

use crate::exit;

/// What was decided of a history.
pub(crate) enum Decided {
    Search(Report),
    Witness(WitnessReport),
}

/// A history that was judged.
pub(crate) struct Judged {
    pub(crate) history: History,
    pub(crate) decided: Decided,
    /// Format and model, and whether they were guessed: `format edn (guessed), model kv`.
    pub(crate) chosen: String,
    pub(crate) took: Duration,
}

impl Judged {
    pub(crate) fn status(&self) -> u8 {
        match &self.decided {
            Decided::Search(report) => match report.verdict {
                Verdict::Valid { .. } => exit::VALID,
                Verdict::Invalid(_) => exit::INVALID,
                Verdict::Unknown(_) => exit::UNKNOWN,
            },
            Decided::Witness(report) => match report.verdict {
                WitnessVerdict::Proven => exit::VALID,
                WitnessVerdict::Refuted(_) => exit::INVALID,
                WitnessVerdict::Unknown(_) => exit::UNKNOWN,
            },
        }
    }

    /// Verdict first: `invalid, 170 operations, format edn, model kv, 0.012 s`.
    fn line(&self) -> String {
        format!(
            "{}, {} operations, {}, {:.3} s",
            status_name(self.status()),
            self.history.operations().len(),
            self.chosen,
            self.took.as_secs_f64()
        )
    }

    fn text(&self) -> String {
        match &self.decided {
            Decided::Search(report) => explain::report_text(&self.history, report),
            Decided::Witness(report) => explain::witness_text(&self.history, report),
        }
    }

    fn json(&self) -> Json {
        match &self.decided {
            Decided::Search(report) => explain::report_json(&self.history, report),
            Decided::Witness(report) => explain::witness_json(&self.history, report),
        }
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        exit::VALID => "valid",
        exit::INVALID => "invalid",
        exit::UNKNOWN => "unknown",
        _ => "unusable",
    }
}

/// How results are printed.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    /// A line.
    Line,
    /// A line, and what it means.
    Explained,
    /// A JSON object on a line.
    Json,
}

/// Prints what became of a file.
pub(crate) fn print(
    out: &mut impl Write,
    name: &str,
    result: &Result<Judged, String>,
    style: Style,
) -> std::io::Result<()> {
    match (style, result) {
        (Style::Line, Ok(judged)) => writeln!(out, "{name}: {}", judged.line()),
        (Style::Explained, Ok(judged)) => {
            writeln!(
                out,
                "{name}: {}\n{}",
                judged.line(),
                judged.text().trim_end()
            )
        }
        (Style::Line | Style::Explained, Err(problem)) => {
            // Not judged: it belongs with the other complaints.
            eprint_line(&format!("{name}: unusable: {problem}"));
            Ok(())
        }
        (Style::Json, Ok(judged)) => {
            let status = status_name(judged.status());
            let took_ms = judged.took.as_secs_f64() * 1e3;
            let object = json!({
                "file": name,
                "status": status,
                "took_ms": took_ms,
                "chosen": judged.chosen,
                "report": judged.json(),
            });
            writeln!(out, "{object}")
        }
        (Style::Json, Err(problem)) => {
            writeln!(
                out,
                "{}",
                json!({"file": name, "status": "unusable", "error": problem})
            )
        }
    }
}

/// A line on standard error. If that is closed, nobody listens.
pub(crate) fn eprint_line(words: &str) {
    let _ = writeln!(std::io::stderr(), "palisade-jepsen: {words}");
}
