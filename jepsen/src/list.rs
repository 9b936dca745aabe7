//! `palisade-jepsen list`: what `run` knows.

use std::io::{self, Write};

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
        writeln!(out, "    {:24} {}", fault.name(), fault.description())?;
    }
    writeln!(out, "\nsystems (--system)")?;
    for name in system::NAMES {
        let found = system::by_name(name, None).and_then(|system| system.probe());
        let words = found.unwrap_or_else(|why| format!("not here: {why}"));
        writeln!(out, "  {name:24} {words}")?;
    }
    Ok(())
}
