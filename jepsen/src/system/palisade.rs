//! Palisade over its HTTP API: DESIGN section 5, docs/api.md. Shares no code with its server or client,
//! so that a mistake of theirs in reading the wire is not made here too.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::future::BoxFuture;
use jepsen_checker::Value;
use jepsen_checker::lock_checks::{LockEvent, LockEventKind, TokenScope};
use reqwest::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::server_sent::{Lines, ServerSent};
use super::{
    Ability, Action, Answer, Call, Client, ClientLinks, Ending, Feature, HolderSeen, Mode,
    NodePlan, Origin, Reply, System, WatchEnding, Watched, version_line,
};
use crate::run_directory::NodeSample;

/// How long a node may take to say how it is.
const SAMPLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long the change of a member may take.
const ADMINISTER_TIMEOUT: Duration = Duration::from_secs(20);
/// A node answers at its own deadline; the client gives up this much later.
const GRACE: Duration = Duration::from_millis(500);

/// Palisade.
pub(super) struct Palisade {
    binary: PathBuf,
    /// Whether this build can write down what it applies.
    records: bool,
    http: reqwest::Client,
}

impl Palisade {
    /// The named binary, else `palisaded` in `PALISADE_BIN_DIR`, beside this program or in the folder
    /// above it.
    pub(super) fn find(binary: Option<PathBuf>) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let folders: Vec<PathBuf> = match std::env::var_os("PALISADE_BIN_DIR") {
            Some(folder) => vec![folder.into()],
            None => own.ancestors().skip(1).take(2).map(PathBuf::from).collect(),
        };
        let found = binary.or_else(|| {
            let candidates = folders.iter().map(|folder| folder.join("palisaded"));
            candidates.into_iter().find(|program| program.is_file())
        });
        let binary = found.ok_or_else(|| {
            let folders = folders.iter().map(|folder| folder.display().to_string());
            let folders: Vec<String> = folders.collect();
            format!(
                "palisaded is not in {}; build it (cargo build --release -p lock-service), or \
                 name it with --binary",
                folders.join(" or ")
            )
        })?;
        let binary = std::path::absolute(binary).map_err(|error| error.to_string())?;
        Ok(Palisade {
            records: supports_flag(&binary, "--record-applied"),
            binary,
            http: http_client(ADMINISTER_TIMEOUT)?,
        })
    }

    async fn get(&self, node: SocketAddr, path: &str, timeout: Duration) -> Option<(u16, Json)> {
        let url = format!("http://{node}{path}");
        let reply = self.http.get(url).timeout(timeout).send().await.ok()?;
        let status = reply.status().as_u16();
        Some((status, reply.json().await.unwrap_or(Json::Null)))
    }

    async fn member_id(&self, node: SocketAddr, name: &str) -> Result<String, String> {
        let (_, view) = self
            .get(node, "/v1/cluster", SAMPLE_TIMEOUT)
            .await
            .ok_or("the node that was asked does not answer")?;
        let members = view["members"].as_array().cloned().unwrap_or_default();
        members
            .iter()
            .find(|member| member["name"] == name)
            .and_then(|member| member["node_id"].as_str().map(String::from))
            .ok_or_else(|| format!("{name} is no member"))
    }
}

pub(super) fn http_client(timeout: Duration) -> Result<reqwest::Client, String> {
    http_client_from(None, timeout)
}

/// One that sends from this address.
pub(super) fn http_client_from(
    from: Option<IpAddr>,
    timeout: Duration,
) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .no_proxy()
        .local_address(from)
        .connect_timeout(Duration::from_secs(1))
        .timeout(timeout)
        // What is sent once must arrive at most once.
        .retry(reqwest::retry::never())
        .build()
        .map_err(|error| format!("no HTTP client can be made: {error}"))
}

fn joined(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}

