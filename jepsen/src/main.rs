//! `palisade-jepsen`: the command line of the harness.

fn main() {}
