//! Frames on a peer connection: length, group, request number, body. Bounded before buffered.

use std::io;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::types::GROUP;

/// The largest frame accepted. Appends are cut to about 1 MiB of entries plus one entry.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;
/// The largest first frame, each way: nobody is known yet.
pub(super) const MAX_HANDSHAKE_BYTES: usize = 4 << 10;
/// The largest frame from a caller that belongs to no cluster.
pub(super) const MAX_STRANGER_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 12;
/// A buffer that grew beyond this for one frame is given back.
const KEPT_BUFFER_BYTES: usize = 2 << 20;

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Encodes one frame: u32 length of what follows, u32 group, u64 number, postcard body.
pub(super) fn encode<T: Serialize>(number: u64, body: &T) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&GROUP.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    let mut bytes = postcard::to_extend(body, bytes).map_err(|error| invalid(error.to_string()))?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME_BYTES {
        return Err(invalid(format!(
            "a frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}"
        )));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes.into())
}

/// One frame, read.
pub(super) struct Received<T> {
    pub number: u64,
    pub body: T,
    /// Its encoded length.
    pub bytes: usize,
}

/// Reads one frame of up to `limit` bytes. Memory is taken as bytes arrive, never for what a peer
/// only announces. Not cancellation safe: a dropped read loses its place in the stream.
pub(super) async fn read<T: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    limit: usize,
) -> io::Result<Received<T>> {
    let length = input.read_u32().await? as usize;
    if !(HEADER_BYTES..=limit).contains(&length) {
        return Err(invalid(match &(length as u32).to_be_bytes() {
            // How an answer, and the usual requests, begin.
            b"HTTP" | b"GET " | b"POST" | b"PUT " | b"HEAD" => {
                "the other side speaks HTTP: one of its addresses is given where the other kind \
                 belongs (peers have a port of their own)"
                    .to_owned()
            }
            _ => format!("a peer announced a frame of {length} bytes; the limit is {limit}"),
        }));
    }
    buffer.clear();
    if input.take(length as u64).read_to_end(buffer).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (header, body) = buffer.split_at(HEADER_BYTES);
    let (group, number) = header.split_at(4);
    let group = group.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    if group != GROUP {
        return Err(invalid(format!("a peer sent a frame for group {group}")));
    }
    let number = number.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let body = postcard::from_bytes(body)
        .map_err(|error| invalid(format!("a peer sent a frame that cannot be read: {error}")))?;
    if buffer.capacity() > KEPT_BUFFER_BYTES {
        *buffer = Vec::new();
    }
    Ok(Received {
        number,
        body,
        bytes: length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_as_it_was() {
        let bytes = encode(77, &("hello".to_owned(), 5_u64)).unwrap();
        let received = read::<(String, u64)>(&mut &bytes[..], &mut Vec::new(), MAX_FRAME_BYTES)
            .await
            .unwrap();
        assert_eq!(received.number, 77);
        assert_eq!(received.body, ("hello".to_owned(), 5));
    }

    #[tokio::test]
    async fn a_side_that_speaks_http_is_called_that() {
        for words in ["HTTP/1.1 400", "GET / HTTP/1.1", "POST / HTTP/1.1"] {
            let read = read::<u64>(&mut words.as_bytes(), &mut Vec::new(), 1 << 20).await;
            let error = read.err().unwrap().to_string();
            assert!(error.contains("speaks HTTP"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_oversized_length_is_refused_before_anything_is_buffered() {
        let mut buffer = Vec::new();
        let bytes = (MAX_HANDSHAKE_BYTES as u32 + 1).to_be_bytes();
        let read = read::<u64>(&mut &bytes[..], &mut buffer, MAX_HANDSHAKE_BYTES).await;
        assert_eq!(read.err().unwrap().kind(), io::ErrorKind::InvalidData);
        assert_eq!(buffer.capacity(), 0);
    }

    #[tokio::test]
    async fn an_announced_length_takes_no_memory_until_its_bytes_come() {
        let mut buffer = Vec::new();
        let mut bytes = (MAX_FRAME_BYTES as u32).to_be_bytes().to_vec();
        bytes.extend([0; 100]);
        let read = read::<u64>(&mut &bytes[..], &mut buffer, MAX_FRAME_BYTES).await;
        assert_eq!(read.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
        assert!(buffer.capacity() < 64 << 10, "{}", buffer.capacity());
    }

    #[tokio::test]
    async fn a_buffer_that_one_large_frame_took_is_given_back() {
        let bytes = encode(1, &vec![7_u8; KEPT_BUFFER_BYTES + 1]).unwrap();
        let mut buffer = Vec::new();
        let received = read::<Vec<u8>>(&mut &bytes[..], &mut buffer, MAX_FRAME_BYTES).await;
        assert_eq!(received.unwrap().body.len(), KEPT_BUFFER_BYTES + 1);
        assert_eq!(buffer.capacity(), 0);
    }
}