impl System for Palisade {
    fn name(&self) -> &'static str {
        "palisade"
    }

    fn probe(&self) -> Result<String, String> {
        version_line(&self.binary, "--version")
    }

    fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    fn nodes(&self, asked: usize) -> Result<usize, String> {
        match asked {
            1 => Err("Palisade's nodes found their cluster together: --nodes 2 or more".to_owned()),
            nodes => Ok(nodes),
        }
    }

    fn command(&self, node: &NodePlan, origin: &Origin) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .args(["--name", &node.name, "--check-invariants"])
            .arg("--data-dir")
            .arg(&node.data)
            .args(["--listen-http", &node.client.to_string()])
            .args(["--listen-peer", &node.peer.to_string()])
            .args(["--advertise-peer", &node.advertised_peer.to_string()])
            // So small that snapshots, purges and followers that need them happen in minutes.
            .args(["--snapshot-after-entries", "2000", "--keep-entries", "500"])
            .args(["--free-space-floor", "0"])
            .env("PALISADE_LOG", "info,openraft=error");
        if !node.client.ip().is_loopback() {
            // Nobody else is on that network.
            command.arg("--insecure");
        }
        if self.records {
            command.arg("--record-applied").arg(&node.applied);
        }
        match origin {
            Origin::Founds(peers) => command.args(["--initial-peers", &joined(peers)]),
            Origin::Joins(peers) => command.args(["--join", &joined(peers)]),
        };
        command
    }

    fn features<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, Vec<Feature>> {
        Box::pin(async move {
            let mut features = vec![
                Feature::Tokens,
                Feature::Renew,
                Feature::Wait,
                Feature::Requests,
                Feature::Read,
            ];
            // What a version does not know it refuses by name, before it does anything; each of these
            // asks for something impossible, so that it does nothing where it is known.
            let impossible = |more: Json| {
                let mut body = json!({"lock": "probe", "ttl_ms": 1});
                if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
                    body.extend(more.clone());
                }
                body
            };
            let several = json!({"locks": [{"name": "probe"}], "ttl_ms": 1});
            for (feature, body) in [
                (Feature::Shared, impossible(json!({"mode": "shared"}))),
                (
                    Feature::Permits,
                    impossible(json!({"mode": "permits", "permits": 1, "limit": 2})),
                ),
                (Feature::SeveralLocks, several),
            ] {
                let sent = self
                    .http
                    .post(format!("http://{node}/v1/acquire"))
                    .json(&body)
                    .send()
                    .await;
                let Ok(reply) = sent else { continue };
                let problem: Json = reply.json().await.unwrap_or(Json::Null);
                if problem["field"].as_str() == Some("ttl_ms") {
                    features.push(feature);
                }
            }
            let update = self.http.post(format!("http://{node}/v1/update"));
            let update = update.json(&json!({"lease": "0".repeat(32), "token": 1, "value": ""}));
            if let Ok(reply) = update.send().await {
                let problem: Json = reply.json().await.unwrap_or(Json::Null);
                if problem["code"] == "lease_not_found" {
                    features.push(Feature::Update);
                }
            }
            let events = self.http.get(format!("http://{node}/v1/events?prefix="));
            if let Ok(reply) = events.send().await
                && reply.status() == StatusCode::OK
            {
                features.push(Feature::Events);
            }
            features
        })
    }

    fn abilities(&self) -> &'static [Ability] {
        &[
            Ability::Peers,
            Ability::Leader,
            Ability::Transfer,
            Ability::Membership,
            Ability::Snapshot,
            Ability::LibcClocks,
            Ability::Durable,
        ]
    }

    fn token_scope(&self) -> TokenScope {
        TokenScope::Cluster
    }

    fn ready<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let answer = self.get(node, "/readyz", SAMPLE_TIMEOUT).await;
            matches!(answer, Some((200, _)))
        })
    }

    fn sample<'a>(&'a self, node: &'a NodePlan) -> BoxFuture<'a, Option<NodeSample>> {
        Box::pin(async move {
            let (status, view) = self.get(node.client, "/v1/cluster", SAMPLE_TIMEOUT).await?;
            if status != 200 {
                return None;
            }
            let members = view["members"].as_array().cloned().unwrap_or_default();
            let own = members
                .iter()
                .find(|member| member["node_id"] == view["answered_by"]);
            Some(NodeSample {
                node: node.name.clone(),
                process: String::new(),
                reachable: true,
                leads: own.is_some_and(|own| own["role"] == "leader"),
                leader: view["leader"]["name"].as_str().map(String::from),
                term: view["term"].as_u64(),
                applied_index: own.and_then(|own| own["applied_index"].as_u64()),
            })
        })
    }

    fn administer<'a>(
        &'a self,
        node: SocketAddr,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let (path, body) = match action {
                Action::Transfer(None) => ("transfer", json!({})),
                Action::Transfer(Some(to)) => {
                    let to = self.member_id(node, to).await?;
                    ("transfer", json!({"to_node_id": to}))
                }
                Action::Snapshot => ("snapshot", json!({})),
                Action::Remove(name) => {
                    let member = self.member_id(node, name).await?;
                    ("remove", json!({"node_id": member}))
                }
            };
            let url = format!("http://{node}/v1/cluster/{path}");
            let timeout_ms = (ADMINISTER_TIMEOUT - GRACE).as_millis().to_string();
            let sent = self
                .http
                .post(url)
                .header("palisade-timeout-ms", timeout_ms)
                .json(&body)
                .send()
                .await;
            let reply = sent.map_err(|error| describe(&error))?;
            if reply.status() == StatusCode::OK {
                return Ok(());
            }
            let problem: Json = reply.json().await.unwrap_or(Json::Null);
            let word = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
            Err(format!("{}: {}", word("code"), word("detail")))
        })
    }
}

