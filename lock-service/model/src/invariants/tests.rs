//! Each promise is broken on purpose, in every way that its check looks for: a check that sees
//! nothing would make all other tests worthless.

use std::sync::Arc;

use super::check;
use crate::ring::Ring;
use crate::state::{Due, DueItem, Held, Lease, Lock, LockTable, Wait, WaitingRequest};
use crate::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, Metadata, Mode,
    ModelVersion, Origin, Owner, Position, RequestId, Response, Settings, Timestamp, Token,
};

const TTL_MS: u64 = 10_000;

fn id(number: u8) -> LeaseId {
    LeaseId([number; 16])
}

fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

fn permits(permits: u32) -> Mode {
    Mode::Permits { permits, limit: 3 }
}

fn apply(table: &mut LockTable, command: &Command) -> Response {
    let entry = Entry {
        index: table.last_position.index + 1,
        now: Timestamp(1_000),
    };
    let response = table.apply(entry, command).response;
    assert!(!matches!(response, Response::Refused(_)), "{response:?}");
    response
}

fn acquire(table: &mut LockTable, lease: u8, locks: &[(&str, Mode)], wait_ms: u64) {
    let request = |(lock, mode): &(&str, Mode)| LockRequest {
        lock: name(lock),
        mode: *mode,
    };
    let acquire = Acquire {
        lease: id(lease),
        request: RequestId::new("r").unwrap(),
        body: BodyHash([0; 16]),
        locks: locks.iter().map(request).collect(),
        ttl_ms: None,
        owner: Owner::new("").unwrap(),
        wait_ms,
        value: None,
        lock_delay_ms: 0,
    };
    apply(table, &Command::Acquire(acquire));
}

fn founded() -> LockTable {
    let mut table = LockTable::new();
    let found = Command::Found {
        cluster_id: ClusterId([1; 16]),
        token_floor: Token(0),
        settings: Settings::default(),
        model_version: ModelVersion::LATEST,
    };
    apply(&mut table, &found);
    table
}

/// Lease 1, which is explicit, holds `alone`; 2 and 3 share `shared`; 4 and 5 have all three
/// `permits`; 6 waits for `alone` and `shared`. 7 has released what it held; 8 was ended by another
/// hand, and what it held is held back.
fn busy() -> LockTable {
    let mut table = founded();
    let open = Command::OpenLease {
        lease: id(1),
        ttl_ms: TTL_MS,
        owner: Owner::new("").unwrap(),
        metadata: Metadata::default(),
    };
    apply(&mut table, &open);
    acquire(&mut table, 1, &[("alone", Mode::Exclusive)], 0);
    acquire(&mut table, 2, &[("shared", Mode::Shared)], 0);
    acquire(&mut table, 3, &[("shared", Mode::Shared)], 0);
    acquire(&mut table, 4, &[("permits", permits(1))], 0);
    acquire(&mut table, 5, &[("permits", permits(2))], 0);
    let both = [("alone", Mode::Exclusive), ("shared", Mode::Exclusive)];
    acquire(&mut table, 6, &both, 60_000);
    acquire(&mut table, 7, &[("gone", Mode::Exclusive)], 0);
    let tokens = vec![table.token_counter];
    apply(
        &mut table,
        &Command::Release {
            lease: id(7),
            tokens,
        },
    );
    acquire(&mut table, 8, &[("held back", Mode::Exclusive)], 0);
    let (lease, now) = (id(8), false);
    apply(&mut table, &Command::RevokeById { lease, now });
    table
}

/// After a restore: 1 waits, and nothing is granted yet.
fn held_back() -> LockTable {
    let mut table = founded();
    let restore = Command::Restore {
        cluster_id: ClusterId([2; 16]),
        token_floor: Token(0),
        hold_ms: 10_000,
    };
    apply(&mut table, &restore);
    acquire(&mut table, 1, &[("job", Mode::Exclusive)], 60_000);
    table
}

fn lease(table: &mut LockTable, number: u8) -> &mut Lease {
    table.lease_mut(id(number)).unwrap()
}

fn lock(table: &mut LockTable, text: &str, change: impl FnOnce(&mut Lock)) {
    table.locks.alter(&name(text), |lock| {
        change(lock);
        true
    });
}

/// The place of the one who waits.
fn place(table: &LockTable) -> Position {
    *table.waits.keys().next().unwrap()
}

