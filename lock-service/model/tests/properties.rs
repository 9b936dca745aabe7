//! Random commands from few leases for few locks, so that they collide all the time, while time
//! jumps. After every entry the promises of the model are checked: on the state, and on the history
//! of responses and events.
//!
//! A failure prints the shortest commands that cause it; its seed is kept in
//! `proptest-regressions/` and run first next time. `PROPTEST_CASES=100000` looks harder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case that cannot be built or run fails its test"
)]

mod common;
mod history;

use common::{check_invariants, encode, through_a_snapshot};
use history::History;
use lock_model::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, LockTable,
    Metadata, Mode, ModelVersion, Owner, RequestId, Response, Settings, Timestamp, Token, Value,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// One entry, and what the test does around it.
#[derive(Debug, Clone)]
struct Step {
    /// How far time moves before it; negative for a stamp in the past.
    elapsed_ms: i64,
    command: Command,
    /// Whether the state goes through a snapshot before it.
    restore: bool,
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (0..4_u8).prop_map(|n| LeaseId([n; 16]))
}

fn lock() -> impl Strategy<Value = LockName> {
    (0..3_u8).prop_map(|n| LockName::new(&format!("lock-{n}")).unwrap())
}

fn request() -> impl Strategy<Value = RequestId> {
    (0..6_u8).prop_map(|n| RequestId::new(&format!("r{n}")).unwrap())
}

fn mode() -> impl Strategy<Value = Mode> {
    let permits = (1..3_u32).prop_map(|permits| Mode::Permits { permits, limit: 2 });
    prop_oneof![4 => Just(Mode::Exclusive), 3 => Just(Mode::Shared), 1 => permits]
}

fn acquire() -> impl Strategy<Value = Command> {
    let lock = || (lock(), mode()).prop_map(|(lock, mode)| LockRequest { lock, mode });
    let locks = prop_oneof![4 => vec(lock(), 1), 1 => vec(lock(), 0..3)];
    let ttl_ms =
        prop_oneof![6 => Just(None), 4 => Just(Some(15_000)), 1 => (0..40_000_u64).prop_map(Some)];
    let wait_ms = prop_oneof![2 => Just(0), 4 => 1..30_000_u64, 1 => Just(u64::MAX)];
    let body = prop_oneof![12 => Just(0_u8), 1 => Just(1)];
    let value = prop_oneof![3 => Just(None), 1 => "[a-z]{0,6}".prop_map(|text| Some(Value::new(&text).unwrap()))];
    let lock_delay_ms = prop_oneof![4 => Just(0), 1 => 1..9_000_u64];
    (
        lease(),
        request(),
        body,
        locks,
        ttl_ms,
        wait_ms,
        value,
        lock_delay_ms,
    )
        .prop_map(
            |(lease, request, body, locks, ttl_ms, wait_ms, value, lock_delay_ms)| {
                Command::Acquire(Acquire {
                    lease,
                    request,
                    body: BodyHash([body; 16]),
                    locks,
                    ttl_ms,
                    owner: Owner::new("somebody").unwrap(),
                    wait_ms,
                    value,
                    lock_delay_ms,
                })
            },
        )
}

