//! Libraries that are loaded into a node before it starts: one that knows what was synced and what a power
//! cut would lose, and one that tells another time. Both are looked for; what is not there is said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use power_cut::{Cut, Fsync, Tear};

/// Where Debian and others put libfaketime.
const FAKETIME_FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
];

/// The preload library of power cuts, or why there is none.
pub(crate) fn find_shim() -> Result<(), String> {
    power_cut::library()
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// libfaketime, or what to do about it.
pub(crate) fn find_faketime() -> Result<PathBuf, String> {
    FAKETIME_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join("libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .ok_or_else(|| "libfaketime is not installed (Debian: apt-get install faketime)".to_owned())
}

/// What is loaded into one node.
#[derive(Debug, Default)]
pub(crate) struct Preload {
    cut: Option<Cut>,
    faketime: Option<(PathBuf, PathBuf)>,
}

impl Preload {
    /// For a node with its data below this folder.
    pub(crate) fn new(
        data: &Path,
        with_cuts: bool,
        faketime: Option<&Path>,
    ) -> Result<Self, String> {
        let beside = |name: &str| data.with_file_name(name);
        let cut = match with_cuts {
            true => Some(Cut::begin(data, beside("journal")).map_err(|error| error.to_string())?),
            false => None,
        };
        let faketime = match faketime {
            Some(library) => {
                let file = beside("faketime");
                std::fs::write(&file, "+0").map_err(|error| error.to_string())?;
                Some((library.to_owned(), file))
            }
            None => None,
        };
        Ok(Preload { cut, faketime })
    }

    /// Sets the environment of a start.
    pub(crate) fn prepare(&self, command: &mut Command) -> Result<(), String> {
        if let Some((library, file)) = &self.faketime {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", file)
                .env("FAKETIME_CACHE_DURATION", "1")
                // Jumps of the wall clock alone: DESIGN section 6.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        match &self.cut {
            Some(cut) => cut.env_for(command).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// The wall clock is off by so many seconds from now on.
    pub(crate) fn jump(&self, seconds: i64) -> Result<(), String> {
        let (_, file) = self.faketime.as_ref().ok_or("no clock was prepared")?;
        std::fs::write(file, format!("{seconds:+}")).map_err(|error| error.to_string())
    }

    /// Syncs take this much longer, fail, or are honest again.
    pub(crate) fn set_fsync(&self, fsync: Fsync) -> Result<(), String> {
        let cut = self.cut.as_ref().ok_or("no disk was prepared")?;
        cut.set_fsync(fsync).map_err(|error| error.to_string())
    }

    /// Syncs take this much longer.
    pub(crate) fn slow(&self, pause: Duration) -> Result<(), String> {
        self.set_fsync(Fsync::Slow(pause))
    }

    /// Takes the data back to what was synced, and of what was not to what `kept` says of its bytes: the
    /// process must have been killed. What was lost, in words.
    pub(crate) fn cut_power(&self, mut kept: impl FnMut(u64) -> u64) -> Result<String, String> {
        let cut = self.cut.as_ref().ok_or("no disk was prepared")?;
        let report = cut.apply_torn(|unsynced| Tear {
            kept_bytes: kept(unsynced),
            zeroed_bytes: 0,
        });
        let report = report.map_err(|error| error.to_string())?;
        Ok(format!("{} files changed", report.changes.len()))
    }
}