fn wait(table: &mut LockTable) -> &mut Wait {
    let place = place(table);
    Arc::make_mut(table.waits.get_mut(&place).unwrap())
}

fn set_used(lock: &mut Lock, now: u32) {
    if let Held::Permits { used, .. } = &mut lock.held {
        *used = now;
    }
}

/// Changes the settings, as if they had always been so.
fn set(table: &mut LockTable, change: impl FnOnce(&mut Settings)) {
    change(&mut table.settings);
    table.loosest_settings = table.settings.clone();
}

/// The events as they are, in a ring that says it has forgotten everything up to `forgotten`.
fn forget(table: &mut LockTable, forgotten: Position) {
    let events: Vec<_> = table.events.iter().cloned().collect();
    table.events = Ring::after(forgotten);
    events.into_iter().for_each(|it| table.events.push(it));
}

type Break = fn(&mut LockTable);

/// Breaks a promise, and only in the way that is told: the rest of its check must be satisfied.
fn assert_seen(state: fn() -> LockTable, invariant: &str, ways: &[(&str, Break)]) {
    assert_eq!(check(&state()), []);
    for (way, broken) in ways {
        let mut table = state();
        broken(&mut table);
        let found = check(&table);
        assert!(
            found.iter().any(|it| it.invariant == invariant),
            "{way}: {invariant} is said to be kept; {found:?}"
        );
    }
}

#[test]
fn who_holds_beside_an_exclusive_holder_is_seen() {
    let invariant = "an_exclusive_lock_has_one_holder_and_nobody_beside_it";
    assert_seen(
        busy,
        invariant,
        &[("two holders", |table| {
            let hold = lease(table, 1).holds[0].clone();
            lease(table, 2).put_hold(hold);
        })],
    );
}

#[test]
fn permits_that_are_too_many_none_or_miscounted_are_seen() {
    let invariant = "no_more_permits_are_taken_than_there_are";
    assert_seen(
        busy,
        invariant,
        &[
            ("four of three", |table| {
                lease(table, 4).holds[0].mode = permits(2);
                lock(table, "permits", |lock| set_used(lock, 4));
            }),
            ("a holder without any", |table| {
                lease(table, 4).holds[0].mode = permits(0);
                lock(table, "permits", |lock| set_used(lock, 2));
            }),
            ("counted wrong", |table| {
                lock(table, "permits", |lock| set_used(lock, 2));
            }),
        ],
    );
}

#[test]
fn a_lock_of_two_kinds_is_seen() {
    let invariant = "a_lock_is_of_one_kind_while_it_exists";
    assert_seen(
        busy,
        invariant,
        &[
            ("permits that nobody has", |table| {
                lock(table, "alone", |lock| lock.limit = Some(3));
            }),
            ("another limit", |table| {
                lock(table, "permits", |lock| lock.limit = Some(4));
            }),
            ("a waiter of the other kind", |table| {
                wait(table).locks[0].mode = permits(1);
            }),
        ],
    );
}

#[test]
fn a_lock_and_a_lease_that_disagree_on_who_holds_are_seen() {
    assert_seen(
        busy,
        "every_holder_has_a_lease_that_knows_it",
        &[
            ("another is named", |table| {
                lock(table, "alone", |lock| lock.held = Held::Exclusive(id(2)));
            }),
            ("nobody is named", |table| {
                lock(table, "alone", |lock| lock.held = Held::Free);
            }),
            ("the lease does not know", |table| {
                lease(table, 1).holds.clear();
            }),
            ("the same twice", |table| {
                let hold = lease(table, 1).holds[0].clone();
                lease(table, 1).holds.push(hold);
            }),
            ("it lives and has ended", |table| {
                let tombstone = table.tombstones.values().next().unwrap().as_ref().clone();
                table.put_tombstone(id(1), tombstone);
            }),
        ],
    );
}

