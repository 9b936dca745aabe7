//! etcd and its own lock, by the JSON gateway of its version 3 API, used as well as it can be: a lease,
//! `/v3/lock/lock` under it, a look whether the holder's key is there, and the revision that made the key
//! as fencing token. The answer's own revision, which `etcdctl lock` shows, can be that of several
//! waiters; some of them may hold nothing (etcd issue 11456). A lease that was granted in vain expires.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use jepsen_checker::lock_checks::TokenScope;
use serde_json::{Value as Json, json};

use super::palisade::{describe, http_client, http_client_from};
use super::{
    Ability, Action, Answer, Call, Client, ClientLinks, Ending, Feature, Lease, NodePlan, Origin,
    Reply, System, find_program, version_line,
};
use crate::run_directory::NodeSample;

const SAMPLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// etcd's lock waits without a limit. A client takes its request back this much later than asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// etcd.
pub(super) struct Etcd {
    binary: PathBuf,
    http: reqwest::Client,
}

impl Etcd {
    /// The named binary, else Debian's.
    pub(super) fn find(binary: Option<PathBuf>) -> Result<Self, String> {
        let binary = binary.or_else(|| find_program("etcd"));
        let binary = binary.ok_or(
            "etcd is not installed (Debian: apt-get install etcd-server, then systemctl disable \
             --now etcd); or name one with --binary",
        )?;
        Ok(Etcd {
            binary,
            http: http_client(SAMPLE_TIMEOUT)?,
        })
    }
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn probe(&self) -> Result<String, String> {
        version_line(&self.binary, "--version")
    }

    fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    fn command(&self, node: &NodePlan, origin: &Origin) -> Command {
        let url = |address: &SocketAddr| format!("http://{address}");
        let peers = match origin {
            Origin::Founds(peers) | Origin::Joins(peers) => peers,
        };
        let cluster: Vec<String> = (1..)
            .zip(peers)
            .map(|(number, peer)| format!("n{number}={}", url(peer)))
            .collect();
        let mut command = Command::new(&self.binary);
        command
            .args(["--name", &node.name, "--log-level", "warn"])
            .arg("--data-dir")
            .arg(&node.data)
            .args(["--listen-client-urls", &url(&node.client)])
            .args(["--advertise-client-urls", &url(&node.client)])
            .args(["--listen-peer-urls", &url(&node.peer)])
            .args(["--initial-advertise-peer-urls", &url(&node.advertised_peer)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-state", "new"])
            // Debian's settings for its service are not ours.
            .env_clear();
        command
    }

    fn features<'a>(&'a self, _: SocketAddr) -> BoxFuture<'a, Vec<Feature>> {
        Box::pin(async { vec![Feature::Tokens, Feature::Renew, Feature::Wait] })
    }

    fn abilities(&self) -> &'static [Ability] {
        &[Ability::Peers, Ability::Leader]
    }

    fn token_scope(&self) -> TokenScope {
        TokenScope::Lock
    }

    fn ready<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let reply = self.http.get(format!("http://{node}/health")).send().await;
            match reply {
                Ok(reply) => reply
                    .json::<Json>()
                    .await
                    .is_ok_and(|it| it["health"] == "true"),
                Err(_) => false,
            }
        })
    }

    fn sample<'a>(&'a self, node: &'a NodePlan) -> BoxFuture<'a, Option<NodeSample>> {
        Box::pin(async move {
            let url = format!("http://{}/v3/maintenance/status", node.client);
            let reply = self.http.post(url).json(&json!({})).send().await.ok()?;
            let status: Json = reply.json().await.ok()?;
            let leads =
                status["leader"].is_string() && status["leader"] == status["header"]["member_id"];
            Some(NodeSample {
                node: node.name.clone(),
                process: String::new(),
                reachable: true,
                leads,
                leader: leads.then(|| node.name.clone()),
                term: number(&status["raftTerm"]),
                applied_index: number(&status["raftAppliedIndex"]),
            })
        })
    }

    fn administer<'a>(&'a self, _: SocketAddr, _: &'a Action) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Err("etcd is not asked for this".to_owned()) })
    }
}

/// A number as the gateway writes 64 bits: as a string.
fn number(value: &Json) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// etcd's id of a lease: 60 bits of ours, and never 0.
fn lease_number(lease: &Lease) -> u64 {
    let digits = lease.id.get(..15).unwrap_or_default();
    u64::from_str_radix(digits, 16).unwrap_or(0).max(1)
}

/// The key under which etcd's lock keeps a holder.
fn key(lock: &str, lease: &Lease) -> String {
    STANDARD.encode(format!("{lock}/{:x}", lease_number(lease)))
}

/// A client by these links.
pub(super) fn client(links: ClientLinks) -> Result<Box<dyn Client>, String> {
    Ok(Box::new(EtcdClient {
        http: http_client_from(links.from, Duration::from_secs(90))?,
        addresses: links.nodes,
    }))
}

struct EtcdClient {
    addresses: Vec<SocketAddr>,
    http: reqwest::Client,
}

