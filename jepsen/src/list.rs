//! `palisade-jepsen list`: what `run` knows.

use std::io::{self, Write};

use crate::cluster::{Backend, isolate, probe_namespaces};
use crate::nemesis::Fault;
use crate::workload::{MIXED, Workload};
use crate::{exit, output, system};

/// Prints it; the exit status.
pub(crate) fn list() -> u8 {
    match print(&mut io::stdout().lock()) {
        Ok(()) => exit::VALID,
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::VALID,
        Err(error) => {
            output::eprint_line(&format!("cannot print: {error}"));
            exit::UNUSABLE
        }
    }
}

fn print(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "workloads (--workload)")?;
    for workload in Workload::ALL {
        writeln!(out, "  {:24} {}", workload.name(), workload.description())?;
    }
    writeln!(
        out,
        "  {MIXED:24} all of them that the system supports, side by side"
    )?;
    writeln!(out, "\nfaults (--nemesis), by group")?;
    let mut group = "";
    for fault in Fault::ALL {
        if fault.group() != group {
            group = fault.group();
            writeln!(out, "  {group}")?;
        }
        let only = fault.treatment().and_then(|treatment| {
            let lacking = Backend::ALL
                .iter()
                .find(|backend| backend.lacks(treatment).is_some());
            lacking.map(|backend| format!(" (not with {})", backend.name()))
        });
        let here = match fault.library() {
            Ok(()) => String::new(),
            Err(why) => format!(" (not here: {why})"),
        };
        writeln!(
            out,
            "    {:24} {}{}{here}",
            fault.name(),
            fault.description(),
            only.unwrap_or_default()
        )?;
    }
    writeln!(out, "\nsystems (--system)")?;
    for name in system::NAMES {
        let found = system::by_name(name, None).and_then(|system| system.probe());
        let words = found.unwrap_or_else(|why| format!("not here: {why}"));
        writeln!(out, "  {name:24} {words}")?;
    }
    // The last, as this process is in another namespace from here on.
    writeln!(out, "\nbackends (--backend)")?;
    for backend in Backend::ALL {
        let words = match backend {
            Backend::Processes => Ok("a TCP proxy on every link".to_owned()),
            Backend::Namespaces => namespaces(),
        };
        let words = words.unwrap_or_else(|why| format!("not here: {why}"));
        writeln!(out, "  {:24} {words}", backend.name())?;
    }
    Ok(())
}

/// What network namespaces can do here.
fn namespaces() -> Result<String, String> {
    isolate()?;
    let mut words = "a network namespace for each node, and nftables".to_owned();
    for (treatment, why) in probe_namespaces()? {
        let mut faults = Fault::ALL.iter();
        let fault = faults.find(|fault| fault.treatment() == Some(treatment));
        words += &format!("; not {}: {why}", fault.map_or("", |fault| fault.name()));
    }
    Ok(words)
}
