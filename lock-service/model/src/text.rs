//! Bounded texts: lock names, request ids, owners, values and lease metadata. A value of these
//! types is always within the hard bounds given here, also when it was read from a log or a
//! snapshot; the (lower) bounds of the [`Settings`](crate::Settings) are checked in `apply`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::tree::{Key, head_of_bytes};

/// Why a text cannot be what it was meant to be. Lengths are in bytes of UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// An empty text where something must be said.
    #[error("{what} must not be empty")]
    Empty {
        /// What the text was meant to be.
        what: &'static str,
    },
    /// A text longer than its type ever allows.
    #[error("{what} may have at most {max_bytes} bytes of UTF-8, this one has {bytes}")]
    TooLong {
        /// What the text was meant to be.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        max_bytes: usize,
    },
    /// A control character (Unicode category Cc, such as a line feed or a NUL).
    #[error("{what} must not contain control characters; there is one at byte {at_byte}")]
    ControlCharacter {
        /// What the text was meant to be.
        what: &'static str,
        /// Where the first one stands.
        at_byte: usize,
    },
}

struct Rules {
    what: &'static str,
    min_bytes: usize,
    max_bytes: usize,
    control_characters: bool,
}

impl Rules {
    fn check(&self, text: &str) -> Result<(), TextError> {
        let what = self.what;
        if text.len() < self.min_bytes {
            return Err(TextError::Empty { what });
        }
        if text.len() > self.max_bytes {
            return Err(TextError::TooLong {
                what,
                bytes: text.len(),
                max_bytes: self.max_bytes,
            });
        }
        if !self.control_characters
            && let Some((at_byte, _)) = text.char_indices().find(|(_, c)| c.is_control())
        {
            return Err(TextError::ControlCharacter { what, at_byte });
        }
        Ok(())
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $rules:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            const RULES: Rules = $rules;

            /// The most bytes of UTF-8 that a value of this type can have. Settings can lower it.
            pub const MAX_BYTES: usize = Self::RULES.max_bytes;

            /// Checks `text` and copies it.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, TextError> {
                Self::RULES.check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The length in bytes of UTF-8.
            #[must_use]
            pub fn bytes(&self) -> usize {
                self.0.len()
            }
        }

        text_impls!($name);
    };
}

/// What every text is, over and above its `new` and `as_str`.
macro_rules! text_impls {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;
                impl Visitor<'_> for TextVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($name::RULES.what)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(TextVisitor)
            }
        }
    };
}

text_type! {
    /// The name of a lock: UTF-8, 1 to 512 bytes, no control characters. Cheap to clone. Ordered
    /// by its bytes.
    LockName,
    Rules { what: "a lock name", min_bytes: 1, max_bytes: 512, control_characters: false }
}

/// A client's name for one acquire request, the same in every repeat of it: 1 to 64 bytes, no
/// control characters. Unique within its lease. Cheap to clone: it is kept in place, because a lease
/// remembers many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Padded with zeros, which no request id contains.
    text: [u8; Self::MAX_BYTES],
    bytes: u8,
}

impl RequestId {
    const RULES: Rules = Rules {
        what: "a request id",
        min_bytes: 1,
        max_bytes: Self::MAX_BYTES,
        control_characters: false,
    };

    /// The most bytes of UTF-8 that a request id can have.
    pub const MAX_BYTES: usize = 64;

    /// Checks `text` and copies it.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, TextError> {
        Self::RULES.check(text)?;
        let mut padded = [0; Self::MAX_BYTES];
        padded
            .iter_mut()
            .zip(text.as_bytes())
            .for_each(|(to, from)| *to = *from);
        // Checked above to be at most 64.
        let bytes = u8::try_from(text.len()).unwrap_or(u8::MAX);
        Ok(Self {
            text: padded,
            bytes,
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..self.bytes()).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// The length in bytes of UTF-8.
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::from(self.bytes)
    }