impl EtcdClient {
    async fn post(
        &self,
        address: SocketAddr,
        path: &str,
        body: &Json,
        timeout: Duration,
    ) -> Result<Json, Answer> {
        let url = format!("http://{address}/v3/{path}");
        let sent = self.http.post(url).json(body).timeout(timeout).send().await;
        let reply = match sent {
            Ok(reply) => reply,
            Err(error) if error.is_connect() => return Err(Answer::refused("connection_refused")),
            Err(error) => return Err(Answer::unknown(describe(&error))),
        };
        let status = reply.status();
        match reply.json::<Json>().await {
            Ok(body) if status.is_success() => Ok(body),
            Ok(body) => Err(Answer::unknown(format!("{status} {body}"))),
            Err(error) => Err(Answer::unknown(describe(&error))),
        }
    }

    async fn acquire(
        &self,
        address: SocketAddr,
        lock: &str,
        lease: &Lease,
        ttl_ms: u64,
        wait: Duration,
        timeout: Duration,
    ) -> Result<Reply, Answer> {
        let id = lease_number(lease).to_string();
        let grant = json!({"TTL": ttl_ms.div_ceil(1_000).to_string(), "ID": id});
        let granted = self.post(address, "lease/grant", &grant, timeout).await;
        // Whatever became of the lease: the lock was not asked for.
        let granted = granted.map_err(|answer| match answer.ending {
            Ending::Refused { .. } => answer,
            _ => Answer::refused("no_lease"),
        })?;
        let ttl_ms = number(&granted["TTL"])
            .ok_or_else(|| Answer::refused("no_lease"))?
            .saturating_mul(1_000);
        let body = json!({"name": STANDARD.encode(lock), "lease": id});
        let asked = self.post(address, "lock/lock", &body, wait + PATIENCE + timeout);
        let Ok(locked) = tokio::time::timeout(wait + PATIENCE, asked).await else {
            return Err(self.take_back(address, &id, timeout).await);
        };
        locked?;
        let own = json!({"key": key(lock, lease)});
        let own = self.post(address, "kv/range", &own, timeout).await;
        let own = own.map_err(|_| Answer::unknown("whether its key is there was not said"))?;
        // It was told that it holds; its lease had ended while it waited.
        let token = number(&own["kvs"][0]["create_revision"])
            .ok_or_else(|| Answer::refused("lease_ended"))?;
        Ok(Reply::Granted {
            held: vec![(lock.to_owned(), Some(token))],
            ttl_ms,
        })
    }

    /// The wait is over: without its lease the request neither holds nor waits.
    async fn take_back(&self, address: SocketAddr, id: &str, timeout: Duration) -> Answer {
        let body = json!({"ID": id});
        let revoked = self.post(address, "lease/revoke", &body, timeout).await;
        match revoked.map_err(|answer| answer.ending) {
            Ok(_) => Answer::refused("wait_over"),
            Err(Ending::Unknown(why)) if why.contains("lease not found") => {
                Answer::refused("wait_over")
            }
            Err(_) => Answer::unknown("the wait is over; whether its lease is, was not said"),
        }
    }

    async fn renew(
        &self,
        address: SocketAddr,
        lease: &Lease,
        timeout: Duration,
    ) -> Result<Reply, Answer> {
        let body = json!({"ID": lease_number(lease).to_string()});
        let renewed = self
            .post(address, "lease/keepalive", &body, timeout)
            .await?;
        // A lease that is not there has no TTL.
        match number(&renewed["result"]["TTL"]) {
            Some(seconds @ 1..) => Ok(Reply::Renewed {
                ttl_ms: seconds.saturating_mul(1_000),
            }),
            _ => Err(Answer::refused("lease_ended")),
        }
    }
}

impl Client for EtcdClient {
    fn call<'a>(
        &'a mut self,
        node: usize,
        call: &'a Call,
        timeout: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let Some(address) = self.addresses.get(node).copied() else {
                return Answer::refused("no_such_node");
            };
            let result = match call {
                Call::Acquire {
                    locks,
                    lease,
                    ttl_ms,
                    wait_ms,
                    ..
                } => match &locks[..] {
                    [ask] => {
                        let wait = Duration::from_millis(*wait_ms);
                        self.acquire(address, &ask.lock, lease, *ttl_ms, wait, timeout)
                            .await
                    }
                    _ => return Answer::refused("not_supported"),
                },
                Call::Renew { lease } => self.renew(address, lease, timeout).await,
                Call::Release { lease, held } => match &held[..] {
                    [(lock, _)] => {
                        let body = json!({"key": key(lock, lease)});
                        let deleted = self.post(address, "kv/deleterange", &body, timeout).await;
                        deleted.map(|deleted| Reply::Released {
                            was_held: number(&deleted["deleted"]) == Some(1),
                        })
                    }
                    _ => return Answer::refused("not_supported"),
                },
                _ => return Answer::refused("not_supported"),
            };
            match result {
                Ok(reply) => Answer {
                    ending: Ending::Done(reply),
                    position: None,
                },
                Err(answer) => answer,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_holder_is_the_one_that_etcds_lock_makes() {
        let lease = Lease {
            secret: String::new(),
            id: "0f0000000000a1ffffffffffffffffff".into(),
        };
        assert_eq!(lease_number(&lease), 0x00f0_0000_0000_0a1f);
        let key = STANDARD.decode(key("lock/1", &lease)).unwrap();
        assert_eq!(key, b"lock/1/f0000000000a1f");
    }

    #[test]
    fn numbers_of_64_bits_are_strings() {
        assert_eq!(number(&json!("7")), Some(7));
        assert_eq!(number(&json!(7)), None);
    }
}