#[test]
fn a_queue_and_a_lease_that_disagree_on_who_waits_are_seen() {
    assert_seen(
        busy,
        "every_waiter_has_a_lease_that_knows_it",
        &[
            ("a place without a request", |table| {
                let nobody = Position::default();
                lock(table, "shared", |lock| {
                    lock.queue.insert(nobody, ());
                });
            }),
            ("a request for nothing", |table| {
                let place = place(table);
                wait(table).locks.clear();
                lease(table, 6).waits[0].locks = 0;
                for text in ["alone", "shared"] {
                    lock(table, text, |lock| {
                        lock.queue.remove(&place);
                    });
                }
            }),
            ("a request in one of two queues", |table| {
                let place = place(table);
                lock(table, "shared", |lock| {
                    lock.queue.remove(&place);
                });
            }),
            ("the lease does not know", |table| {
                lease(table, 6).waits.clear();
            }),
            ("the lease knows another request", |table| {
                lease(table, 6).waits[0].request = RequestId::new("s").unwrap();
            }),
            ("the lease knows of more locks", |table| {
                lease(table, 6).waits[0].locks += 1;
            }),
            ("the lease knows it twice", |table| {
                let waiting = lease(table, 6).waits[0].clone();
                lease(table, 6).waits.push(waiting);
            }),
            ("another lease thinks that it waits", |table| {
                let waiting = lease(table, 6).waits[0].clone();
                lease(table, 1).waits.push(waiting);
            }),
            ("a lease waits for a request that is not there", |table| {
                lease(table, 1).waits.push(WaitingRequest {
                    request: RequestId::new("s").unwrap(),
                    queued_position: Position::default(),
                    locks: 1,
                });
            }),
            ("one request holds and waits", |table| {
                let mut hold = lease(table, 1).holds[0].clone();
                hold.lock = name("other");
                lease(table, 6).put_hold(hold);
            }),
            ("it waits for what it holds", |table| {
                let mut hold = lease(table, 1).holds[0].clone();
                hold.request = RequestId::new("s").unwrap();
                lease(table, 6).put_hold(hold);
            }),
        ],
    );
}

#[test]
fn a_token_that_two_have_who_should_not_is_seen() {
    assert_seen(
        busy,
        "only_sharers_of_a_lock_have_the_same_token",
        &[
            ("a sharer with another", |table| {
                lease(table, 3).holds[0].token = Token(0);
            }),
            ("a holder alone with that of sharers", |table| {
                lease(table, 1).holds[0].token = lease(table, 2).holds[0].token;
            }),
            ("permits with the same", |table| {
                lease(table, 4).holds[0].token = lease(table, 5).holds[0].token;
            }),
            ("a sharer of a lock that is not shared", |table| {
                lease(table, 1).holds[0].mode = Mode::Shared;
            }),
        ],
    );
}

#[test]
fn a_token_above_the_counter_or_its_bound_is_seen() {
    assert_seen(
        busy,
        "no_token_exceeds_the_counter",
        &[
            ("the counter", |table| {
                table.token_counter = Token(Token::MAX.0 + 1);
            }),
            ("a holder's", |table| {
                lease(table, 1).holds[0].token.0 += 1_000;
            }),
            ("that of a last grant", |table| {
                lease(table, 1).last_grant.as_mut().unwrap().token.0 += 1_000;
            }),
            ("a tombstone's", |table| {
                let (id, tombstone) = table.tombstones.first().unwrap();
                let (id, mut tombstone) = (*id, tombstone.as_ref().clone());
                tombstone.last_grant.as_mut().unwrap().token.0 += 1_000;
                table.put_tombstone(id, tombstone);
            }),
            ("one that was given up", |table| {
                let token = Token(table.token_counter.0 + 1);
                let (request, body) = (RequestId::new("s").unwrap(), BodyHash([0; 16]));
                let decided = &mut lease(table, 1).decided;
                decided.push_ended(request, body, Token(0), 64);
                decided.push_ended(request, body, token, 64);
            }),
        ],
    );
}

#[test]
fn a_request_that_could_be_granted_and_a_lock_that_nobody_uses_are_seen() {
    assert_seen(
        busy,
        "no_grantable_request_is_left_waiting",
        &[("all its locks are free", |table| {
            for text in ["alone", "shared"] {
                lock(table, text, |lock| lock.held = Held::Free);
            }
        })],
    );
    assert_seen(
        busy,
        "a_lock_exists_only_while_held_waited_for_or_delayed",
        &[("nobody", |table| {
            table.locks.insert(name("nobody"), Lock::default());
        })],
    );
}

#[test]
fn what_is_held_or_can_be_too_early_after_a_restore_is_seen() {
    assert_seen(
        held_back,
        "nothing_is_held_while_the_cluster_is_held_back",
        &[
            ("held", |table| {
                lock(table, "job", |lock| lock.held = Held::Exclusive(id(1)));
            }),
            ("without a delay", |table| {
                lock(table, "job", |lock| lock.delay = None);
            }),
            ("with a delay that is too short", |table| {
                lock(table, "job", |lock| {
                    lock.delay.as_mut().unwrap().until.0 -= 1
                });
            }),
        ],
    );
}

