//! Sealed files: a header, a body of any length, and a checksum over both at the end.
//!
//! Snapshots and backups are such files. Written in one pass, so that they can be streamed; whether a
//! file is whole is known only once all of it has been read.
//!
//! Layout: magic (8 bytes), header length (u32 LE), header (versioned postcard), body, and at the end
//! the body's length (u64 LE) and the CRC-32 of everything before it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::codec;

/// What kind of file it is.
pub(crate) type Magic = [u8; 8];

const START_BYTES: u64 = 12;
const TRAILER_BYTES: u64 = 12;
const MAX_HEADER_BYTES: u32 = 1 << 20;

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes a sealed file; `body` writes what is in it.
pub(crate) fn write(
    out: &mut dyn Write,
    magic: &Magic,
    header: &impl Serialize,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = Summing {
        inner: out,
        checksum: crc32fast::Hasher::new(),
        bytes: 0,
    };
    let header = codec::encode(header)?;
    let header_bytes = u32::try_from(header.len())
        .ok()
        .filter(|bytes| *bytes <= MAX_HEADER_BYTES)
        .ok_or_else(|| invalid("the header is too long"))?;
    out.write_all(magic)?;
    out.write_all(&header_bytes.to_le_bytes())?;
    out.write_all(&header)?;
    let body_start = out.bytes;
    body(&mut out)?;
    let body_bytes = out.bytes - body_start;
    out.write_all(&body_bytes.to_le_bytes())?;
    let checksum = out.checksum.finalize();
    out.inner.write_all(&checksum.to_le_bytes())
}

/// The header of a file whose checksum may not hold, and where its body begins. Blocking.
fn header(file: &File, magic: &Magic) -> io::Result<(Vec<u8>, u64)> {
    let mut start = [0; START_BYTES as usize];
    read_exact(file, &mut start, 0)?;
    let (found, length) = start.split_at(magic.len());
    if found != magic {
        return Err(invalid("this is another kind of file"));
    }
    let header_bytes = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(invalid("its header is too long"));
    }
    let mut header = vec![0; header_bytes as usize];
    read_exact(file, &mut header, START_BYTES)?;
    Ok((header, START_BYTES + u64::from(header_bytes)))
}

fn read_exact(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(invalid("it is cut short"))
        }
        other => other,
    }
}

/// The body of a file that was verified before. Blocking.
pub(crate) fn body(file: &Arc<File>, magic: &Magic) -> io::Result<impl Read + use<>> {
    let (_, body_start) = header(file, magic)?;
    let body_bytes = file
        .metadata()?
        .len()
        .checked_sub(body_start + TRAILER_BYTES)
        .ok_or_else(|| invalid("it is cut short"))?;
    Ok(read_from(file, body_start).take(body_bytes))
}

/// All of a file from `offset` on, independently of other readers of it. Blocking.
pub(crate) fn read_from(file: &Arc<File>, offset: u64) -> impl Read + use<> {
    let read_at = ReadAt {
        file: file.clone(),
        offset,
    };
    BufReader::with_capacity(1 << 20, read_at)
}

/// Checks length and checksum of the whole file and returns its header. Blocking.
///
/// # Errors
/// `InvalidData` for damage; `Unsupported` when it is whole and another build's.
pub(crate) fn verify<H: DeserializeOwned>(
    file: &Arc<File>,
    magic: &Magic,
    what: &str,
) -> io::Result<H> {
    let (header, body_start) = header(file, magic)?;
    let total = file.metadata()?.len();
    let body_bytes = total
        .checked_sub(body_start + TRAILER_BYTES)
        .ok_or_else(|| invalid("it is cut short"))?;
    let mut trailer = [0; TRAILER_BYTES as usize];
    read_exact(file, &mut trailer, total - TRAILER_BYTES)?;
    let (length, checksum) = trailer.split_at(8);
    if length != body_bytes.to_le_bytes() {
        return Err(invalid("it is cut short, or damaged"));
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut summed = read_from(file, 0).take(total - checksum.len() as u64);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = summed.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    if checksum != hasher.finalize().to_le_bytes() {
        return Err(invalid("its checksum does not hold"));
    }
    // Decoded last: only a file that is whole can be another build's rather than damaged.
    codec::decode(what, &header)
}

/// Reads a shared file at an offset of its own.
struct ReadAt {
    file: Arc<File>,
    offset: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

struct Summing<'a> {
    inner: &'a mut dyn Write,
    checksum: crc32fast::Hasher,
    bytes: u64,
}

impl Write for Summing<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.checksum.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Magic = *b"TESTFILE";

    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, &KIND, &7u32, |out| out.write_all(body)).unwrap();
        bytes
    }

    fn verified(bytes: &[u8]) -> io::Result<u32> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        verify(&Arc::new(file), &KIND, "test header")
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = sealed(b"some state");
        assert_eq!(verified(&whole).unwrap(), 7);
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                let error = verified(&bytes).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {position}");
            }
            assert!(verified(&whole[..position]).is_err(), "cut to {position}");
        }
    }

    #[test]
    fn a_whole_file_of_another_version_is_not_called_damaged() {
        let mut bytes = sealed(b"");
        bytes[START_BYTES as usize] = 9;
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        let error = verified(&bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn a_body_is_read_back_whatever_its_length() {
        for length in [0, 1, 3 << 20] {
            let body = vec![5; length];
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&sealed(&body)).unwrap();
            let mut read = Vec::new();
            super::body(&Arc::new(file), &KIND)
                .unwrap()
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, body);
        }
    }
}
