//! Bounded texts: lock names, owners, request ids and values. Each is checked where it enters, so
//! code that holds one need not check again.

use std::fmt;

/// Why a text was refused: what it should have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}, expected {expected}")]
pub struct InvalidText {
    expected: &'static str,
    found: String,
}

fn check(
    text: &str,
    bytes: std::ops::RangeInclusive<usize>,
    controls_allowed: bool,
    expected: &'static str,
) -> Result<(), InvalidText> {
    let found = if !bytes.contains(&text.len()) {
        match text.len() {
            0 => "empty text".to_owned(),
            length => format!("text of {length} bytes"),
        }
    } else if let Some(control) = text
        .chars()
        .find(|character| !controls_allowed && character.is_control())
    {
        format!(
            "text with the control character U+{:04X}",
            u32::from(control)
        )
    } else {
        return Ok(());
    };
    Err(InvalidText { expected, found })
}

macro_rules! bounded_text {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, bytes: $min:literal..=$max:literal, controls_allowed: $controls:literal,
        expected: $expected:literal
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Longest text that is allowed, in bytes of UTF-8.
            pub const MAX_BYTES: usize = $max;

            /// Checks and wraps a text.
            ///
            /// # Errors
            /// [`InvalidText`] says what was expected.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidText> {
                let text = text.into();
                check(&text, $min..=$max, $controls, $expected)?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, without copying.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidText;
            fn from_str(text: &str) -> Result<Self, InvalidText> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_string(Visitor)
            }
        }
    };
}

bounded_text! {
    /// The name of a lock: 1 to 512 bytes of UTF-8 without control characters.
    pub struct LockName, bytes: 1..=512, controls_allowed: false,
    expected: "a lock name of 1 to 512 bytes of UTF-8 without control characters"
}

bounded_text! {
    /// The human-readable name of whoever takes a lease: 1 to 256 bytes of UTF-8 without control
    /// characters.
    pub struct Owner, bytes: 1..=256, controls_allowed: false,
    expected: "an owner of 1 to 256 bytes of UTF-8 without control characters"
}

bounded_text! {
    /// The id by which a client recognises its own request, unique within one lease: 1 to 64 bytes
    /// of UTF-8 without control characters. A repeat of the same id is the same request.
    pub struct RequestId, bytes: 1..=64, controls_allowed: false,
    expected: "a request id of 1 to 64 bytes of UTF-8 without control characters"
}

bounded_text! {
    /// The value that a holder attaches to its lock: up to 4096 bytes of any UTF-8.
    pub struct LockValue, bytes: 0..=4096, controls_allowed: true,
    expected: "a value of at most 4096 bytes of UTF-8"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_are_1_to_512_bytes() {
        assert!(LockName::new("").is_err());
        assert!(LockName::new("a").is_ok());
        assert!(LockName::new("a".repeat(512)).is_ok());
        assert!(LockName::new("a".repeat(513)).is_err());
        assert!(LockName::new("é".repeat(256)).is_ok());
        assert!(LockName::new("é".repeat(257)).is_err());
    }

    #[test]
    fn control_characters_are_refused_by_code_point_in_names_but_not_in_values() {
        for text in ["a\nb", "\0", "\u{7f}", "\u{85}"] {
            let error = LockName::new(text).unwrap_err().to_string();
            assert!(error.contains("control character U+"), "{error}");
            assert!(RequestId::new(text).is_err());
            assert!(Owner::new(text).is_err());
            assert!(LockValue::new(text).is_ok());
        }
    }

    #[test]
    fn an_invalid_text_says_what_is_expected() {
        let error = serde_json::from_str::<RequestId>("\"\"")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("empty text, expected a request id of 1 to 64 bytes"),
            "{error}"
        );
        let error = serde_json::from_str::<RequestId>("7")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected a request id of 1 to 64 bytes"),
            "{error}"
        );
    }
}
