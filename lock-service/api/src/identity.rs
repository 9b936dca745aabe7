//! A lease's secret and its id. The secret is the capability; the id may be shown to anybody.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Why a hexadecimal text was refused. It never quotes the text, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}: exactly 32 lower-case hexadecimal digits")]
pub struct InvalidHex {
    expected: &'static str,
}

fn parse_hex(text: &str, expected: &'static str) -> Result<[u8; 16], InvalidHex> {
    let digits = text.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return Err(InvalidHex { expected });
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [Some(high), Some(low)] = [nibble(pair[0]), nibble(pair[1])] else {
            return Err(InvalidHex { expected });
        };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn write_hex(bytes: [u8; 16]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

macro_rules! hex_serde {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = InvalidHex;
            fn from_str(text: &str) -> Result<Self, InvalidHex> {
                parse_hex(text, Self::EXPECTED).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&write_hex(self.0))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(
                            f,
                            "{}: exactly 32 lower-case hexadecimal digits",
                            $name::EXPECTED
                        )
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

/// The secret of a lease: 128 random bits, on the wire 32 lower-case hexadecimal digits in the field
/// `lease`. Who knows it may acquire with, renew, release and revoke the lease. `Debug` does not show
/// it, and there is no `Display`: use [`LeaseSecret::reveal`] where it must be written out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LeaseSecret([u8; 16]);

impl LeaseSecret {
    const EXPECTED: &'static str = "a lease secret";

    /// Wraps 128 bits, which must come from a cryptographic source of randomness.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The public id of the lease: the first 16 bytes of SHA-256 over the secret's 16 bytes.
    pub fn id(&self) -> LeaseId {
        let digest = Sha256::digest(self.0);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        LeaseId(bytes)
    }

    /// The secret as it travels. Do not log it.
    pub fn reveal(&self) -> String {
        write_hex(self.0)
    }
}

impl fmt::Debug for LeaseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseSecret(redacted)")
    }
}

hex_serde!(LeaseSecret);

/// The id of a lease: a truncated SHA-256 of its secret. It opens nothing, so it may appear in URLs,
/// listings and logs. On the wire 32 lower-case hexadecimal digits in the field `lease_id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    const EXPECTED: &'static str = "a lease id";

    /// Wraps the id's 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write_hex(self.0))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

hex_serde!(LeaseId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_truncated_sha_256_of_the_raw_secret() {
        let secret: LeaseSecret = "00000000000000000000000000000000".parse().unwrap();
        // From `head -c 16 /dev/zero | sha256sum`.
        assert_eq!(secret.id().to_string(), "374708fff7719dd5979ec875d56cd228");
    }

    #[test]
    fn a_secret_is_never_shown_by_debug_nor_by_its_parse_error() {
        let secret = LeaseSecret::from_bytes([0xab; 16]);
        assert!(!format!("{secret:?}").contains("ab"));
        let error = "abababababababababababababababaX"
            .parse::<LeaseSecret>()
            .unwrap_err();
        assert!(!error.to_string().contains("abab"));
        assert!(
            error
                .to_string()
                .contains("32 lower-case hexadecimal digits")
        );
        let error = serde_json::from_str::<LeaseSecret>("\"ABABABABABABABABABABABABABABABAB\"");
        assert!(!error.unwrap_err().to_string().contains("ABAB"));
    }

    #[test]
    fn only_32_lower_case_digits_are_a_secret() {
        for text in [
            "",
            "ab",
            "0x000000000000000000000000000000",
            "ABABABABABABABABABABABABABABABAB",
        ] {
            assert!(text.parse::<LeaseSecret>().is_err(), "{text}");
        }
        let text = "0123456789abcdef0123456789abcdef";
        assert_eq!(text.parse::<LeaseSecret>().unwrap().reveal(), text);
    }
}
