//! The leader in a file, for apps that cannot ask over HTTP. It is a hint: a sidecar that is frozen
//! cannot take it back.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::belief::Belief;
use super::http::leader_json;
use crate::exit::say;

/// Writes the file whenever what is believed changes; removes it while nothing is.
pub(super) async fn keep(path: PathBuf, mut beliefs: watch::Receiver<Belief>) {
    loop {
        let belief = beliefs.borrow_and_update().clone();
        let done = match &belief {
            Belief::Leader(leader) => replace(&path, &leader_json(leader).to_string()),
            Belief::Nobody | Belief::Unsure => {
                remove(&path);
                Ok(())
            }
        };
        if let Err(error) = done {
            say(format_args!("cannot write {}: {error}", path.display()));
        }
        if beliefs.changed().await.is_err() {
            return;
        }
    }
}

/// Writes a whole new file and gives it the name, so that nobody reads half of it. It need not
/// survive a crash, so it is not synced.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    let partial = PathBuf::from(partial);
    let mut file = std::fs::File::create(&partial)?;
    writeln!(file, "{text}")?;
    std::fs::rename(&partial, path)
}

/// Removes the file if it is there.
pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            say(format_args!("cannot remove {}: {error}", path.display()));
        }
        _ => {}
    }
}