#[test]
fn a_deadline_on_one_side_only_is_seen() {
    assert_seen(
        busy,
        "every_deadline_is_in_the_index_and_nothing_else",
        &[
            ("in the index only", |table| {
                let due = Due::new(Timestamp(9), DueItem::Hold);
                table.dues.insert(due, ());
            }),
            ("not in the index", |table| {
                let due = Due::lease(id(1), lease(table, 1).deadline);
                table.dues.remove(&due).unwrap();
            }),
        ],
    );
}

#[test]
fn a_lease_that_should_have_ended_or_forgot_how_it_came_to_be_is_seen() {
    assert_seen(
        busy,
        "a_lease_made_by_an_acquire_holds_or_waits",
        &[
            ("it does neither", |table| {
                lease(table, 2).holds.clear();
            }),
            ("it was granted something", |table| {
                lease(table, 2).origin = Origin::Waiting;
            }),
            ("it was granted nothing", |table| {
                lease(table, 6).origin = Origin::Granted;
            }),
        ],
    );
}

#[test]
fn events_out_of_order_or_from_the_future_are_seen() {
    assert_seen(
        busy,
        "events_are_in_order_and_not_from_the_future",
        &[
            ("the first is said to be forgotten", |table| {
                let first = table.events.iter().next().unwrap().position;
                forget(table, first);
            }),
            ("what comes is forgotten", |table| {
                let index = table.last_position.index + 1;
                table.events = Ring::after(Position { index, ordinal: 0 });
            }),
            ("one twice", |table| {
                let last = table.events.iter().next_back().unwrap().clone();
                table.events.push(last);
            }),
            ("after the last position", |table| {
                table.last_position = table.events.iter().next().unwrap().position;
                table.waits = Default::default();
            }),
            ("a place after the last position", |table| {
                table.last_position = Position::default();
                table.events = Ring::default();
            }),
        ],
    );
}

#[test]
fn too_much_of_anything_is_seen() {
    assert_seen(
        busy,
        "nothing_exceeds_what_the_settings_allowed",
        &[
            ("settings that make no sense", |table| {
                set(table, |settings| settings.ttl_min_ms = 0);
            }),
            ("the loosest make no sense", |table| {
                table.loosest_settings.expiry_cap = 0;
            }),
            ("the loosest are tighter", |table| {
                table.loosest_settings.leases_max -= 1;
            }),
            ("live leases", |table| set(table, |it| it.leases_max = 5)),
            ("live and ended leases", |table| {
                table.remove_tombstone(id(8));
                set(table, |it| (it.leases_max, it.tombstones_max) = (6, 6));
            }),
            ("locks", |table| set(table, |it| it.locks_max = 3)),
            ("events", |table| set(table, |it| it.events_max = 3)),
            ("waiters", |table| {
                let place = place(table);
                lock(table, "alone", |lock| {
                    lock.queue.insert(Position::default(), ());
                    assert!(lock.queue.contains_key(&place));
                });
                set(table, |it| it.queue_max = 1);
            }),
            ("locks of a lease", |table| {
                set(table, |it| it.locks_per_lease_max = 1);
            }),
            ("decided requests", |table| {
                for request in ["s", "t"] {
                    let (request, body) = (RequestId::new(request).unwrap(), BodyHash([0; 16]));
                    lease(table, 1)
                        .decided
                        .push_ended(request, body, Token(0), 64);
                }
                set(table, |it| it.decided_max = 1);
            }),
            ("a long TTL", |table| {
                lease(table, 1).ttl_ms = Settings::default().ttl_max_ms + 1;
            }),
        ],
    );
    let invariant = "nothing_exceeds_what_the_settings_allowed";
    assert_seen(
        LockTable::new,
        invariant,
        &[("an unfounded state with an ended lease", |table| {
            let tombstone = busy().tombstones.values().next().unwrap().as_ref().clone();
            table.put_tombstone(id(7), tombstone);
        })],
    );
}

#[test]
fn a_violation_names_the_promise_and_where_it_is_broken() {
    let mut table = busy();
    table.locks.insert(name("nobody"), Lock::default());
    let text = check(&table)[0].to_string();
    for words in ["a_lock_exists_only_while", "nobody is neither held"] {
        assert!(text.contains(words), "{text}");
    }
}
