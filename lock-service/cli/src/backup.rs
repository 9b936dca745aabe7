//! `palisade backup`: the whole cluster in one file. The file appears under its name only once it is
//! complete and on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures::StreamExt;
use lock_client::Client;
use serde_json::json;

use crate::arguments::BackupArguments;
use crate::exit;
use crate::output::Output;

/// How often progress is shown, in bytes.
const PROGRESS_EVERY: u64 = 4 * 1024 * 1024;

/// Streams the backup into the file.
pub(crate) async fn run(client: &Client, arguments: &BackupArguments, output: Output) -> ExitCode {
    let target = match Target::open(&arguments.file) {
        Ok(target) => target,
        Err(error) => {
            let file = arguments.file.display();
            return exit::fail(exit::USAGE, format_args!("cannot write {file}: {error}"));
        }
    };
    let mut pieces = match client.backup().await {
        Ok(pieces) => pieces,
        Err(error) => {
            target.discard();
            return exit::failed(&error);
        }
    };
    let mut target = target;
    let progress = io::stderr().is_terminal();
    let (mut bytes, mut shown) = (0_u64, 0);
    while let Some(piece) = pieces.next().await {
        let written = match piece {
            Ok(piece) => {
                bytes += piece.len() as u64;
                target.write(&piece).map_err(|error| error.to_string())
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = written {
            target.discard();
            return exit::fail(
                exit::UNAVAILABLE,
                format_args!("the backup broke off ({reason}), so there is none. Try again."),
            );
        }
        if progress && bytes >= shown + PROGRESS_EVERY {
            shown = bytes;
            eprint!("\r{} MiB", bytes >> 20);
        }
    }
    if progress && shown > 0 {
        eprintln!();
    }
    let to_stdout = matches!(target, Target::Stdout(_));
    if let Err(error) = target.finish(&arguments.file) {
        let file = arguments.file.display();
        return exit::fail(
            exit::UNAVAILABLE,
            format_args!("cannot finish {file}: {error}"),
        );
    }
    if to_stdout {
        return ExitCode::SUCCESS;
    }
    let file = arguments.file.display().to_string();
    output.show(&json!({"file": file, "bytes": bytes}), |_| {
        format!("{file}: {bytes} bytes. Check it with `palisaded verify --backup`.\n")
    })
}

enum Target {
    Stdout(io::Stdout),
    /// A file under a name of its own until it is complete.
    Partial(File, PathBuf),
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout(io::stdout()));
        }
        if path.try_exists()? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the file exists; name a new one",
            ));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".partial-{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&partial)?;
        Ok(Self::Partial(file, partial))
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(piece),
            Self::Partial(file, _) => file.write_all(piece),
        }
    }

    /// On the disk first, then under its name.
    fn finish(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::Partial(file, partial) => {
                file.sync_all()?;
                // Unlike a rename, a link never replaces a file that has appeared meanwhile.
                std::fs::hard_link(&partial, path)?;
                std::fs::remove_file(&partial)?;
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                File::open(folder)?.sync_all()
            }
        }
    }

    fn discard(self) {
        if let Self::Partial(_, partial) = self
            && let Err(error) = std::fs::remove_file(&partial)
        {
            exit::say(format_args!("cannot remove {}: {error}", partial.display()));
        }
    }
}
