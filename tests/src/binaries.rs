//! Finds the built programs.

use std::path::PathBuf;
use std::process::Command;

/// The folder that the built binaries lie in: `PALISADE_BIN_DIR`, else the folder of this
/// executable or the one above it (test executables lie in `deps`).
///
/// # Panics
/// Says what to build when `palisaded` is in none of them.
pub fn bin_dir() -> PathBuf {
    let candidates = match std::env::var_os("PALISADE_BIN_DIR") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => {
            let own = std::env::current_exe().expect("this executable has a path");
            own.ancestors().skip(1).take(2).map(PathBuf::from).collect()
        }
    };
    candidates
        .iter()
        .find(|folder| folder.join("palisaded").is_file())
        .unwrap_or_else(|| {
            panic!(
                "palisaded is not in {candidates:?}; build the programs first: cargo build \
                 --release --workspace (or name their folder in PALISADE_BIN_DIR)"
            )
        })
        .clone()
}

/// The server, without the settings that this process's environment may hold (`PALISADE_LOG` aside).
pub fn palisaded() -> Command {
    let mut command = Command::new(bin_dir().join("palisaded"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PALISADE_") && name != "PALISADE_LOG" {
            command.env_remove(&*name);
        }
    }
    command
}

/// The command line tool.
///
/// # Panics
/// When it is not built.
pub fn palisade() -> PathBuf {
    let path = bin_dir().join("palisade");
    assert!(
        path.is_file(),
        "{} is missing; build it first: cargo build --release --workspace",
        path.display()
    );
    path
}
