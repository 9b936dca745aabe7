//! Random ids of the client's own requests.

use lock_api::{LeaseSecret, RequestId};

use crate::Error;

/// A fresh lease secret: 128 bits from a cryptographic generator seeded by the operating system.
pub fn new_lease_secret() -> LeaseSecret {
    LeaseSecret::from_bytes(rand::random())
}

/// A fresh request id: 64 random bits, which is ample as it need only be unique within one lease.
///
/// # Errors
/// None in practice: 16 hexadecimal digits are a valid request id.
pub fn new_request_id() -> Result<RequestId, Error> {
    Ok(RequestId::new(format!("{:016x}", rand::random::<u64>()))?)
}
