//! Settings of one node: flag over `PALISADE_*` over file over default. Nothing here can change what
//! the state machine answers.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use lock_api::{DEFAULT_HTTP_PORT, DEFAULT_PEER_PORT};
use raft_core::{MutualTls, PeerSecurity, Pem};
use serde::Deserialize;

pub(crate) const DEFAULT_DATA_DIR: &str = "./palisade-data";

/// Flags of `palisaded serve`. The same names, with underscores, are keys of the TOML file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeArgs {
    /// TOML file with any of these settings
    #[arg(long, env = "PALISADE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Name that people see [default: the advertised peer address]
    #[arg(long, env = "PALISADE_NAME")]
    pub name: Option<String>,

    /// Where identity, log and snapshots live [default: ./palisade-data]
    #[arg(long, env = "PALISADE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address to serve the HTTP API on [default: 127.0.0.1:7101]
    #[arg(long, env = "PALISADE_LISTEN_HTTP", value_name = "ADDR:PORT")]
    pub listen_http: Option<SocketAddr>,

    /// Address to serve peers on [default: 127.0.0.1:7201]
    #[arg(long, env = "PALISADE_LISTEN_PEER", value_name = "ADDR:PORT")]
    pub listen_peer: Option<SocketAddr>,

    /// Where clients reach this node [default: the HTTP listen address]
    #[arg(long, env = "PALISADE_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,

    /// Where peers reach this node [default: the peer listen address]
    #[arg(long, env = "PALISADE_ADVERTISE_PEER", value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,

    /// All founding members' peer addresses, the same list in the same order on every node; not
    /// needed any more once the cluster is founded
    #[arg(
        long,
        env = "PALISADE_INITIAL_PEERS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…"
    )]
    pub initial_peers: Option<Vec<String>>,

    /// Peer addresses of members of a running cluster that this node joins through: any of them, all
    /// of them to be safe; not needed any more once it has joined
    #[arg(
        long,
        env = "PALISADE_JOIN",
        value_delimiter = ',',
        value_name = "HOST:PORT,…"
    )]
    pub join: Option<Vec<String>>,

    /// With --join: stay a learner, without a vote, until promoted by hand
    #[arg(
        long,
        env = "PALISADE_LEARNER",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub learner: Option<bool>,

    /// This node's certificate for connections between peers, with intermediate ones, in PEM format;
    /// needs --peer-key and --peer-ca. Read again for each new connection
    #[arg(long, env = "PALISADE_PEER_CERT", value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,

    /// The private key of --peer-cert, in PEM format, not encrypted
    #[arg(long, env = "PALISADE_PEER_KEY", value_name = "FILE")]
    pub peer_key: Option<PathBuf>,

    /// The CA that issued every node's --peer-cert, in PEM format
    #[arg(long, env = "PALISADE_PEER_CA", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,

    /// This node's certificate for clients, with intermediate ones, in PEM format; with --http-key it
    /// makes the API HTTPS. Read again on SIGHUP
    #[arg(long, env = "PALISADE_HTTP_CERT", value_name = "FILE")]
    pub http_cert: Option<PathBuf>,

    /// The private key of --http-cert, in PEM format, not encrypted
    #[arg(long, env = "PALISADE_HTTP_KEY", value_name = "FILE")]
    pub http_key: Option<PathBuf>,

    /// Hashes of the bearer tokens that clients must send, and what each allows; `palisaded token`
    /// makes its entries. Read again on SIGHUP
    #[arg(long, env = "PALISADE_AUTH_FILE", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,

    /// Listen beyond loopback without --http-cert and --auth-file, or without --peer-cert: whoever
    /// reaches the node can then read and change everything
    #[arg(
        long,
        env = "PALISADE_INSECURE",
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub insecure: Option<bool>,

    /// Take a snapshot after this many log entries [default: 50000]
    #[arg(long, env = "PALISADE_SNAPSHOT_AFTER_ENTRIES", value_name = "N")]
    pub snapshot_after_entries: Option<u64>,

    /// Also take a snapshot after this many bytes of log entries [default: 268435456]
    #[arg(long, env = "PALISADE_SNAPSHOT_AFTER_BYTES", value_name = "BYTES")]
    pub snapshot_after_bytes: Option<u64>,

    /// A node that hears no leader for this long, or up to twice as long, stands for election; leaders
    /// make themselves heard four times as often. The same on every node; 50 to 60000. More for disks
    /// or networks so slow that nobody is elected [default: 200]
    #[arg(long, env = "PALISADE_ELECTION_TIMEOUT_MS", value_name = "MS")]
    pub election_timeout_ms: Option<u64>,

    /// Entries to keep in the log behind a snapshot [default: 10000]
    #[arg(long, env = "PALISADE_KEEP_ENTRIES", value_name = "N")]
    pub keep_entries: Option<u64>,

    /// Requests in flight at most; what exceeds it is refused with 503 `overloaded`, renewals last
    /// [default: 4096]
    #[arg(long, env = "PALISADE_MAX_IN_FLIGHT_PROPOSALS", value_name = "N")]
    pub max_in_flight_proposals: Option<usize>,

    /// Their encoded size at most, in bytes [default: 16777216]
    #[arg(long, env = "PALISADE_MAX_IN_FLIGHT_BYTES", value_name = "BYTES")]
    pub max_in_flight_bytes: Option<usize>,

    /// Bytes that must be free below the data directory for this node to lead and take new work; 0
    /// never looks [default: 268435456]
    #[arg(long, env = "PALISADE_FREE_SPACE_FLOOR", value_name = "BYTES")]
    pub free_space_floor: Option<u64>,

    /// Check the model's invariants after every entry and stop when one is broken (slow; for tests)
    #[arg(
        long,
        env = "PALISADE_CHECK_INVARIANTS",
        hide = true,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub check_invariants: Option<bool>,

    /// Found a cluster of one (used by `palisaded dev --nodes 1`); `palisaded init` is the way for all
    /// else
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub alone: bool,

    /// Stop when standard input ends, so that no node outlives the `dev` that started it
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub stop_with_stdin: bool,

    /// Never sync the log: acknowledged writes are lost in a power cut. Exists for the test that
    /// shows that the power-cut test notices
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub unsafe_no_sync: bool,

    /// Write down each entry that this node applies, with its outcome, at the end of this file: for the
    /// harness, which resolves unknown outcomes by it
    #[arg(long, hide = true, value_name = "FILE")]
    #[serde(skip)]
    pub record_applied: Option<PathBuf>,
}