/// Whether this build of `palisaded serve` knows a flag, hidden ones included.
fn supports_flag(binary: &Path, flag: &str) -> bool {
    // A known flag without its value is a usage error of another kind than an unknown one.
    let Ok(output) = Command::new(binary).args(["serve", flag]).output() else {
        return false;
    };
    !String::from_utf8_lossy(&output.stderr).contains("unexpected argument")
}

/// A client by these links.
pub(super) fn client(links: ClientLinks) -> Result<Box<dyn Client>, String> {
    Ok(Box::new(PalisadeClient {
        http: http_client_from(links.from, Duration::from_secs(90))?,
        addresses: links.nodes,
    }))
}

struct PalisadeClient {
    addresses: Vec<SocketAddr>,
    http: reqwest::Client,
}

impl Client for PalisadeClient {
    fn call<'a>(
        &'a mut self,
        node: usize,
        call: &'a Call,
        timeout: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let Some(address) = self.addresses.get(node) else {
                return Answer::refused("no_such_node");
            };
            let wait_ms = match call {
                Call::Acquire { wait_ms, .. } => *wait_ms,
                _ => 0,
            };
            let server_timeout = timeout + Duration::from_millis(wait_ms);
            let request = match call {
                Call::Read { lock } => self
                    .http
                    .get(format!("http://{address}/v1/locks"))
                    .query(&[("name", lock)]),
                other => {
                    let (path, body) = body(other);
                    self.http
                        .post(format!("http://{address}/v1/{path}"))
                        .json(&body)
                }
            };
            let sent = request
                .header(
                    "palisade-timeout-ms",
                    server_timeout.as_millis().to_string(),
                )
                .timeout(server_timeout + GRACE)
                .send()
                .await;
            let reply = match sent {
                Ok(reply) => reply,
                Err(error) if error.is_connect() => return Answer::refused("connection_refused"),
                Err(error) => return Answer::unknown(describe(&error)),
            };
            let status = reply.status().as_u16();
            let header = reply.headers().get("palisade-position");
            let header = header.and_then(|header| header.to_str().ok()?.parse().ok());
            match reply.json::<Json>().await {
                Ok(body) => {
                    let position = body["position"].as_str().and_then(|text| text.parse().ok());
                    Answer {
                        ending: ending(call, status, &body),
                        position: position.or(header),
                    }
                }
                Err(error) => Answer::unknown(describe(&error)),
            }
        })
    }

    fn watch<'a>(
        &'a mut self,
        node: usize,
        after: Option<&'a str>,
        lasts: Duration,
    ) -> BoxFuture<'a, Watched> {
        Box::pin(async move {
            let mut watched = Watched::nothing(WatchEnding::Over);
            let listened = tokio::time::timeout(lasts, self.listen(node, after, &mut watched));
            if let Ok(ending) = listened.await {
                watched.ending = ending;
            }
            watched
        })
    }
}

