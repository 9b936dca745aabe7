//! Frames on a peer connection: length, group, request number, body. Bounded before buffered.

use std::io;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::types::GROUP;

/// The largest frame accepted. Appends are cut to about 1 MiB of entries plus one entry.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;
const HEADER_BYTES: usize = 12;

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

/// Reads one frame. Not cancellation safe: a dropped read loses its place in the stream.
pub(super) async fn read<T: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<(u64, T)> {
    let length = input.read_u32().await? as usize;
    if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&length) {
        return Err(invalid(format!(
            "a peer announced a frame of {length} bytes; the limit is {MAX_FRAME_BYTES}"
        )));
    }
    buffer.resize(length, 0);
    input.read_exact(buffer).await?;
    let (header, body) = buffer.split_at(HEADER_BYTES);
    let (group, number) = header.split_at(4);
    let group = group.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    if group != GROUP {
        return Err(invalid(format!("a peer sent a frame for group {group}")));
    }
    let number = number.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let body = postcard::from_bytes(body)
        .map_err(|error| invalid(format!("a peer sent a frame that cannot be read: {error}")))?;
    Ok((number, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_as_it_was() {
        let bytes = encode(77, &("hello".to_owned(), 5_u64)).unwrap();
        let (number, body): (u64, (String, u64)) =
            read(&mut &bytes[..], &mut Vec::new()).await.unwrap();
        assert_eq!((number, body), (77, ("hello".to_owned(), 5)));
    }

    #[tokio::test]
    async fn an_oversized_length_is_refused_before_anything_is_buffered() {
        let mut buffer = Vec::new();
        let bytes = u32::MAX.to_be_bytes();
        let error = read::<u64>(&mut &bytes[..], &mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(buffer.capacity(), 0);
    }
}