/// Settings, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Name that people see.
    pub name: String,
    /// Where identity, log and snapshots live.
    pub data_dir: PathBuf,
    /// Where to serve the HTTP API.
    pub listen_http: SocketAddr,
    /// Where to serve peers.
    pub listen_peer: SocketAddr,
    /// Where clients reach this node.
    pub advertise_http: String,
    /// Where peers reach this node.
    pub advertise_peer: String,
    /// The founding members; empty when nothing is to be founded with others.
    pub initial_peers: Vec<String>,
    /// Members to join a running cluster through; empty when none is to be joined.
    pub join: Vec<String>,
    /// A node that joins stays a learner.
    pub learner: bool,
    /// How connections between peers are protected.
    pub peer_security: PeerSecurity,
    /// Certificate and key for clients; `None` for plain HTTP.
    pub http_certificate: Option<(PathBuf, PathBuf)>,
    /// The bearer tokens; `None` lets everybody in.
    pub auth_file: Option<PathBuf>,
    /// Found a cluster of one.
    pub alone: bool,
    /// See `raft_core::Config`; `None` for its default.
    pub snapshot_after_entries: Option<u64>,
    /// See `raft_core::Config`; `None` for its default.
    pub snapshot_after_bytes: Option<u64>,
    /// See `raft_core::Config`; `None` for its default.
    pub free_space_floor: Option<u64>,
    /// The shortest election timeout; the longest is twice that, and the heartbeat interval a quarter.
    /// `None` for `raft_core::Config`'s defaults.
    pub election_timeout_ms: Option<u64>,
    /// See `raft_core::Config`; `None` for its default.
    pub keep_entries: Option<u64>,
    /// See `raft_core::Config`; `None` for its default.
    pub max_in_flight_proposals: Option<usize>,
    /// See `raft_core::Config`; `None` for its default.
    pub max_in_flight_bytes: Option<usize>,
    /// Check invariants after every entry.
    pub check_invariants: bool,
    /// Stop when standard input ends.
    pub stop_with_stdin: bool,
    /// Never sync.
    pub unsafe_no_sync: bool,
    /// Where to write down what is applied.
    pub record_applied: Option<PathBuf>,
}

