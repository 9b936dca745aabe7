//! Versioned encoding of everything this crate puts on a disk: one version byte, then postcard.
//!
//! An unknown version is refused by name, never guessed at.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// The version of every record in the log and of snapshot headers. Frames have none of their own: the
/// handshake agrees on one for the connection.
pub(crate) const FORMAT_VERSION: u8 = 1;

fn invalid(what: &str, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {why}"))
}

/// What another build wrote: not damage, and told apart from it by its kind.
pub(crate) fn unknown_version(
    what: impl std::fmt::Display,
    found: impl std::fmt::Display,
    known: impl std::fmt::Display,
) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "{what}: format version {found} is not known to this build, which reads version \
             {known}; run the build that wrote it, or a newer one"
        ),
    )
}

/// Encodes `value` behind the format version.
pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(FORMAT_VERSION);
    postcard::to_extend(value, bytes).map_err(|error| invalid("cannot encode", error))
}

/// Decodes what [`encode`] made. `what` names the record in errors.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&FORMAT_VERSION, body)) => {
            postcard::from_bytes(body).map_err(|error| invalid(what, error))
        }
        Some((&other, _)) => Err(unknown_version(what, other, FORMAT_VERSION)),
        None => Err(invalid(what, "empty record")),
    }
}
