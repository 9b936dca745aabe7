//! The name and the secret of a lease, chosen by the client.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A lease. The history only has its id: what the system logs and shows, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// 32 hexadecimal digits.
    pub(crate) secret: String,
    /// 32 hexadecimal digits: the first 16 bytes of SHA-256 over the secret's bytes (docs/api.md).
    pub(crate) id: String,
}

impl Lease {
    /// A new one.
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let secret: [u8; 16] = rng.random();
        Lease {
            secret: hex(&secret),
            id: hex(Sha256::digest(secret).get(..16).unwrap_or_default()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_leases_and_ids_are_not_secrets() {
        let draw = || Lease::draw(&mut StdRng::seed_from_u64(7));
        assert_eq!(draw(), draw());
        assert_eq!(draw().secret.len(), 32);
        assert_eq!(draw().id.len(), 32);
        assert_ne!(draw().secret, draw().id);
    }
}