fn command() -> impl Strategy<Value = Command> {
    let token = || prop_oneof![8 => 1..20_u64, 1 => Just(0), 1 => any::<u64>()].prop_map(Token);
    let ttl_ms = prop_oneof![4 => Just(15_000), 1 => 0..40_000_u64];
    let owner = Owner::new("somebody").unwrap();
    prop_oneof![
        12 => acquire(),
        4 => (lease(), vec(token(), 1..2)).prop_map(|(lease, tokens)| Command::Release { lease, tokens }),
        1 => (lease(), vec(token(), 0..4)).prop_map(|(lease, tokens)| Command::Release { lease, tokens }),
        3 => vec(lease(), 0..4).prop_map(|leases| Command::Renew { leases }),
        2 => (lease(), request()).prop_map(|(lease, request)| Command::Cancel { lease, request }),
        2 => (lease(), ttl_ms).prop_map(move |(lease, ttl_ms)| Command::OpenLease {
            lease,
            ttl_ms,
            owner: owner.clone(),
            metadata: Metadata::default(),
        }),
        1 => lease().prop_map(|lease| Command::Revoke { lease }),
        1 => (lease(), any::<bool>()).prop_map(|(lease, now)| Command::RevokeById { lease, now }),
        1 => (lease(), lock(), token(), any::<bool>()).prop_map(|(lease, lock, token, now)| {
            Command::ForceRelease { lock, token, lease, now }
        }),
        1 => (lease(), token()).prop_map(|(lease, token)| Command::Update { lease, token, value: None }),
        2 => Just(Command::Tick),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let elapsed_ms = prop_oneof![6 => Just(0_i64), 6 => 1..4_000_i64, 2 => 4_000..40_000_i64, 1 => -5_000..0_i64];
    (elapsed_ms, command(), prop::bool::weighted(0.1)).prop_map(|(elapsed_ms, command, restore)| {
        Step {
            elapsed_ms,
            command,
            restore,
        }
    })
}

/// Settings under which limits and caps are met now and then.
fn settings() -> impl Strategy<Value = Settings> {
    let few = || prop_oneof![2 => Just(100_u64), 1 => 1..4_u64];
    (
        1..5_u64,
        few(),
        few(),
        few(),
        few(),
        0..10_u64,
        2_000..40_000_u64,
    )
        .prop_map(
            |(
                expiry_cap,
                leases_max,
                queue_max,
                locks_per_lease_max,
                decided_max,
                events_max,
                tombstone_ttl_ms,
            )| {
                let (locks_max, tombstones_max) = (leases_max, leases_max + 1);
                Settings {
                    ttl_min_ms: 2_000,
                    ttl_max_ms: 30_000,
                    wait_max_ms: 50_000,
                    expiry_cap,
                    leases_max,
                    locks_max,
                    queue_max,
                    locks_per_lease_max,
                    decided_max,
                    events_max,
                    tombstone_ttl_ms,
                    tombstones_max,
                    ..Settings::default()
                }
            },
        )
}

fn found(settings: Settings) -> Command {
    let (cluster_id, token_floor, model_version) = (ClusterId([1; 16]), Token(0), ModelVersion::V1);
    Command::Found {
        cluster_id,
        token_floor,
        settings,
        model_version,
    }
}

/// A state and the log that it comes from.
struct Node {
    table: LockTable,
    history: History,
    entry: Entry,
}

impl Node {
    fn founded(settings: Settings) -> Result<Self, TestCaseError> {
        let entry = Entry {
            index: 0,
            now: Timestamp(0),
        };
        let mut node = Self {
            table: LockTable::new(),
            history: History::default(),
            entry,
        };
        let response = node.apply(0, &found(settings))?;
        let is_new = matches!(
            response,
            Response::Founded {
                repeated: false,
                ..
            }
        );
        prop_assert!(is_new, "founding answered {response:?}");
        Ok(node)
    }

    /// Applies one entry and checks everything.
    fn apply(&mut self, elapsed_ms: i64, command: &Command) -> Result<Response, TestCaseError> {
        self.entry.index += 1;
        self.entry.now = Timestamp(self.table.clock().0.saturating_add_signed(elapsed_ms));
        let before = self.table.clone();
        let outcome = self.table.apply(self.entry, command);
        check_invariants(&self.table).map_err(TestCaseError::fail)?;
        self.history
            .check(&before, self.entry, command, &outcome, &self.table)
            .map_err(TestCaseError::fail)?;
        Ok(outcome.response)
    }
}

/// The same answer, but for what says that it is a repeat.
fn without_repeated(response: Response) -> Response {
    match response {
        Response::Granted(granted) => Response::Granted(lock_model::Granted {
            repeated: false,
            ..granted
        }),
        Response::Queued(queued) => Response::Queued(lock_model::Queued {
            repeated: false,
            ..queued
        }),
        Response::LeaseOpened {
            ttl_ms,
            remaining_ms,
            ..
        } => Response::LeaseOpened {
            ttl_ms,
            remaining_ms,
            repeated: false,
        },
        other => other,
    }
}

/// Whether anything is overdue, so that an entry does more than its command.
fn has_a_backlog(table: &LockTable) -> bool {
    table
        .next_deadline()
        .is_some_and(|deadline| deadline <= table.clock())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn every_entry_keeps_every_promise(settings in settings(), steps in vec(step(), 1..80)) {
        let mut node = Node::founded(settings)?;
        for Step { elapsed_ms, command, restore } in &steps {
            if *restore {
                node.table = through_a_snapshot(&node.table).map_err(TestCaseError::fail)?;
            }
            node.apply(*elapsed_ms, command)?;
        }
    }

    #[test]
    fn the_same_log_gives_the_same_state_whether_or_not_it_went_through_snapshots(
        settings in settings(),
        steps in vec(step(), 1..80),
    ) {
        let (mut straight, mut restored) = (LockTable::new(), LockTable::new());
        let mut entry = Entry { index: 1, now: Timestamp(0) };
        for table in [&mut straight, &mut restored] {
            table.apply(entry, &found(settings.clone()));
        }
        for Step { elapsed_ms, command, restore } in &steps {
            entry = Entry { index: entry.index + 1, now: Timestamp(entry.now.0.saturating_add_signed(*elapsed_ms)) };
            if *restore {
                restored = through_a_snapshot(&restored).map_err(TestCaseError::fail)?;
            }
            prop_assert_eq!(straight.apply(entry, command), restored.apply(entry, command));
        }
        prop_assert_eq!(encode(&straight), encode(&restored));
    }

    #[test]
    fn a_repeat_has_the_same_answer_and_no_second_effect(
        settings in settings(),
        steps in vec(step(), 1..60),
    ) {
        let mut node = Node::founded(settings)?;
        for Step { elapsed_ms, command, .. } in &steps {
            let first = node.apply(*elapsed_ms, command)?;
            let is_repeatable = matches!(command, Command::Acquire(_) | Command::OpenLease { .. });
            if !is_repeatable || has_a_backlog(&node.table) {
                continue;
            }
            let before = node.table.clone();
            let again = node.apply(0, command)?;
            prop_assert_eq!(without_repeated(first), without_repeated(again));
            prop_assert_eq!(before.token_counter(), node.table.token_counter());
            prop_assert!(before.locks("", None).eq(node.table.locks("", None)), "a repeat changed a lock");
            prop_assert!(before.leases(None).eq(node.table.leases(None)), "a repeat changed a lease");
            prop_assert_eq!(before.counts(), node.table.counts());
        }
    }

    #[test]
    fn a_request_never_holds_twice_however_often_and_late_it_is_repeated(
        settings in settings(),
        steps in vec(step(), 1..60),
    ) {
        // Enough memory for every request that there is.
        let settings = Settings { decided_max: 1_000, tombstone_ttl_ms: 3_600_000, ..settings };
        let mut node = Node::founded(settings)?;
        node.history.forgets_nothing = true;
        for Step { elapsed_ms, command, .. } in &steps {
            node.apply(*elapsed_ms, command)?;
        }
    }

    #[test]
    fn given_time_everything_ends(settings in settings(), steps in vec(step(), 1..60)) {
        let mut node = Node::founded(settings)?;
        for Step { elapsed_ms, command, .. } in &steps {
            node.apply(*elapsed_ms, command)?;
        }
        // Waiters may be granted as others end, at most one after the other.
        for _ in 0..10_000 {
            let Some(deadline) = node.table.next_deadline() else { break };
            let elapsed_ms = node.table.clock().ms_until(deadline);
            node.apply(i64::try_from(elapsed_ms).unwrap(), &Command::Tick)?;
        }
        let counts = node.table.counts();
        prop_assert_eq!((counts.leases, counts.locks, counts.waits, counts.tombstones), (0, 0, 0, 0));
    }

    #[test]
    fn damaged_snapshots_are_refused_or_possible_states_and_never_panic(
        settings in settings(),
        steps in vec(step(), 1..40),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut node = Node::founded(settings)?;
        for Step { elapsed_ms, command, .. } in &steps {
            node.apply(*elapsed_ms, command)?;
        }
        let mut bytes = encode(&node.table);
        let is_cut = cut.is_some();
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        } else {
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        match LockTable::read(&mut bytes.as_slice()) {
            Ok(table) => {
                prop_assert!(!is_cut, "a snapshot that was cut off was read");
                check_invariants(&table).map_err(TestCaseError::fail)?;
                // Whatever it says, it can be worked with.
                let mut table = table;
                let entry = Entry { index: table.last_position().index.saturating_add(1), now: Timestamp(u64::MAX) };
                table.apply(entry, &Command::Tick);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
