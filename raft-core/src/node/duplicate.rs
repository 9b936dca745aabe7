//! Whether another process runs as this node: a data directory that was copied would vote twice.

use std::collections::BTreeSet;

use crate::error::StartError;
use crate::transport::Dialer;
use crate::types::NodeId;

/// Asks at every address under which the group may know this node, other than its own. Whoever answers
/// there as this very node is the one that the directory was copied from, or the one it became.
///
/// # Errors
/// Says where it runs. An address at which nobody answers proves nothing, and is passed over: the node
/// may just have moved.
pub(super) async fn refuse_duplicate(
    dialer: &Dialer,
    me: NodeId,
    addresses: BTreeSet<String>,
) -> Result<(), StartError> {
    for address in addresses {
        if dialer.connect(&address, Some(me)).await.is_ok() {
            return Err(StartError::Configuration(format!(
                "node {me} runs already, at {address}: this data directory is a copy of another \
                 node's, or that process was not stopped. A node must not vote twice. Stop that \
                 process to move the node; for another node, give an empty directory and --join"
            )));
        }
    }
    Ok(())
}
