//! Who may do what: a file of bearer tokens, each with a role and the lock names that it reaches.
//!
//! The file holds SHA-256 hashes, never tokens. It is read at start and again on SIGHUP; a file that
//! cannot be read changes nothing. This module decides; `routes/` ask it. It never logs a token.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Tokens are drawn from this many random bytes, so that a plain hash of them cannot be searched.
const TOKEN_BYTES: usize = 32;

/// What a token allows on the lock names that it reaches. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at locks, leases, fences and the cluster.
    Read,
    /// Take and give back locks.
    Lock,
    /// End what others hold; with every lock name, also change the cluster and take backups.
    Admin,
}

impl Role {
    /// The role as it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Lock => "lock",
            Self::Admin => "admin",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    sha256: String,
    role: Role,
    prefixes: Option<Vec<String>>,
}

/// One entry of the file. A token may stand in several.
#[derive(Debug)]
struct Entry {
    name: String,
    hash: [u8; 32],
    grant: Grant,
}

/// A role, and the beginnings of the lock names on which it holds.
#[derive(Clone, Debug)]
struct Grant {
    role: Role,
    prefixes: Vec<String>,
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody is authenticated on this node: everything is allowed.
    Anyone,
    /// The holder of a token.
    Known(Arc<Known>),
}

/// What is known of the holder of a token.
#[derive(Debug)]
pub struct Known {
    /// The name that the file gives it.
    pub name: String,
    grants: Vec<Grant>,
}

impl Caller {
    /// Whether this caller has `role` on the lock `name`; as a prefix, on every name that begins so.
    pub fn may(&self, role: Role, name: &str) -> bool {
        let reaches = |grant: &Grant| {
            grant.role >= role
                && grant
                    .prefixes
                    .iter()
                    .any(|prefix| name.starts_with(prefix.as_str()))
        };
        match self {
            Self::Anyone => true,
            Self::Known(known) => known.grants.iter().any(reaches),
        }
    }

    /// Whether this caller has `role` on any lock at all.
    pub fn may_somewhere(&self, role: Role) -> bool {
        match self {
            Self::Anyone => true,
            Self::Known(known) => known.grants.iter().any(|grant| grant.role >= role),
        }
    }

    /// The name for logs.
    pub fn name(&self) -> &str {
        match self {
            Self::Anyone => "anyone",
            Self::Known(known) => &known.name,
        }
    }
}

/// The token file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct AuthError {
    path: String,
    why: String,
}

/// The tokens that count now.
#[derive(Debug)]
pub struct Auth {
    path: PathBuf,
    entries: RwLock<Arc<Vec<Entry>>>,
}

impl Auth {
    /// Reads the file. Blocking.
    ///
    /// # Errors
    /// Names the file and the entry.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let entries = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            entries: RwLock::new(Arc::new(entries)),
        })
    }

    /// Reads the file again; returns how many entries it has. Blocking.
    ///
    /// # Errors
    /// As [`Auth::open`]; what counted before goes on to count.
    pub fn reload(&self) -> Result<usize, AuthError> {
        let entries = read(&self.path)?;
        let count = entries.len();
        *self.entries.write() = Arc::new(entries);
        Ok(count)
    }

    /// Who holds this token; `None` when nobody does. Takes as long for a wrong one as for a right one
    /// of the same length.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let hash = hash(token);
        let entries = self.entries.read().clone();
        let mut known: Option<Known> = None;
        for entry in entries.iter() {
            if !bool::from(entry.hash.ct_eq(&hash)) {
                continue;
            }
            known
                .get_or_insert_with(|| Known {
                    name: entry.name.clone(),
                    grants: Vec::new(),
                })
                .grants
                .push(entry.grant.clone());
        }
        known.map(|known| Caller::Known(Arc::new(known)))
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn read(path: &Path) -> Result<Vec<Entry>, AuthError> {
    let failed = |why: String| AuthError {
        path: path.display().to_string(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    // The parser's own words would quote the line, and somebody may have put a token there.
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", error.message())
    })?;
    if file.token.is_empty() {
        return Err("there is no [[token]] in it; `palisaded token` makes one".to_owned());
    }
    file.token.into_iter().map(entry).collect()
}