/// What is wrong with the settings, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ServeArgs {
    /// Reads the file, if one is named, fills in the defaults and checks the whole.
    ///
    /// # Errors
    /// Names the setting.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let file = match &self.config {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ConfigError(format!("--config {}: {error}", path.display()))
                })?;
                toml::from_str(&text)
                    .map_err(|error| ConfigError(format!("--config {}: {error}", path.display())))?
            }
        };
        let listen = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listen_http = self
            .listen_http
            .or(file.listen_http)
            .unwrap_or_else(|| listen(DEFAULT_HTTP_PORT));
        let listen_peer = self
            .listen_peer
            .or(file.listen_peer)
            .unwrap_or_else(|| listen(DEFAULT_PEER_PORT));
        let insecure = self.insecure.or(file.insecure).unwrap_or(false);
        let peer_security = peer_security(
            self.peer_cert.or(file.peer_cert),
            self.peer_key.or(file.peer_key),
            self.peer_ca.or(file.peer_ca),
        )?;
        let http_certificate = match (
            self.http_cert.or(file.http_cert),
            self.http_key.or(file.http_key),
        ) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(ConfigError(
                    "HTTPS takes --http-cert and --http-key, both or none".to_owned(),
                ));
            }
        };
        let auth_file = self.auth_file.or(file.auth_file);
        let protected = http_certificate.is_some() && auth_file.is_some();
        if !listen_http.ip().is_loopback() && !insecure && !protected {
            return Err(ConfigError(format!(
                "--listen-http {listen_http} is not a loopback address: whoever reaches it can take \
                 and release locks. Give --http-cert, --http-key and --auth-file, or listen on \
                 127.0.0.1, or give --insecure where the network is trusted"
            )));
        }
        if !listen_peer.ip().is_loopback() && !insecure && peer_security == PeerSecurity::Plaintext
        {
            return Err(ConfigError(format!(
                "--listen-peer {listen_peer} is not a loopback address, and without TLS whoever \
                 reaches it can read and change everything. Give --peer-cert, --peer-key and \
                 --peer-ca, or --insecure where the network is trusted"
            )));
        }
        let advertise_http = advertise(
            "--advertise-http",
            self.advertise_http.or(file.advertise_http),
            listen_http,
        )?;
        let advertise_peer = advertise(
            "--advertise-peer",
            self.advertise_peer.or(file.advertise_peer),
            listen_peer,
        )?;
        let initial_peers = addresses(self.initial_peers.or(file.initial_peers));
        let join = addresses(self.join.or(file.join));
        if !initial_peers.is_empty() && !join.is_empty() {
            return Err(ConfigError(
                "--initial-peers and --join are both given: a node founds a new cluster or joins one \
                 that runs. Give one of them"
                    .to_owned(),
            ));
        }
        peers("--initial-peers", &initial_peers)?;
        peers("--join", &join)?;
        let learner = self.learner.or(file.learner).unwrap_or(false);
        if learner && !initial_peers.is_empty() {
            return Err(ConfigError(
                "--learner goes with --join: the initial peers found the cluster, each with a vote"
                    .to_owned(),
            ));
        }
        let name = self.name.or(file.name);
        if name.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError(
                "--name is empty: give a name, or leave it out for the advertised peer address"
                    .to_owned(),
            ));
        }
        let election_timeout_ms = self.election_timeout_ms.or(file.election_timeout_ms);
        if let Some(ms) = election_timeout_ms
            && !(50..=60_000).contains(&ms)
        {
            return Err(ConfigError(format!(
                "--election-timeout-ms {ms} is outside of 50 to 60000"
            )));
        }
        Ok(ServeConfig {
            name: name.unwrap_or_else(|| advertise_peer.clone()),
            data_dir: self
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            listen_http,
            listen_peer,
            advertise_http,
            advertise_peer,
            initial_peers,
            join,
            learner,
            peer_security,
            http_certificate,
            auth_file,
            alone: self.alone,
            snapshot_after_entries: self.snapshot_after_entries.or(file.snapshot_after_entries),
            snapshot_after_bytes: self.snapshot_after_bytes.or(file.snapshot_after_bytes),
            free_space_floor: self.free_space_floor.or(file.free_space_floor),
            election_timeout_ms,
            keep_entries: self.keep_entries.or(file.keep_entries),
            max_in_flight_proposals: self
                .max_in_flight_proposals
                .or(file.max_in_flight_proposals),
            max_in_flight_bytes: self.max_in_flight_bytes.or(file.max_in_flight_bytes),
            check_invariants: self
                .check_invariants
                .or(file.check_invariants)
                .unwrap_or(false),
            stop_with_stdin: self.stop_with_stdin,
            unsafe_no_sync: self.unsafe_no_sync,
            record_applied: self.record_applied,
        })
    }
}

