//! What no client should send: each is refused by name, on a connection that stays usable, without a
//! change of state. (That no node panics is checked at the end of every test, by `Cluster`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bodies;
mod fields;
mod http;
mod support;