impl PalisadeClient {
    /// Takes what comes, until the stream ends.
    async fn listen(&self, node: usize, after: Option<&str>, into: &mut Watched) -> WatchEnding {
        let Some(address) = self.addresses.get(node) else {
            return WatchEnding::Broken("no_such_node".to_owned());
        };
        let broken = |error: reqwest::Error| WatchEnding::Broken(describe(&error));
        let mut request = self.http.get(format!("http://{address}/v1/events"));
        request = request.query(&[("prefix", "")]);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let mut reply = match request.send().await {
            Ok(reply) => reply,
            Err(error) => return broken(error),
        };
        match reply.status() {
            StatusCode::OK => {}
            StatusCode::GONE => return WatchEnding::Gone,
            other => return WatchEnding::Broken(format!("status {other}")),
        }
        let mut lines = Lines::default();
        loop {
            match reply.chunk().await {
                Ok(Some(bytes)) => {
                    for sent in lines.feed(&bytes) {
                        if let Err(ending) = told(sent, into) {
                            return ending;
                        }
                    }
                }
                Ok(None) => return WatchEnding::Broken("the stream ended".to_owned()),
                Err(error) => return broken(error),
            }
        }
    }
}

/// Takes one event of a stream: of a lock, a heartbeat, or the problem that ends it.
fn told(sent: ServerSent, into: &mut Watched) -> Result<(), WatchEnding> {
    if sent.event == "heartbeat" {
        into.place = Some(sent.id);
        return Ok(());
    }
    let not_understood = || WatchEnding::Broken(format!("not understood: {sent:?}"));
    let data: Json = serde_json::from_str(&sent.data).map_err(|_| not_understood())?;
    if sent.event == "problem" {
        return Err(match data["code"].as_str() {
            Some("position_gone") => WatchEnding::Gone,
            code => WatchEnding::Broken(code.unwrap_or("problem").to_owned()),
        });
    }
    let text = |name: &str| data[name].as_str();
    let position = text("position").and_then(|text| text.parse().ok());
    let kind = LockEventKind::by_name(&sent.event);
    let (Some(position), Some(kind), Some(lock)) = (position, kind, text("lock")) else {
        return Err(not_understood());
    };
    let event = LockEvent {
        position,
        kind,
        lock: Value::text(lock),
        token: data["token"].as_u64(),
        lease: text("lease_id").map(Into::into),
        request: text("request_id").map(Into::into),
    };
    into.place = Some(sent.id.clone());
    into.events.push((event, sent.id));
    Ok(())
}

