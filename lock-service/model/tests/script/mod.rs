//! The little language of the scripts: parsing a line, running it, wording what it answered.

use std::collections::BTreeMap;

use lock_model::{
    Acquire, BodyHash, Cancelled, ClusterId, Command, Entry, Event, EventKind, Fence, Grant,
    LeaseEnd, LeaseId, LockHeldReason, LockName, LockRequest, LockTable, Metadata, Mode,
    ModelVersion, Outcome, Owner, Position, Refusal, ReleasedBy, RequestId, Response, Settings,
    Timestamp, Token, Value, WaitEnd,
};

use crate::common::{check_invariants, through_a_snapshot};

/// A state that commands are run on.
#[derive(Default)]
pub struct Runner {
    table: LockTable,
    now: u64,
    index: u64,
}

/// A line, split into plain words and `key=value` pairs.
struct Words<'a> {
    plain: Vec<&'a str>,
    pairs: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (pairs, plain): (Vec<&str>, Vec<&str>) =
            line.split_whitespace().partition(|word| word.contains('='));
        let pairs = pairs
            .into_iter()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        Self { plain, pairs }
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.pairs.remove(key).map(|text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{key}={text} is no number"))
        })
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        self.pairs.remove(key)
    }
}

fn lease(name: &str) -> LeaseId {
    match name.as_bytes() {
        [letter @ b'A'..=b'Z'] => LeaseId([*letter; 16]),
        _ => panic!("{name} is no lease: one capital letter"),
    }
}

fn named(id: LeaseId) -> char {
    char::from(id.0[0])
}

fn token(text: &str) -> Token {
    Token(
        text.parse()
            .unwrap_or_else(|_| panic!("{text} is no token")),
    )
}

fn settings(words: &mut Words<'_>) -> Settings {
    let mut settings = Settings::default();
    let fields: [(&str, &mut u64); 15] = [
        ("ttl_min_ms", &mut settings.ttl_min_ms),
        ("ttl_max_ms", &mut settings.ttl_max_ms),
        ("wait_max_ms", &mut settings.wait_max_ms),
        ("expiry_cap", &mut settings.expiry_cap),
        ("events_max", &mut settings.events_max),
        ("tombstone_ttl_ms", &mut settings.tombstone_ttl_ms),
        ("tombstones_max", &mut settings.tombstones_max),
        ("decided_max", &mut settings.decided_max),
        ("leases_max", &mut settings.leases_max),
        ("locks_max", &mut settings.locks_max),
        ("queue_max", &mut settings.queue_max),
        ("locks_per_lease_max", &mut settings.locks_per_lease_max),
        ("name_max_bytes", &mut settings.name_max_bytes),
        ("value_max_bytes", &mut settings.value_max_bytes),
        ("lock_delay_max_ms", &mut settings.lock_delay_max_ms),
    ];
    for (name, field) in fields {
        if let Some(number) = words.number(name) {
            *field = number;
        }
    }
    settings
}

/// `NAME`, `NAME:shared`, or `NAME:2/5` for two of five permits.
fn lock_request(word: &str) -> LockRequest {
    let (name, mode) = word.split_once(':').unwrap_or((word, ""));
    let mode = match (mode, mode.split_once('/')) {
        ("", _) => Mode::Exclusive,
        ("shared", _) => Mode::Shared,
        (_, Some((permits, limit))) => Mode::Permits {
            permits: permits.parse().unwrap(),
            limit: limit.parse().unwrap(),
        },
        _ => panic!("{word} is no lock"),
    };
    LockRequest {
        lock: LockName::new(name).unwrap(),
        mode,
    }
}

