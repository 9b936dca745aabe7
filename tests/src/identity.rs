//! Lease secrets as a client makes them.

use lock_api::LeaseSecret;

/// A new lease secret, as it travels: 32 hexadecimal digits.
pub fn new_secret() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The id of the lease with this secret, as it travels.
///
/// # Panics
/// When it is not a secret.
pub fn secret_id(secret: &str) -> String {
    let secret: LeaseSecret = secret.parse().expect("a lease secret");
    secret.id().to_string()
}
