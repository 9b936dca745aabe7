//! Where the preload library is.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "libpower_cut_shim.so";

/// The preload library that was built with the running executable: `examples/libpower_cut_shim.so` of the
/// same profile and target directory (a test runs from `<target>/<profile>/deps`).
///
/// # Errors
/// [`Error::LibraryNotBuilt`] says how to build it.
pub fn library() -> Result<PathBuf> {
    let executable = std::env::current_exe().map_err(Error::io(
        "finding the executable of",
        Path::new("this process"),
    ))?;
    above(&executable).ok_or(Error::LibraryNotBuilt(executable))
}

fn above(executable: &Path) -> Option<PathBuf> {
    executable
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("examples").join(FILE_NAME))
        .find(|library| library.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_from_a_test_and_missed_elsewhere() {
        let target = tempfile::tempdir().unwrap();
        let executable = target.path().join("release/deps/test-1234");
        assert_eq!(above(&executable), None);
        let library = target.path().join("release/examples").join(FILE_NAME);
        std::fs::create_dir_all(library.parent().unwrap()).unwrap();
        std::fs::write(&library, "").unwrap();
        assert_eq!(above(&executable), Some(library));
    }
}
