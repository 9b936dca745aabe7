//! A bit of a file, flipped and flipped back.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

/// More than the newest record and the block where it begins. A node that catches up writes large records.
const END_BYTES: u64 = 256 << 10;

/// A flipped bit.
#[derive(Debug)]
pub(super) struct Flip {
    file: PathBuf,
    offset: u64,
    was: u8,
    is: u8,
}

impl Flip {
    /// Flips a bit of a file below this folder, every byte but those of the last log's end being equally
    /// likely.
    pub(super) fn draw(folder: &Path, rng: &mut StdRng) -> io::Result<Self> {
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        leave_end_of_last_log(&mut files);
        let all: u64 = files.iter().map(|(_, length)| length).sum();
        if all == 0 {
            return Err(io::Error::other("there are no data"));
        }
        let mut at = rng.random_range(0..all);
        for (file, length) in files {
            if at < length {
                let mask = 1 << rng.random_range(0..8);
                let opened = OpenOptions::new().read(true).write(true).open(&file)?;
                let mut byte = [0];
                opened.read_exact_at(&mut byte, at)?;
                let flip = Flip {
                    file,
                    offset: at,
                    was: byte[0],
                    is: byte[0] ^ mask,
                };
                opened.write_all_at(&[flip.is], at)?;
                return Ok(flip);
            }
            at -= length;
        }
        Err(io::Error::other("the data shrank"))
    }

    /// Puts it right, if it is still there: the file may have been written anew, or be gone.
    pub(super) fn undo(&self) -> io::Result<()> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.file);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut byte = [0];
        match file.read_exact_at(&mut byte, self.offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        match byte[0] == self.is {
            true => file.write_all_at(&[self.was], self.offset),
            false => Ok(()),
        }
    }

    /// Which.
    pub(super) fn words(&self) -> String {
        let name = self.file.file_name().unwrap_or_default();
        format!("byte {} of {}", self.offset, name.display())
    }
}

/// What cannot be told from a torn tail is left out: the newest record of the last log, and the lengths of
/// records in the block where that begins (docs/decisions/0014). A node can be neither right about those
/// nor refuse.
fn leave_end_of_last_log(files: &mut [(PathBuf, u64)]) {
    let is_log = |(path, _): &&mut (PathBuf, u64)| path.extension().is_some_and(|ext| ext == "log");
    if let Some((_, length)) = files.iter_mut().rfind(is_log) {
        *length = length.saturating_sub(END_BYTES);
    }
}

fn collect(folder: &Path, into: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            collect(&entry.path(), into)?;
        // RocksDB's own log is for people.
        } else if metadata.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b"LOG") {
            into.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn one_bit_is_flipped_and_flipped_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sub/000004.log");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/000005.log"), [0; 100]).unwrap();
        std::fs::write(&file, [0; 100]).unwrap();
        let flip = Flip::draw(folder.path(), &mut StdRng::seed_from_u64(1)).unwrap();
        let ones: u32 = std::fs::read(&file)
            .unwrap()
            .iter()
            .map(|byte| byte.count_ones())
            .sum();
        assert_eq!(ones, 1);
        assert!(flip.words().ends_with("of 000004.log"));
        flip.undo().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), [0; 100]);
        // What was written since, or is gone, is left as it is.
        std::fs::write(&file, [3; 100]).unwrap();
        flip.undo().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), [3; 100]);
        std::fs::remove_file(&file).unwrap();
        flip.undo().unwrap();
        assert!(!file.exists());
    }
}
