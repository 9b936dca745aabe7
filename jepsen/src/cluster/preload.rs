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
    /// How fast its clocks run from its next start on.
    rate: Option<f64>,
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
        Ok(Preload {
            cut,
            faketime,
            rate: None,
        })
    }

    /// Sets the environment of a start.
    pub(crate) fn prepare(&self, command: &mut Command) -> Result<(), String> {
        if let Some((library, file)) = &self.faketime {
            // The time of birth is part of what the shim knows a directory by.
            command.env("LD_PRELOAD", library).env("NO_FAKE_STAT", "1");
            match self.rate {
                // Jumps of the wall clock alone: DESIGN section 6.
                None => command
                    .env("FAKETIME_TIMESTAMP_FILE", file)
                    .env("FAKETIME_CACHE_DURATION", "1")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                // All clocks, and waits by them. It counts from the start of the process: set later, it
                // would be a jump, and monotonic clocks do not jump.
                Some(rate) => command.env("FAKETIME", format!("+0 x{rate:.4}")),
            };
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

    /// All clocks run so much faster than real time from the next start on; or as they should.
    pub(crate) fn set_rate(&mut self, rate: Option<f64>) {
        self.rate = rate;
    }

    /// Whether its clocks do not run as they should.
    pub(crate) fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// Removes what libfaketime leaves in shared memory of a process that was killed: the next process of
    /// this id would be told its time.
    pub(super) fn forget(&self, pid: u32) {
        if self.faketime.is_some() {
            for name in ["faketime_shm", "sem.faketime_sem"] {
                // One that ended by itself has removed it.
                let _ = std::fs::remove_file(format!("/dev/shm/{name}_{pid}"));
            }
        }
    }

    /// The disk is full, or has space again.
    pub(crate) fn set_full(&self, full: bool) -> Result<(), String> {
        let cut = self.cut.as_ref().ok_or("no disk was prepared")?;
        cut.set_full(full).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The kernel's own count of seconds, which no library changes.
    fn uptime_s() -> f64 {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds = text.split_whitespace().next().unwrap();
        seconds.parse().unwrap()
    }

    #[test]
    #[ignore = "it is the process that the next test starts"]
    fn tells_how_fast_its_monotonic_clock_runs() {
        let (began, real) = (Instant::now(), uptime_s());
        while uptime_s() - real < 0.5 {
            std::thread::yield_now();
        }
        let rate = began.elapsed().as_secs_f64() / (uptime_s() - real);
        println!("runs at {rate}");
    }

    #[test]
    fn a_rate_moves_the_monotonic_clock_of_the_next_start_and_its_end_mends_it() {
        let library = match find_faketime() {
            Ok(library) => library,
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let mut preload = Preload::new(&folder.path().join("data"), false, Some(&library)).unwrap();
        let run = |preload: &Preload| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--ignored", "--nocapture", "tells_how_fast_its_monotonic"]);
            preload.prepare(&mut command).unwrap();
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let rate = text.split("runs at ").nth(1).expect(&text);
            let rate = rate.split_whitespace().next().unwrap();
            rate.parse::<f64>().unwrap()
        };
        // The uptime has two digits behind the point, of half a second.
        let ran_at = |rate: f64, wanted: f64| assert!((rate / wanted - 1.0).abs() < 0.1, "{rate}");
        preload.set_rate(Some(2.0));
        ran_at(run(&preload), 2.0);
        preload.set_rate(Some(0.5));
        ran_at(run(&preload), 0.5);
        preload.set_rate(None);
        ran_at(run(&preload), 1.0);
    }

    #[test]
    fn a_power_cut_loses_nothing_that_was_synced_by_a_program_whose_clocks_run_wrong() {
        let library = match (find_faketime(), find_shim()) {
            (Ok(library), Ok(())) => library,
            (Err(why), _) | (_, Err(why)) => {
                eprintln!("SKIPPED: {why}");
                return;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let mut preload = Preload::new(&data, true, Some(&library)).unwrap();
        // Faster, then as it should: what is synced later must count as later.
        for (rate, words) in [(Some(3.0), "one"), (None, "two")] {
            preload.set_rate(rate);
            let script = format!(
                "mkdir -p d; echo {words} > d/{words}.new; sync d/{words}.new; sleep 0.3; \
                 mv d/{words}.new d/f; sync d; sync ."
            );
            let mut command = Command::new("sh");
            command.args(["-c", &script]).current_dir(&data);
            preload.prepare(&mut command).unwrap();
            assert!(command.status().unwrap().success());
        }
        assert_eq!(preload.cut_power(|_| 0).unwrap(), "0 files changed");
        assert_eq!(std::fs::read(data.join("d/f")).unwrap(), b"two\n");
    }
}