fn acquire(words: &mut Words<'_>) -> Command {
    let body = u8::try_from(words.number("body").unwrap_or(0)).unwrap();
    Command::Acquire(Acquire {
        lease: lease(words.plain[1]),
        request: RequestId::new(words.text("as").expect("acquire needs as=REQUEST")).unwrap(),
        body: BodyHash([body; 16]),
        locks: words.plain[2..]
            .iter()
            .map(|word| lock_request(word))
            .collect(),
        ttl_ms: words.number("ttl"),
        owner: Owner::new(words.text("owner").unwrap_or_default()).unwrap(),
        wait_ms: words.number("wait").unwrap_or(0),
        value: words.text("value").map(|value| Value::new(value).unwrap()),
        lock_delay_ms: words.number("delay").unwrap_or(0),
    })
}

fn command(words: &mut Words<'_>) -> Option<Command> {
    let plain = words.plain.clone();
    Some(match plain[0] {
        "found" => Command::Found {
            cluster_id: ClusterId(
                [u8::try_from(words.number("cluster").unwrap_or(1)).unwrap(); 16],
            ),
            token_floor: Token(words.number("floor").unwrap_or(0)),
            settings: settings(words),
            model_version: ModelVersion::V1,
        },
        "tick" => Command::Tick,
        "open" => {
            let entries = plain[2..]
                .iter()
                .map(|entry| entry.split_once(':').unwrap());
            Command::OpenLease {
                lease: lease(plain[1]),
                ttl_ms: words.number("ttl").expect("open needs ttl=MS"),
                owner: Owner::new(words.text("owner").unwrap_or_default()).unwrap(),
                metadata: Metadata::new(
                    entries.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                )
                .unwrap(),
            }
        }
        "acquire" => acquire(words),
        "renew" => Command::Renew {
            leases: plain[1..].iter().map(|name| lease(name)).collect(),
        },
        "release" => Command::Release {
            lease: lease(plain[1]),
            tokens: plain[2..].iter().map(|text| token(text)).collect(),
        },
        "cancel" => Command::Cancel {
            lease: lease(plain[1]),
            request: RequestId::new(plain[2]).unwrap(),
        },
        "revoke" => Command::Revoke {
            lease: lease(plain[1]),
        },
        "update" => Command::Update {
            lease: lease(plain[1]),
            token: token(plain[2]),
            value: words.text("value").map(|value| Value::new(value).unwrap()),
        },
        "force-release" => Command::ForceRelease {
            lock: LockName::new(plain[1]).unwrap(),
            token: token(plain[2]),
            lease: lease(plain[3]),
            now: plain.get(4) == Some(&"now"),
        },
        "revoke-by-id" => Command::RevokeById {
            lease: lease(plain[1]),
            now: plain.get(2) == Some(&"now"),
        },
        "settings" => Command::ChangeSettings {
            settings: settings(words),
        },
        "model-version" => Command::RaiseModelVersion {
            model_version: ModelVersion::try_from(plain[1].parse::<u32>().unwrap()).unwrap(),
        },
        "restore-cluster" => Command::Restore {
            cluster_id: ClusterId(
                [u8::try_from(words.number("cluster").unwrap_or(2)).unwrap(); 16],
            ),
            token_floor: token(words.text("floor").unwrap_or("0")),
            hold_ms: words.number("hold").unwrap_or(0),
        },
        _ => return None,
    })
}

impl Runner {
    /// Runs one line; the lines that it answers.
    pub fn run(&mut self, line: &str) -> Vec<String> {
        let mut words = Words::of(line);
        self.now = words.number("now").unwrap_or(self.now);
        let index = words.number("index");
        let answer = match command(&mut words) {
            Some(command) => self.apply(index, &command),
            None => self
                .look(&words.plain)
                .unwrap_or_else(|| panic!("not a command: {line}")),
        };
        assert!(
            words.pairs.is_empty(),
            "nothing takes {:?} in: {line}",
            words.pairs
        );
        answer
    }

