//! Fixed-size identifiers, shown as lower-case hexadecimal text. Never generates one: ids are
//! random or hashed, and this crate knows neither randomness nor hashing.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// The number of bytes in every identifier of this crate.
pub const ID_BYTES: usize = 16;

/// Text that should have been an identifier and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is {} lower-case hexadecimal digits, without spaces or dashes", 2 * ID_BYTES)]
pub struct IdError;

fn parse_hex(text: &str) -> Result<[u8; ID_BYTES], IdError> {
    fn digit(byte: u8) -> Result<u8, IdError> {
        match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(IdError),
        }
    }
    if text.len() != 2 * ID_BYTES {
        return Err(IdError);
    }
    let mut bytes = [0; ID_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Text (`Display`, `FromStr`, human-readable serde formats such as JSON) is 32 lower-case
        /// hexadecimal digits; binary serde formats hold the 16 bytes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; ID_BYTES]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id_type! {
    /// The name of a lease: a truncated hash of its secret. Knowing it allows to look, not to act.
    LeaseId
}

id_type! {
    /// The name of a cluster, chosen once when it is founded.
    ClusterId
}

id_type! {
    /// A hash of the parts of an acquire that must not change between repeats of one request. The
    /// service computes it; here it is only compared.
    BodyHash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_binary() {
        let id = LeaseId([0xab; ID_BYTES]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        let digits = LeaseId(
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
                .repeat(2)
                .try_into()
                .unwrap(),
        );
        assert_eq!(digits.to_string(), "0123456789abcdef".repeat(2));
        assert_eq!(digits.to_string().parse(), Ok(digits));
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!(bytes.len(), ID_BYTES);
        assert_eq!(postcard::from_bytes::<LeaseId>(&bytes).unwrap(), id);
    }

    #[test]
    fn text_of_another_length_case_or_alphabet_is_no_id() {
        for bad in [
            "",
            "ab",
            &"AB".repeat(16),
            &"zz".repeat(16),
            &"ab".repeat(17),
            &"é".repeat(16),
        ] {
            assert_eq!(bad.parse::<LeaseId>(), Err(IdError), "{bad:?}");
        }
    }
}