fn entry(record: Record) -> Result<Entry, String> {
    let name = record.name;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("a [[token]] needs a `name`, for logs, without control characters".to_owned());
    }
    let prefixes = record.prefixes.unwrap_or_else(|| vec![String::new()]);
    if prefixes.is_empty() {
        return Err(format!(
            "[[token]] `{name}`: an empty `prefixes` reaches no lock; leave it out for all of them"
        ));
    }
    let hash = from_hex(&record.sha256).ok_or_else(|| {
        format!(
            "[[token]] `{name}`: `sha256` must be the 64 hexadecimal digits of the token's SHA-256; \
             `palisaded token` makes both"
        )
    })?;
    Ok(Entry {
        name,
        hash,
        grant: Grant {
            role: record.role,
            prefixes,
        },
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Draws a token; returns it and its entry for the file.
pub fn make(name: &str, role: Role, prefixes: &[String]) -> (String, String) {
    let token = to_hex(&rand::random::<[u8; TOKEN_BYTES]>());
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut entry = format!(
        "[[token]]\nname = {}\nsha256 = \"{}\"\nrole = \"{}\"\n",
        quoted(name),
        to_hex(&hash(&token)),
        role.as_str()
    );
    if !prefixes.is_empty() {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| quoted(prefix)).collect();
        let _ = writeln!(entry, "prefixes = [{}]", prefixes.join(", "));
    }
    (token, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(text: &str) -> Auth {
        Auth {
            path: PathBuf::new(),
            entries: RwLock::new(Arc::new(parse(text).unwrap())),
        }
    }

    #[test]
    fn a_made_token_is_known_by_its_entry_and_no_other_is() {
        let (token, entry) = make("a \"b\"", Role::Lock, &["jobs/".to_owned()]);
        assert!(!entry.contains(&token));
        let auth = auth(&entry);
        let caller = auth.caller(&token).unwrap();
        assert_eq!(caller.name(), "a \"b\"");
        assert!(auth.caller(&token.to_uppercase()).is_none());
        assert!(auth.caller("").is_none());
    }

    #[test]
    fn a_role_includes_the_ones_below_and_reaches_its_prefixes_only() {
        let (token, entry) = make("a", Role::Lock, &["jobs/".to_owned(), "tmp".to_owned()]);
        let caller = auth(&entry).caller(&token).unwrap();
        assert!(caller.may(Role::Lock, "jobs/billing"));
        assert!(caller.may(Role::Read, "tmp"));
        assert!(!caller.may(Role::Admin, "jobs/billing"));
        assert!(!caller.may(Role::Lock, "job"));
        assert!(!caller.may(Role::Read, ""));
        assert!(caller.may_somewhere(Role::Lock));
        assert!(!caller.may_somewhere(Role::Admin));
    }

    #[test]
    fn a_token_in_several_entries_has_all_their_grants() {
        let (token, entry) = make("a", Role::Read, &[]);
        let hash = to_hex(&hash(&token));
        let more = format!(
            "{entry}\n[[token]]\nname = \"a\"\nsha256 = \"{hash}\"\nrole = \"lock\"\n\
             prefixes = [\"x/\"]\n"
        );
        let caller = auth(&more).caller(&token).unwrap();
        assert!(caller.may(Role::Read, "anything"));
        assert!(caller.may(Role::Lock, "x/1"));
        assert!(!caller.may(Role::Lock, "y/1"));
    }

    #[test]
    fn a_wrong_file_is_refused_and_its_words_hold_no_value_of_it() {
        let hash = "00".repeat(32);
        for (text, names) in [
            (String::new(), "no [[token]]"),
            ("[[token]]\nname = \"n\"".to_owned(), "sha256"),
            (
                format!("[[token]]\nname = \"n\"\nsha256 = \"{hash}\"\nrole = \"root\""),
                "line 4",
            ),
            (
                "[[token]]\nname = \"n\"\nsha256 = \"hunter2\"\nrole = \"read\"".to_owned(),
                "`sha256`",
            ),
            (
                format!("[[token]]\nname = \"\"\nsha256 = \"{hash}\"\nrole = \"read\""),
                "`name`",
            ),
            (
                format!(
                    "[[token]]\nname = \"n\"\nsha256 = \"{hash}\"\nrole = \"read\"\nprefixes = []"
                ),
                "`prefixes`",
            ),
            (
                "[[token]]\ntoken = \"hunter2\"\nname = \"n\"".to_owned(),
                "token",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(names), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_again_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let (old, old_entry) = make("old", Role::Admin, &[]);
        let (new, new_entry) = make("new", Role::Read, &[]);
        std::fs::write(&path, &old_entry).unwrap();
        let auth = Auth::open(&path).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        auth.reload().unwrap_err();
        assert!(auth.caller(&old).is_some());
        std::fs::write(&path, &new_entry).unwrap();
        assert_eq!(auth.reload().unwrap(), 1);
        assert!(auth.caller(&old).is_none());
        assert!(auth.caller(&new).is_some());
    }
}