    fn apply(&mut self, index: Option<u64>, command: &Command) -> Vec<String> {
        self.index = index.unwrap_or(self.index + 1);
        let before = self.table.clone();
        let outcome = self.table.apply(
            Entry {
                index: self.index,
                now: Timestamp(self.now),
            },
            command,
        );
        if let Err(broken) =
            check_invariants(&self.table).and_then(|()| through_a_snapshot(&self.table).map(drop))
        {
            panic!("{broken}\nafter {command:?}");
        }
        if matches!(
            outcome.response,
            Response::Refused(Refusal::EntryOutOfOrder { .. })
        ) {
            assert_eq!(
                crate::common::encode(&before),
                crate::common::encode(&self.table)
            );
        }
        word_outcome(&outcome)
    }

    fn look(&mut self, plain: &[&str]) -> Option<Vec<String>> {
        Some(match plain {
            ["locks"] => self.locks(""),
            ["locks", prefix] => self.locks(prefix),
            ["leases"] => self.leases(),
            ["fence", lock, text] => {
                vec![
                    match self.table.fence(&LockName::new(lock).unwrap(), token(text)) {
                        Fence::Current => "current",
                        Fence::Superseded => "superseded",
                        Fence::Unknown => "unknown",
                    }
                    .to_owned(),
                ]
            }
            ["deadline"] => {
                let deadline = self.table.next_deadline();
                vec![deadline.map_or("none".to_owned(), |deadline| format!("at {deadline}"))]
            }
            ["tokens"] => vec![format!("the last is {}", self.table.token_counter())],
            ["events"] => self.table.events().map(word_event).collect(),
            ["events", after] => match self.table.events_after(after.parse().unwrap()) {
                Ok(events) => or_none(events.map(word_event).collect()),
                Err(oldest) => vec![format!("too old, the oldest is {oldest}")],
            },
            ["restore"] => {
                self.table = through_a_snapshot(&self.table).unwrap();
                vec!["restored".to_owned()]
            }
            _ => return None,
        })
    }

    fn locks(&self, prefix: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for lock in self.table.locks(prefix, None) {
            let permits = lock.limit.map(|limit| format!(" of {limit} permits"));
            lines.push(format!("{}{}", lock.lock, permits.unwrap_or_default()));
            if let Some(delay) = lock.delay {
                let word = if delay.is_held_back {
                    "held back"
                } else {
                    "delayed"
                };
                lines.push(format!("  {word} until {}", delay.until));
            }
            for it in lock.holders {
                let value = it
                    .value
                    .map(|value| format!(" value {value}"))
                    .unwrap_or_default();
                let (by, token, since, until) =
                    (named(it.lease), it.token, it.granted_at, it.deadline);
                lines.push(format!(
                    "  held{} by {by}{} token {token}{value} since {since} until {until}",
                    word_mode(it.mode),
                    owned(&it.owner)
                ));
            }
            for it in lock.queue {
                let (by, request, place) = (named(it.lease), it.request, it.queued_position);
                lines.push(format!(
                    "  waits{} {by}{} {request} from {place} until {}",
                    word_mode(it.mode),
                    owned(&it.owner),
                    it.deadline
                ));
            }
            if let Some(it) = lock.first_waits_for {
                lines.push(format!(
                    "  because {} is {}",
                    it.lock,
                    word_reason(&it.reason)
                ));
            }
        }
        or_none(lines)
    }

    fn leases(&self) -> Vec<String> {
        let lines = self.table.leases(None).map(|it| {
            let metadata: String = it
                .metadata
                .iter()
                .map(|(key, value)| format!(" {key}:{value}"))
                .collect();
            let waits: Vec<String> = it
                .waits
                .iter()
                .map(|wait| wait.request.to_string())
                .collect();
            let (id, until, owner) = (named(it.lease), it.deadline, owned(&it.owner));
            let holds = grants(&it.holds);
            format!(
                "{id}{owner}{metadata} ttl {} until {until} holds [{holds}] waits [{}]",
                it.ttl_ms,
                waits.join(", ")
            )
        });
        or_none(lines.collect())
    }
}

fn or_none(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() {
        vec!["none".to_owned()]
    } else {
        lines
    }
}

