//! A file that refuses stale holders of a lock: a guard to copy, on the standard library alone.
//!
//! Beside the guarded file it keeps the largest fencing token that has passed. Comparing the token,
//! remembering it and acting happen under one exclusive file lock (`flock`), so no stale holder can
//! act between another's check and its write, however long it was paused. Reads carry the token too:
//! see docs/fencing.md. It guards against other holders on one machine's file system; a network file
//! system must support `flock` across its clients and honour fsync.
//!
//! ```text
//! palisade lock jobs/report -- sh -c 'date | fenced_file write report.txt "$PALISADE_FENCING_TOKEN"'
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a guard that somebody else is inside of is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// Why the guard did not let an operation through. Nothing was read or changed.
#[derive(Debug)]
enum Refusal {
    /// A larger token has passed: the lock belongs to someone else. Final.
    Stale { newest: u64 },
    /// Somebody was inside the guard for the whole of the wait.
    Busy,
    /// The file system failed, or the remembered token cannot be read. The guard never guesses.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file and its guard.
struct FencedFile {
    path: PathBuf,
}

impl FencedFile {
    fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Replaces the contents, durably and whole.
    fn write(&self, token: u64, contents: &[u8], wait: Duration) -> Result<(), Refusal> {
        let _inside = self.pass(token, wait)?;
        Ok(replace(&self.path, contents)?)
    }

    /// Reads the contents; a file that does not exist is empty. From now on smaller tokens are
    /// refused, so what is read stays true until this holder, or a later one, changes it.
    fn read(&self, token: u64, wait: Duration) -> Result<Vec<u8>, Refusal> {
        let _inside = self.pass(token, wait)?;
        match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Compares the token with the largest that has passed, and remembers it durably before anything
    /// is done in its name. Others wait until the returned file is dropped.
    fn pass(&self, token: u64, wait: Duration) -> Result<File, Refusal> {
        let inside = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.beside("fence-lock"))?;
        let until = Instant::now() + wait;
        loop {
            match inside.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(Refusal::Busy);
                }
                Err(TryLockError::WouldBlock) => sleep(RETRY_EVERY),
            }
        }
        let newest = self.newest()?;
        if token < newest {
            return Err(Refusal::Stale { newest });
        }
        if token > newest {
            replace(&self.beside("fence"), token.to_string().as_bytes())?;
        }
        Ok(inside)
    }

    /// The largest token that has passed; 0 before the first.
    fn newest(&self) -> io::Result<u64> {
        let path = self.beside("fence");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: not a token: {error}", path.display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.path, suffix)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Writes a whole new file and gives it the name, so that a crash leaves the old contents or the new.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let partial = with_suffix(path, "partial");
    let mut file = File::create(&partial)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

const USAGE: &str =
    "usage: fenced_file read|write FILE TOKEN (the contents on standard output, or input)";
const WAIT: Duration = Duration::from_secs(10);

fn main() -> Result<(), String> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [action, path, token] = arguments.as_slice() else {
        return Err(USAGE.to_owned());
    };
    let token = token
        .to_str()
        .and_then(|token| token.parse().ok())
        .ok_or(USAGE)?;
    let file = FencedFile::new(path);
    let done = match action.to_str() {
        Some("read") => file
            .read(token, WAIT)
            .and_then(|contents| Ok(io::stdout().write_all(&contents)?)),
        Some("write") => {
            let mut contents = Vec::new();
            io::stdin()
                .read_to_end(&mut contents)
                .map_err(|error| error.to_string())?;
            file.write(token, &contents, WAIT)
        }
        _ => return Err(USAGE.to_owned()),
    };
    done.map_err(|refusal| match refusal {
        Refusal::Stale { newest } => format!("token {token} is stale: {newest} has passed"),
        Refusal::Busy => "another process is inside the guard; try again".to_owned(),
        Refusal::Io(error) => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fenced file in a folder of its own, removed at the end.
    struct Case {
        folder: PathBuf,
        file: FencedFile,
    }

    impl Case {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("fenced-file-{name}-{}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            let file = FencedFile::new(folder.join("guarded"));
            Self { folder, file }
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    #[test]
    fn a_smaller_token_is_refused_once_a_larger_one_has_written() {
        let case = Case::new("write");
        case.file.write(7, b"seven", WAIT).unwrap();
        let refused = case.file.write(6, b"six", WAIT);
        assert!(matches!(refused, Err(Refusal::Stale { newest: 7 })));
        case.file.write(7, b"seven again", WAIT).unwrap();
        assert_eq!(case.file.read(7, WAIT).unwrap(), b"seven again");
    }

    #[test]
    fn a_read_fences_off_older_holders_too() {
        let case = Case::new("read");
        case.file.write(1, b"0", WAIT).unwrap();
        assert_eq!(case.file.read(2, WAIT).unwrap(), b"0");
        let refused = case.file.write(1, b"1", WAIT);
        assert!(matches!(refused, Err(Refusal::Stale { newest: 2 })));
        assert_eq!(case.file.read(2, WAIT).unwrap(), b"0");
    }

    #[test]
    fn a_spoiled_fence_is_refused_and_not_taken_for_none() {
        let case = Case::new("spoiled");
        case.file.write(5, b"five", WAIT).unwrap();
        fs::write(case.file.beside("fence"), "").unwrap();
        assert!(matches!(
            case.file.write(9, b"nine", WAIT),
            Err(Refusal::Io(_))
        ));
    }

    #[test]
    fn whoever_is_inside_keeps_others_out_and_they_give_up_in_time() {
        let case = Case::new("busy");
        let inside = case.file.pass(1, WAIT).unwrap();
        let refused = case.file.write(2, b"two", Duration::from_millis(30));
        assert!(matches!(refused, Err(Refusal::Busy)));
        drop(inside);
        case.file.write(2, b"two", WAIT).unwrap();
    }

    #[test]
    fn increments_of_many_holders_at_once_are_refused_or_counted_and_never_lost() {
        let case = Case::new("increments");
        const HOLDERS: u64 = 64;
        // Every holder runs at once, as if each had been paused and woken at the worst moment.
        let counted: u64 = std::thread::scope(|scope| {
            let holders: Vec<_> = (1..=HOLDERS)
                .map(|token| {
                    let file = &case.file;
                    scope.spawn(move || {
                        let Ok(seen) = file.read(token, WAIT) else {
                            return 0;
                        };
                        let seen: u64 = match seen.is_empty() {
                            true => 0,
                            false => String::from_utf8(seen).unwrap().parse().unwrap(),
                        };
                        let next = (seen + 1).to_string();
                        u64::from(file.write(token, next.as_bytes(), WAIT).is_ok())
                    })
                })
                .collect();
            holders
                .into_iter()
                .map(|holder| holder.join().unwrap())
                .sum()
        });
        let total = case.file.read(HOLDERS, WAIT).unwrap();
        assert_eq!(String::from_utf8(total).unwrap(), counted.to_string());
        assert!(counted > 0, "the last holder at least is never refused");
    }
}
