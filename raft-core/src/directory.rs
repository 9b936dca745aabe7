//! Directories whose names survive a power cut.
//!
//! What is synced in a file is lost all the same when the directory that names the file, or one
//! above it, was never synced.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes `path` and what is missing above it. Afterwards the name of `path` is durable, even where
/// an earlier process made it and was killed before it could sync it. Blocking.
pub(crate) fn create_durable(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        // The root has no name.
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let made = !path.is_dir();
    if made {
        if !parent.is_dir() {
            create_durable(parent)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
    }
    match sync(parent) {
        // A directory that somebody made for this process, in one that it may not read: its name is
        // theirs to keep.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !made => Ok(()),
        other => other,
    }
}

/// Makes the names in `path` durable. Blocking.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_and_existing_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        create_durable(&path).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        create_durable(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(create_durable(&path).is_err());
        assert!(create_durable(&path.join("below")).is_err());
    }
}