fn owned(owner: &Owner) -> String {
    if owner.as_str().is_empty() {
        String::new()
    } else {
        format!(" ({owner})")
    }
}

fn grants(grants: &[Grant]) -> String {
    let grants: Vec<String> = grants
        .iter()
        .map(|grant| format!("{} {}", grant.lock, grant.token))
        .collect();
    grants.join(", ")
}

/// The response and the events in the order of their positions.
fn word_outcome(outcome: &Outcome) -> Vec<String> {
    let mut lines: Vec<(Position, String)> = outcome
        .events
        .iter()
        .map(|event| (event.position, word_event(event)))
        .collect();
    match &outcome.response {
        Response::Renewed(renewals) => lines.extend(renewals.iter().map(|renewal| {
            let id = named(renewal.lease);
            let result = match &renewal.result {
                Ok(it) => {
                    let waits: Vec<String> = it.waits.iter().map(ToString::to_string).collect();
                    let (holds, waits) = (grants(&it.holds), waits.join(", "));
                    format!(
                        "renewed {id} ttl {} remaining {} holds [{holds}] waits [{waits}]",
                        it.ttl_ms, it.remaining_ms
                    )
                }
                Err(refusal) => format!("refused {id}: {}", word_refusal(refusal)),
            };
            (renewal.position, format!("{} {result}", renewal.position))
        })),
        response => lines.push((
            outcome.position,
            format!("{} {}", outcome.position, word_response(response)),
        )),
    }
    lines.sort();
    let mut lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    if outcome.more_due {
        lines.push("    (more is due)".to_owned());
    }
    lines
}

fn word_response(response: &Response) -> String {
    let again = |repeated: &bool| if *repeated { " (repeated)" } else { "" };
    match response {
        Response::Founded {
            cluster_id,
            repeated,
        } => format!("founded {}{}", cluster_id.0[0], again(repeated)),
        Response::Ticked => "ticked".to_owned(),
        Response::LeaseOpened {
            ttl_ms,
            remaining_ms,
            repeated,
        } => {
            format!(
                "opened ttl {ttl_ms} remaining {remaining_ms}{}",
                again(repeated)
            )
        }
        Response::Granted(it) => {
            let (granted, again) = (grants(&it.grants), again(&it.repeated));
            format!(
                "granted {granted} ttl {} remaining {} queued {}{again}",
                it.ttl_ms, it.remaining_ms, it.queued_position
            )
        }
        Response::Queued(it) => {
            let again = again(&it.repeated);
            format!(
                "queued behind {} at {} until {} remaining {}{again}",
                it.ahead, it.queued_position, it.deadline, it.remaining_ms
            )
        }
        Response::Renewed(_) => "renewed nothing".to_owned(),
        Response::Released(released) => {
            let words = released
                .iter()
                .map(|it| format!("{} was_held {}", it.token, it.was_held));
            format!("released {}", words.collect::<Vec<_>>().join(", "))
        }
        Response::Cancelled(Cancelled::Waiting) => "cancelled: it waited".to_owned(),
        Response::Cancelled(Cancelled::Granted { released }) => {
            format!("cancelled: it held {}", grants(released))
        }
        Response::Cancelled(Cancelled::Decided) => "cancelled: it was decided".to_owned(),
        Response::Cancelled(Cancelled::Unknown) => "cancelled: it was unknown".to_owned(),
        Response::Revoked { was_live, released } => format!(
            "revoked was_live {was_live} released [{}]",
            grants(released)
        ),
        Response::Refused(refusal) => format!("refused: {}", word_refusal(refusal)),
        Response::Updated { lock } => format!("updated {lock}"),
        Response::Ended {
            was_live,
            released,
            held_back_ms,
        } => format!(
            "ended was_live {was_live} released [{}] held back for {held_back_ms}",
            grants(released)
        ),
        Response::SettingsChanged => "settings changed".to_owned(),
        Response::ModelVersionRaised {
            model_version,
            repeated,
        } => format!(
            "model version {}{}",
            u32::from(*model_version),
            again(repeated)
        ),
        Response::Restored {
            cluster_id,
            token_counter,
            hold_ms,
            repeated,
        } => format!(
            "restored {} tokens above {token_counter} held back for {hold_ms}{}",
            cluster_id.0[0],
            again(repeated)
        ),
    }
}