    /// A number that differs for most pairs of ids, to look for one among many.
    pub(crate) fn fingerprint(&self) -> u32 {
        let (words, _) = self.text.as_chunks();
        let mixed = words.iter().fold(0_u64, |mixed, word| {
            // The multiplier of Knuth's multiplicative hashing for 64 bits, 2^64 / golden ratio.
            (mixed.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        u32::try_from(mixed >> 32).unwrap_or_default()
    }
}

text_impls!(RequestId);

text_type! {
    /// The human-readable name of whoever took a lease: 0 to 1024 bytes (256 by default settings),
    /// no control characters. Cheap to clone.
    Owner,
    Rules { what: "an owner", min_bytes: 0, max_bytes: 1024, control_characters: false }
}

text_type! {
    /// What a holder publishes with its lock, such as its address: 0 to 65,536 bytes (4 KiB by
    /// default settings), any characters. Cheap to clone.
    Value,
    Rules { what: "a value", min_bytes: 0, max_bytes: 65_536, control_characters: true }
}

impl Key for LockName {
    fn head(&self, skip: usize) -> u64 {
        head_of_bytes(self.0.as_bytes().get(skip..).unwrap_or_default())
    }

    fn shared_bytes(&self, other: &Self) -> usize {
        let pairs = self.0.bytes().zip(other.0.bytes());
        pairs.take_while(|(a, b)| a == b).count()
    }
}

/// What the maker of a lease says about it: text by text key, shown to people and never read by
/// the model. At most 65,536 bytes in all (4 KiB by default settings). Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Arc<BTreeMap<String, String>>>);

impl Metadata {
    /// The most bytes that keys and values can have together. Settings can lower it.
    pub const MAX_BYTES: usize = 65_536;

    /// Checks `entries` and keeps them.
    ///
    /// # Errors
    /// When keys and values together have more than [`Metadata::MAX_BYTES`] bytes, or a key is
    /// empty or contains control characters.
    pub fn new(entries: BTreeMap<String, String>) -> Result<Self, TextError> {
        let key_rules = Rules {
            what: "a metadata key",
            min_bytes: 1,
            max_bytes: Self::MAX_BYTES,
            control_characters: false,
        };
        entries.keys().try_for_each(|key| key_rules.check(key))?;
        let metadata = Self((!entries.is_empty()).then(|| Arc::new(entries)));
        let bytes = metadata.bytes();
        if bytes > Self::MAX_BYTES {
            return Err(TextError::TooLong {
                what: "metadata",
                bytes,
                max_bytes: Self::MAX_BYTES,
            });
        }
        Ok(metadata)
    }

    /// The entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|entries| entries.iter())
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The length of all keys and values in bytes of UTF-8.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.iter().fold(0, |sum, (key, value)| {
            sum.saturating_add(key.len()).saturating_add(value.len())
        })
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(entries) => entries.as_ref().serialize(serializer),
            None => BTreeMap::<String, String>::new().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_name_has_1_to_512_bytes_and_no_control_characters() {
        assert!(LockName::new(&"n".repeat(512)).is_ok());
        assert!(LockName::new("jobs/billing ü 锁").is_ok());
        assert!(matches!(LockName::new(""), Err(TextError::Empty { .. })));
        assert!(matches!(
            LockName::new(&"n".repeat(513)),
            Err(TextError::TooLong { bytes: 513, .. })
        ));
        assert!(matches!(
            LockName::new("a\nb"),
            Err(TextError::ControlCharacter { at_byte: 1, .. })
        ));
        assert!(matches!(
            LockName::new("a\u{85}"),
            Err(TextError::ControlCharacter { at_byte: 1, .. })
        ));
    }

    #[test]
    fn a_request_id_has_1_to_64_bytes_and_no_control_characters() {
        let longest = "ü".repeat(32);
        let id = RequestId::new(&longest).unwrap();
        assert_eq!((id.as_str(), id.bytes()), (longest.as_str(), 64));
        assert_eq!(longest.parse(), Ok(id));
        assert!(RequestId::new(&"r".repeat(65)).is_err());
        assert!(RequestId::new("").is_err());
        assert!(RequestId::new("a\0").is_err());
        assert!(RequestId::new("a").unwrap() < RequestId::new("ab").unwrap());
        let other = RequestId::new("a").unwrap();
        assert_ne!(id.fingerprint(), other.fingerprint());
        assert_ne!(
            other.fingerprint(),
            RequestId::new("b").unwrap().fingerprint()
        );
    }

    #[test]
    fn fingerprints_differ_for_most_pairs_of_ids() {
        let prints = (0..4_096).map(|n| RequestId::new(&format!("r{n}")).unwrap().fingerprint());
        let distinct: std::collections::BTreeSet<u32> = prints.collect();
        assert!(distinct.len() > 4_000, "{}", distinct.len());
    }

    #[test]
    fn the_head_of_a_name_is_what_comes_behind_the_bytes_left_out() {
        let name = |text: &str| LockName::new(text).unwrap();
        let jobs = name("jobs/abcdefghij");
        assert_eq!(jobs.head(5), u64::from_be_bytes(*b"abcdefgh"));
        assert_eq!(jobs.head(13), u64::from_be_bytes(*b"ij\0\0\0\0\0\0"));
        assert_eq!(jobs.head(99), 0);
        for (other, shared) in [
            ("jobs/abx", 7),
            ("jobs/", 5),
            ("x", 0),
            ("jobs/abcdefghij", 15),
        ] {
            assert_eq!(jobs.shared_bytes(&name(other)), shared, "{other}");
        }
    }

    #[test]
    fn the_bound_counts_bytes_not_characters() {
        assert!(LockName::new(&"ü".repeat(256)).is_ok());
        assert!(LockName::new(&"ü".repeat(257)).is_err());
    }

    #[test]
    fn an_invalid_text_in_a_log_or_snapshot_is_an_error() {
        let bytes = postcard::to_stdvec("a\nb").unwrap();
        assert!(postcard::from_bytes::<LockName>(&bytes).is_err());
        let bytes = postcard::to_stdvec("ab").unwrap();
        assert_eq!(
            postcard::from_bytes::<LockName>(&bytes).unwrap().as_str(),
            "ab"
        );
    }

    #[test]
    fn metadata_counts_keys_and_values() {
        let one = |key: &str, value: &str| Metadata::new([(key.into(), value.into())].into());
        assert_eq!(one("host", "a").unwrap().bytes(), 5);
        assert!(one("", "a").is_err());
        assert!(one("a\n", "a").is_err());
        assert!(one("k", &"v".repeat(Metadata::MAX_BYTES)).is_err());
        let metadata = one("host", "a").unwrap();
        let bytes = postcard::to_stdvec(&metadata).unwrap();
        assert_eq!(postcard::from_bytes::<Metadata>(&bytes).unwrap(), metadata);
    }
}
