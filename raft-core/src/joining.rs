//! Coming into a running cluster: learns from any of its members which cluster it is, and remembers
//! that durably before anybody is asked to take this node in.
//!
//! Being taken in and getting a vote are asked for by `node::standing`, once the node serves its
//! peers.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::error::StartError;
use crate::founding::FoundingState;
use crate::membership::MembershipVersion;
use crate::types::ClusterId;

const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How often a waiting node says for whom it waits.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What to do with a node that was removed.
pub(crate) const HOW_TO_COME_BACK: &str = "A removed node never comes back as itself, and its data directory is of no further use. To have \
     this machine in the cluster again, give it an empty data directory and start it with --join";

/// How a node came into a cluster that was there before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub cluster: ClusterId,
    /// Peer addresses of members, as given when it joined.
    pub via: Vec<String>,
    /// It is to stay a learner until somebody promotes it.
    pub learner: bool,
    /// The membership that took it in.
    pub added: Option<MembershipVersion>,
    /// It has had its vote: from then on only operators change that.
    pub promoted: bool,
}

impl FoundingState {
    /// Finds out which cluster these members belong to, and remembers it. Waits for as long as none
    /// of them answers.
    pub(crate) async fn join(
        self: &Arc<Self>,
        via: &[String],
        learner: bool,
    ) -> Result<(), StartError> {
        let mut said: Option<Instant> = None;
        loop {
            let answers = join_all(via.iter().map(|peer| self.identity_of(peer))).await;
            let mut silent = Vec::new();
            for (peer, answer) in via.iter().zip(answers) {
                match answer {
                    Ok((_, Some(founding))) => {
                        tracing::info!(cluster = %founding.cluster, via = peer, "joining");
                        let joined = Joined {
                            cluster: founding.cluster,
                            via: via.to_vec(),
                            learner,
                            added: None,
                            promoted: false,
                        };
                        return self.belong_to(joined).await;
                    }
                    Ok((_, None)) => silent.push(format!("{peer}: it is in no cluster yet")),
                    Err(why) => silent.push(why),
                }
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                tracing::info!(
                    "waiting for a member to join through: {}",
                    silent.join("; ")
                );
            }
            sleep(ROUND_PAUSE).await;
        }
    }
}

/// The members to join through: those given, without this node itself, so that one list can serve
/// every node. At least one must be left.
pub(crate) fn others_to_join(given: &[String], own: &str) -> Result<Vec<String>, StartError> {
    let others: Vec<String> = given.iter().filter(|peer| *peer != own).cloned().collect();
    if others.is_empty() {
        return Err(StartError::Configuration(format!(
            "there is nobody to join through ({}): name the peer addresses of members of the running \
             cluster",
            given.join(",")
        )));
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_joins_through_others() {
        let others = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|peer| (*peer).to_owned()).collect();
            others_to_join(&given, "own:1").map_err(|error| error.to_string())
        };
        let expected = Ok(vec!["a:1".to_owned(), "b:1".to_owned()]);
        assert_eq!(others(&["a:1", "b:1"]), expected);
        assert_eq!(others(&["a:1", "own:1", "b:1"]), expected);
        for nobody in [&[][..], &["own:1"]] {
            assert!(
                others(nobody)
                    .unwrap_err()
                    .contains("nobody to join through")
            );
        }
    }
}