fn word_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::LockHeld {
            lock,
            reason,
            queue_length,
        } => format!("{lock} is {}, {queue_length} wait", word_reason(reason)),
        other => other.to_string(),
    }
}

fn word_reason(reason: &LockHeldReason) -> String {
    match reason {
        LockHeldReason::Held { lease, owner } => {
            format!("held by {}{}", named(*lease), owned(owner))
        }
        LockHeldReason::Queued => "queued for".to_owned(),
        LockHeldReason::Delayed { remaining_ms } => format!("delayed for {remaining_ms}"),
        LockHeldReason::HeldBack { remaining_ms } => format!("held back for {remaining_ms}"),
    }
}

fn word_end(how: LeaseEnd) -> &'static str {
    match how {
        LeaseEnd::Expired => "lease expired",
        LeaseEnd::Revoked => "lease revoked",
        LeaseEnd::Forced => "lease ended by force",
        LeaseEnd::RevokedById => "lease revoked by id",
        LeaseEnd::Restored => "cluster restored",
        LeaseEnd::Unused | LeaseEnd::CancelledBefore => panic!("a lease with a lock ended: {how}"),
    }
}

fn word_mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => String::new(),
        Mode::Shared => " shared".to_owned(),
        Mode::Permits { permits, .. } => format!(" {permits} permits"),
    }
}

fn word_event(event: &Event) -> String {
    let words = match &event.kind {
        EventKind::Queued {
            lock,
            lease,
            owner,
            request,
            mode,
            queued_position,
            deadline,
        } => {
            format!(
                "{lock} queued{} {}{} {request} at {queued_position} until {deadline}",
                word_mode(*mode),
                named(*lease),
                owned(owner)
            )
        }
        EventKind::Granted {
            lock,
            lease,
            owner,
            request,
            mode,
            token,
            queued_position,
            ttl_ms,
            remaining_ms,
        } => {
            let (to, owner, mode) = (named(*lease), owned(owner), word_mode(*mode));
            format!(
                "{lock} granted{mode} {to}{owner} {request} token {token} queued {queued_position} ttl {ttl_ms} remaining {remaining_ms}"
            )
        }
        EventKind::WaitEnded {
            lock,
            lease,
            request,
            queued_position,
            reason,
        } => {
            let reason = match reason {
                WaitEnd::TimedOut => "timed out",
                WaitEnd::Cancelled => "cancelled",
                WaitEnd::LeaseEnded { how } => word_end(*how),
            };
            format!(
                "{lock} wait ended {} {request} from {queued_position}: {reason}",
                named(*lease)
            )
        }
        EventKind::Released {
            lock,
            lease,
            token,
            by,
        } => {
            let by = match by {
                ReleasedBy::Release => "released",
                ReleasedBy::Cancel => "released by cancel",
                ReleasedBy::Revoke => "released by revoke",
            };
            format!("{lock} {by} {} token {token}", named(*lease))
        }
        EventKind::Expired { lock, lease, token } => {
            format!("{lock} expired {} token {token}", named(*lease))
        }
        EventKind::Forced {
            lock,
            lease,
            token,
            how,
            held_back_until,
        } => {
            let (lease, how) = (named(*lease), word_end(*how));
            format!("{lock} {how} {lease} token {token} held back until {held_back_until}")
        }
        EventKind::Updated { lock, lease, token } => {
            format!("{lock} updated {} token {token}", named(*lease))
        }
    };
    format!("    {} {words}", event.position)
}
