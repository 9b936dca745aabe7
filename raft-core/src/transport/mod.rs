//! Peers over TCP or mutual TLS: framed, bounded, pipelined, with a deadline on every call.
//!
//! A connection starts with a handshake that checks magic, protocol version, cluster id and both
//! node ids. After it, each frame is a request with a number, or the reply to one. Requests of one
//! kind that must keep their order (appends, snapshot chunks) are served in order; all others are
//! served at once. Memory per connection is bounded, for a caller that is not known yet to a few
//! kilobytes. This module never decides anything about Raft: it carries openraft's messages.

mod channel;
mod connection;
mod frame;
mod messages;
mod network;
mod rarely;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod transfers;

pub(crate) use channel::Channel;
pub(crate) use connection::{CallError, Dialer, PeerLink};
pub(crate) use messages::{Founding, FoundingMember, Reply, Request};
pub(crate) use network::{NetworkFactory, Whereabouts};
pub(crate) use server::{
    Acceptor, AppendResults, FoundingHandler, Handler, Identity, serve_bootstrap, serve_peers,
};
pub(crate) use transfers::Transfers;
