//! Certificates for peers, made by the very commands that docs/operations.md gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A CA of its own, in a folder of its own.
pub struct Authority {
    folder: TempDir,
}

/// Where one node's certificate, key and CA are.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    /// `--peer-cert`.
    pub certificate: PathBuf,
    /// `--peer-key`.
    pub key: PathBuf,
    /// `--peer-ca`.
    pub ca: PathBuf,
}

impl Authority {
    /// Makes the CA.
    ///
    /// # Panics
    /// When the documented commands do not work.
    pub fn new() -> Self {
        let authority = Self {
            folder: TempDir::with_prefix("palisade-ca-").expect("a folder for a CA"),
        };
        authority.run(&documented("openssl req -x509"));
        authority
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Makes a certificate for `host`: `DNS:name` or `IP:address`. `name` names its files.
    ///
    /// # Panics
    /// When the documented commands do not work.
    pub fn issue(&self, name: &str, host: &str) -> NodeCertificate {
        let commands = documented("openssl x509 -req");
        let (example, commands) = commands.split_once('\n').expect("several lines");
        assert!(example.starts_with("NODE="), "{example}");
        self.run(&format!("NODE={name} HOST={host}\n{commands}"));
        let file = |suffix: &str| self.folder.path().join(format!("{name}.{suffix}"));
        NodeCertificate {
            certificate: file("crt"),
            key: file("key"),
            ca: self.ca(),
        }
    }

    fn run(&self, commands: &str) {
        let output = Command::new("sh")
            .args(["-euc", commands])
            .current_dir(self.folder.path())
            .output()
            .expect("sh runs");
        assert!(
            output.status.success(),
            "{commands}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeCertificate {
    /// The flags of `palisaded serve` that name the files.
    pub fn arguments(&self) -> [std::ffi::OsString; 6] {
        [
            "--peer-cert".into(),
            self.certificate.clone().into(),
            "--peer-key".into(),
            self.key.clone().into(),
            "--peer-ca".into(),
            self.ca.clone().into(),
        ]
    }

    /// Puts copies of these files over others, by renaming, as an operator should.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn install(&self, over: &NodeCertificate) {
        // For a moment the certificate does not match its key, and the node must keep what it has.
        put(&self.ca, &over.ca);
        put(&self.certificate, &over.certificate);
        put(&self.key, &over.key);
    }

    /// The files' names in a node's own folder, where nothing is yet.
    pub fn below(folder: &Path) -> Self {
        Self {
            certificate: folder.join("peer.crt"),
            key: folder.join("peer.key"),
            ca: folder.join("peer-ca.crt"),
        }
    }
}

/// Puts a copy of one file over another, by renaming.
///
/// # Panics
/// When that fails.
pub fn put(from: &Path, to: &Path) {
    let parent = to.parent().expect("a file has a folder");
    std::fs::create_dir_all(parent).expect("the folder can be made");
    let new = to.with_extension("new");
    std::fs::copy(from, &new).expect("a certificate can be copied");
    std::fs::rename(&new, to).expect("a file can be renamed");
}

/// The block of shell commands in docs/operations.md that holds `command`.
fn documented(command: &str) -> String {
    let text =
        std::fs::read_to_string("../docs/operations.md").expect("docs/operations.md is there");
    let mut blocks = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    blocks
        .find(|block| block.contains(command))
        .unwrap_or_else(|| panic!("docs/operations.md has no block with `{command}`"))
        .to_owned()
}