/// The words of an error and of what caused it.
pub(super) fn describe(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

fn mode(mode: Mode, into: &mut Map<String, Json>) {
    match mode {
        // The default; a version that knows no modes takes it.
        Mode::Exclusive => {}
        Mode::Shared => {
            into.insert("mode".into(), json!("shared"));
        }
        Mode::Permits { permits, limit } => {
            into.insert("mode".into(), json!("permits"));
            into.insert("permits".into(), json!(permits));
            into.insert("limit".into(), json!(limit));
        }
    }
}

fn body(call: &Call) -> (&'static str, Json) {
    let mut body = Map::new();
    let mut put = |name: &str, value: Json| body.insert(name.to_owned(), value);
    let path = match call {
        Call::Acquire {
            locks,
            lease,
            ttl_ms,
            wait_ms,
            request,
            value,
        } => {
            put("lease", json!(lease.secret));
            put("ttl_ms", json!(ttl_ms));
            put("wait_ms", json!(wait_ms));
            put("request_id", json!(request));
            if let Some(value) = value {
                put("value", json!(value));
            }
            match &locks[..] {
                [ask] => {
                    body.insert("lock".into(), json!(ask.lock));
                    mode(ask.mode, &mut body);
                }
                several => {
                    let locks = several.iter().map(|ask| {
                        let mut lock = Map::from_iter([("name".to_owned(), json!(ask.lock))]);
                        mode(ask.mode, &mut lock);
                        Json::Object(lock)
                    });
                    let locks = locks.collect();
                    body.insert("locks".into(), Json::Array(locks));
                }
            }
            "acquire"
        }
        Call::Renew { lease } => {
            put("lease", json!(lease.secret));
            "renew"
        }
        Call::Release { lease, held } => {
            put("lease", json!(lease.secret));
            let tokens: Vec<u64> = held.iter().filter_map(|(_, token)| *token).collect();
            match tokens[..] {
                [token] => put("token", json!(token)),
                _ => put("tokens", json!(tokens)),
            };
            "release"
        }
        Call::Cancel { lease, request, .. } => {
            put("lease", json!(lease.secret));
            put("request_id", json!(request));
            "cancel"
        }
        Call::Revoke { lease } => {
            put("lease", json!(lease.secret));
            "leases/revoke"
        }
        Call::Update {
            lease,
            token,
            value,
            ..
        } => {
            put("lease", json!(lease.secret));
            put("token", json!(token));
            put("value", json!(value));
            "update"
        }
        Call::Read { .. } => "locks",
    };
    (path, Json::Object(body))
}

/// What an answer says of a call. Whatever is not understood is unknown.
fn ending(call: &Call, status: u16, body: &Json) -> Ending {
    if !(200..300).contains(&status) {
        let code = body["code"].as_str().unwrap_or("no_code").to_owned();
        if body["outcome"] == "not_applied" {
            let reason = body["reason"].as_str().map(String::from);
            return Ending::Refused { code, reason };
        }
        return Ending::Unknown(format!("{status} {code}"));
    }
    let not_understood = || Ending::Unknown(format!("{status} with a body that says {body}"));
    let ttl_ms = || body["ttl_ms"].as_u64();
    let reply = match call {
        Call::Acquire { .. } if body["granted"] == false => Some(Reply::Waiting),
        Call::Acquire { locks, .. } => {
            let held = match (&locks[..], body["locks"].as_array()) {
                ([ask], None) => Some(vec![(ask.lock.clone(), body["token"].as_u64())]),
                (_, Some(given)) => given
                    .iter()
                    .map(|given| {
                        let name = given["lock"].as_str().or(given["name"].as_str())?;
                        Some((name.to_owned(), given["token"].as_u64()))
                    })
                    .collect(),
                _ => None,
            };
            held.filter(|held| held.iter().all(|(_, token)| token.is_some()))
                .zip(ttl_ms())
                .map(|(held, ttl_ms)| Reply::Granted { held, ttl_ms })
        }
        Call::Renew { .. } => ttl_ms().map(|ttl_ms| Reply::Renewed { ttl_ms }),
        Call::Release { .. } => body["was_held"]
            .as_bool()
            .map(|was_held| Reply::Released { was_held }),
        Call::Cancel { .. } => body["result"].as_str().map(|result| Reply::Cancelled {
            released: result == "released",
        }),
        Call::Revoke { .. } => Some(Reply::Revoked),
        Call::Update { .. } => Some(Reply::Updated),
        Call::Read { .. } => body["holders"].as_array().and_then(|holders| {
            let holders: Option<Vec<HolderSeen>> = holders
                .iter()
                .map(|holder| {
                    Some(HolderSeen {
                        lease: holder["lease_id"].as_str()?.to_owned(),
                        token: holder["token"].as_u64(),
                        value: holder["value"].as_str().map(String::from),
                    })
                })
                .collect();
            holders.map(Reply::Holders)
        }),
    };
    reply.map_or_else(not_understood, Ending::Done)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::{Ask, Lease};
    use super::*;

    fn acquire(locks: &[(&str, Mode)]) -> Call {
        Call::Acquire {
            locks: locks
                .iter()
                .map(|(lock, mode)| Ask {
                    lock: (*lock).to_owned(),
                    mode: *mode,
                })
                .collect(),
            lease: Lease::draw(&mut StdRng::seed_from_u64(1)),
            ttl_ms: 2_000,
            wait_ms: 0,
            request: "r".into(),
            value: None,
        }
    }

    #[test]
    fn several_locks_and_modes_are_asked_for_as_the_api_says() {
        let (_, one) = body(&acquire(&[("a", Mode::Exclusive)]));
        assert_eq!(one["lock"], "a");
        assert!(one.get("mode").is_none() && one.get("locks").is_none());
        let permits = Mode::Permits {
            permits: 1,
            limit: 3,
        };
        let (_, two) = body(&acquire(&[("a", Mode::Shared), ("b", permits)]));
        assert_eq!(
            two["locks"],
            json!([{"name": "a", "mode": "shared"}, {"name": "b", "mode": "permits", "permits": 1, "limit": 3}])
        );
    }

    #[test]
    fn a_stream_is_gone_on_from_what_was_told_last_and_ends_where_its_place_is_lost() {
        let sent = |event: &str, id: &str, data: Json| ServerSent {
            id: id.into(),
            event: event.into(),
            data: data.to_string(),
        };
        let mut watched = Watched::nothing(WatchEnding::Over);
        let granted = json!({"type": "granted", "position": "7.1", "lock": "a", "lease_id": "aa", "token": 3});
        told(sent("granted", "7.1@c", granted), &mut watched).unwrap();
        told(sent("heartbeat", "9.0@c", json!({})), &mut watched).unwrap();
        assert_eq!(watched.place.as_deref(), Some("9.0@c"));
        assert_eq!(watched.events[0].0.token, Some(3));
        let gone = sent("problem", "", json!({"code": "position_gone"}));
        assert_eq!(told(gone, &mut watched), Err(WatchEnding::Gone));
        let odd = sent("thawed", "8.0@c", json!({"position": "8.0", "lock": "a"}));
        assert!(matches!(
            told(odd, &mut watched),
            Err(WatchEnding::Broken(_))
        ));
    }

    #[test]
    fn only_what_says_not_applied_is_refused_and_what_is_not_understood_is_unknown() {
        let call = acquire(&[("a", Mode::Exclusive)]);
        let refusal = json!({"code": "lock_held", "outcome": "not_applied", "reason": "queued"});
        assert_eq!(
            ending(&call, 409, &refusal),
            Ending::Refused {
                code: "lock_held".into(),
                reason: Some("queued".into())
            }
        );
        for (status, body) in [
            (
                504,
                json!({"code": "deadline_exceeded", "outcome": "unknown"}),
            ),
            (500, json!({"code": "lock_held"})),
            (502, Json::Null),
            (200, json!({"granted": true, "ttl_ms": 2000})),
        ] {
            let ending = ending(&call, status, &body);
            assert!(matches!(ending, Ending::Unknown(_)), "{ending:?}");
        }
        let granted = json!({"granted": true, "token": 7, "ttl_ms": 2000});
        assert_eq!(
            ending(&call, 200, &granted),
            Ending::Done(Reply::Granted {
                held: vec![("a".into(), Some(7))],
                ttl_ms: 2000
            })
        );
        let waiting = ending(&call, 202, &json!({"granted": false}));
        assert_eq!(waiting, Ending::Done(Reply::Waiting));
    }
}