fn peer_security(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<PeerSecurity, ConfigError> {
    match (certificate, key, ca) {
        (None, None, None) => Ok(PeerSecurity::Plaintext),
        (Some(certificate), Some(key), Some(ca)) => Ok(PeerSecurity::MutualTls(MutualTls {
            certificate: Pem::File(certificate),
            key: Pem::File(key),
            ca: Pem::File(ca),
        })),
        (certificate, key, ca) => {
            let missing: Vec<&str> = [
                ("--peer-cert", certificate),
                ("--peer-key", key),
                ("--peer-ca", ca),
            ]
            .into_iter()
            .filter_map(|(flag, given)| given.is_none().then_some(flag))
            .collect();
            Err(ConfigError(format!(
                "{} missing: TLS between peers takes --peer-cert, --peer-key and --peer-ca, all \
                 three or none",
                missing.join(" and ")
            )))
        }
    }
}

/// Whether the text is an address that others can be told.
pub fn is_host_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A variable of the environment that is set to nothing is one that is not set.
fn addresses(given: Option<Vec<String>>) -> Vec<String> {
    given
        .filter(|given| given.as_slice() != [""])
        .unwrap_or_default()
}

fn peers(flag: &str, addresses: &[String]) -> Result<(), ConfigError> {
    match addresses.iter().find(|address| !is_host_port(address)) {
        None => Ok(()),
        Some(address) => Err(ConfigError(format!(
            "{flag}: `{address}` is not HOST:PORT, for example db1.example:7201"
        ))),
    }
}

fn advertise(flag: &str, given: Option<String>, listen: SocketAddr) -> Result<String, ConfigError> {
    match given {
        Some(address) if is_host_port(&address) => Ok(address),
        Some(address) => Err(ConfigError(format!(
            "{flag} {address}: expected HOST:PORT, for example db1.example:7201"
        ))),
        None if listen.ip().is_unspecified() => Err(ConfigError(format!(
            "{flag} is needed: others cannot reach {listen}; give the address under which they \
             can reach this host"
        ))),
        None => Ok(listen.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn defaults_are_loopback_and_the_documented_ports() {
        let config = ServeArgs::default().resolve().unwrap();
        assert_eq!(config.listen_http.to_string(), "127.0.0.1:7101");
        assert_eq!(config.advertise_peer, "127.0.0.1:7201");
        assert_eq!(config.data_dir, PathBuf::from("./palisade-data"));
    }

    #[test]
    fn an_address_beyond_loopback_needs_insecure_and_a_wildcard_an_advertised_address() {
        let mut args = ServeArgs {
            listen_http: Some("0.0.0.0:7101".parse().unwrap()),
            ..ServeArgs::default()
        };
        let error = args.clone().resolve().unwrap_err().to_string();
        assert!(error.contains("--listen-http") && error.contains("--insecure"));
        args.insecure = Some(true);
        let error = args.clone().resolve().unwrap_err().to_string();
        assert!(error.contains("--advertise-http is needed"), "{error}");
        args.advertise_http = Some("a.example:7101".to_owned());
        assert_eq!(args.resolve().unwrap().advertise_http, "a.example:7101");
    }

    #[test]
    fn peers_beyond_loopback_take_all_of_tls_or_insecure() {
        let mut args = ServeArgs {
            listen_peer: Some("10.0.0.1:7201".parse().unwrap()),
            ..ServeArgs::default()
        };
        let error = args.clone().resolve().unwrap_err().to_string();
        assert!(error.contains("--listen-peer") && error.contains("--peer-cert"));
        args.peer_cert = Some("node.crt".into());
        let error = args.clone().resolve().unwrap_err().to_string();
        assert!(
            error.contains("--peer-key and --peer-ca missing"),
            "{error}"
        );
        args.peer_key = Some("node.key".into());
        args.peer_ca = Some("ca.crt".into());
        let security = args.clone().resolve().unwrap().peer_security;
        assert!(matches!(security, PeerSecurity::MutualTls(_)));
        // Clients are another matter.
        args.listen_http = Some("10.0.0.1:7101".parse().unwrap());
        let error = args.resolve().unwrap_err().to_string();
        assert!(error.contains("--listen-http"), "{error}");
    }

    #[test]
    fn a_node_founds_or_joins_and_not_both() {
        let args = ServeArgs {
            initial_peers: Some(vec!["a:1".to_owned(), "b:1".to_owned()]),
            join: Some(vec!["a:1".to_owned()]),
            ..ServeArgs::default()
        };
        let error = args.resolve().unwrap_err().to_string();
        assert!(error.contains("--join"), "{error}");
    }

    #[test]
    fn a_name_that_is_empty_peers_without_a_port_and_a_learner_that_founds_are_refused_by_name() {
        let peers = |peers: &[&str]| Some(peers.iter().map(|peer| (*peer).to_owned()).collect());
        let founding = |others: &[&str]| ServeArgs {
            initial_peers: peers(others),
            ..ServeArgs::default()
        };
        let joining = ServeArgs {
            join: peers(&["a:1", ""]),
            ..ServeArgs::default()
        };
        let learning = ServeArgs {
            learner: Some(true),
            ..founding(&["a:1", "b:1"])
        };
        let from_an_empty_variable = ServeArgs {
            join: peers(&[""]),
            ..ServeArgs::default()
        };
        assert!(from_an_empty_variable.resolve().unwrap().join.is_empty());
        let nameless = ServeArgs {
            name: Some(String::new()),
            ..ServeArgs::default()
        };
        for (args, words) in [
            (founding(&["a:1", "foo"]), "--initial-peers: `foo`"),
            (joining, "--join: ``"),
            (learning, "--learner"),
            (nameless, "--name"),
        ] {
            let error = args.resolve().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "name = \"from-file\"\ndata_dir = \"/from/file\"").unwrap();
        let config = ServeArgs {
            config: Some(file.path().to_owned()),
            name: Some("from-flag".to_owned()),
            ..ServeArgs::default()
        }
        .resolve()
        .unwrap();
        assert_eq!(config.name, "from-flag");
        assert_eq!(config.data_dir, PathBuf::from("/from/file"));
    }

    #[test]
    fn an_election_timeout_out_of_range_is_refused_by_name() {
        for ms in [0, 49, 60_001] {
            let args = ServeArgs {
                election_timeout_ms: Some(ms),
                ..ServeArgs::default()
            };
            let error = args.resolve().unwrap_err().to_string();
            assert!(error.contains("--election-timeout-ms"), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused_by_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "data_dri = \"/typo\"").unwrap();
        let args = ServeArgs {
            config: Some(file.path().to_owned()),
            ..ServeArgs::default()
        };
        let error = args.resolve().unwrap_err().to_string();
        assert!(error.contains("data_dri"), "{error}");
    }
}
