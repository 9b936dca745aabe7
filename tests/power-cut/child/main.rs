//! A process to be killed: does what each line on stdin says to the files, then answers.
//!
//! `ok`, or `error` and the error's kind or number. Paths contain no spaces.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};

fn main() -> io::Result<()> {
    let mut files = HashMap::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = match obey(&mut files, &line) {
            Ok(()) => "ok".to_owned(),
            Err(error) => match error.raw_os_error() {
                Some(number) => format!("error {number}"),
                None => format!("error {error}"),
            },
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn obey(files: &mut HashMap<String, File>, line: &str) -> io::Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["append", path, text] => open(files, path)?.write_all(text.as_bytes()),
        ["write-at", path, offset, text] => {
            open(files, path)?.write_all_at(text.as_bytes(), number(offset)?)
        }
        ["seek", path, offset] => open(files, path)?
            .seek(SeekFrom::Start(number(offset)?))
            .map(drop),
        ["set-length", path, length] => open(files, path)?.set_len(number(length)?),
        ["reserve", path, length] => reserve(open(files, path)?, number(length)?),
        ["truncate", path] => File::create(path).map(drop),
        ["fsync", path] => open(files, path)?.sync_all(),
        ["fdatasync", path] => open(files, path)?.sync_data(),
        ["fsync-directory", path] => File::open(path)?.sync_all(),
        ["rename", from, to] => fs::rename(from, to),
        ["unlink", path] => fs::remove_file(path),
        ["mkdir", path] => fs::create_dir(path),
        ["rmdir", path] => fs::remove_dir(path),
        ["symlink", target, path] => symlink(target, path),
        ["close", path] => {
            files.remove(path);
            Ok(())
        }
        // As many threads as told each append 100 bytes to their own file and sync it, all at once,
        // as often as told.
        ["storm", folder, threads, rounds] => storm(folder, number(threads)?, number(rounds)?),
        _ => Err(io::Error::other(format!("what is `{line}`?"))),
    }
}

/// The file as it was opened first, so that a rename or unlink does not change which it is.
fn open<'a>(files: &'a mut HashMap<String, File>, path: &str) -> io::Result<&'a mut File> {
    if !files.contains_key(path) {
        // Write-only, as RocksDB opens its files.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        (&file).seek(SeekFrom::End(0))?;
        files.insert(path.to_owned(), file);
    }
    files
        .get_mut(path)
        .ok_or_else(|| io::Error::other("unreachable: it was inserted"))
}

/// Makes room for so many bytes, behind the end of the file if need be.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    let length = length.try_into().map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the standard library reserves no space")]
    // SAFETY: takes no pointer.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(io::Error::other)
}

fn storm(folder: &str, threads: u64, rounds: u64) -> io::Result<()> {
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let path = format!("{folder}/{thread}");
            std::thread::spawn(move || -> io::Result<()> {
                let mut file = File::create(&path)?;
                for round in 0..rounds {
                    file.write_all(&[b'a' + (round % 26) as u8; 100])?;
                    file.write_all_at(&[b'A' + (round % 26) as u8; 10], 0)?;
                    file.sync_data()?;
                }
                Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker
            .join()
            .map_err(|_| io::Error::other("a thread panicked"))??;
    }
    File::open(folder)?.sync_all()
}
