//! What the replicated log itself must show, whoever asked for what: terms that never fall and have one
//! leader each, leases that live exactly as long as they were granted and renewed for in cluster time, and
//! queues that are served in order. An implementation of its own of what DESIGN section 3 promises, of which it
//! knows deadlines and queues and nothing else. It reads what nodes say that they applied, and no clock.

use std::collections::{BTreeMap, BTreeSet};

use jepsen_checker::Position;
use serde_json::Value as Json;

use super::applied::{Applied, position, variant};
use crate::run_directory::ClusterSample;

/// What was found, of one rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ruled {
    /// What was looked at.
    pub(super) examined: u64,
    /// What is not as it must be.
    pub(super) broken: Vec<String>,
}

/// Terms never fall from one entry to the next, and no two nodes say that they lead in the same.
pub(super) fn terms(applied: &Applied, samples: &[ClusterSample]) -> Ruled {
    let mut ruled = Ruled::default();
    let mut last = (0, 0);
    for (index, entry) in applied.entries() {
        let Some(term) = entry["term"].as_u64() else {
            continue;
        };
        ruled.examined += 1;
        if term < last.1 {
            ruled.broken.push(format!(
                "entry {index} is of term {term}, and entry {} before it of term {}",
                last.0, last.1
            ));
        }
        last = (index, term);
    }
    let mut leaders: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for node in samples.iter().flat_map(|sample| &sample.nodes) {
        if let (true, Some(term)) = (node.leads, node.term) {
            leaders.entry(term).or_default().insert(&node.node);
        }
    }
    for (term, leaders) in leaders {
        if leaders.len() > 1 {
            let leaders: Vec<&str> = leaders.into_iter().collect();
            let leaders = leaders.join(" and ");
            ruled
                .broken
                .push(format!("{leaders} say that they led in term {term}"));
        }
    }
    ruled
}

/// A lease, as far as it can be told from what was applied.
#[derive(Debug)]
struct Lease {
    deadline_ms: u64,
    ttl_ms: u64,
    /// It was made by an acquire, has been granted nothing yet, and lives for that wait.
    lives_for_wait: bool,
    /// It was made by an acquire, and ends when it neither holds nor waits.
    ends_unused: bool,
    holds: BTreeSet<(String, u64)>,
    waits: BTreeSet<(String, Position)>,
}

/// Nothing is done for a lease whose deadline has passed, and none expires before.
#[derive(Debug, Default)]
struct LeaseTimes {
    now_ms: u64,
    leases: BTreeMap<String, Lease>,
    ruled: Ruled,
}

/// Leases live exactly as long as they were granted and renewed for.
pub(super) fn lease_times(applied: &Applied) -> Ruled {
    let mut times = LeaseTimes::default();
    for (index, entry) in applied.entries() {
        times.now_ms = times.now_ms.max(entry["stamp"].as_u64().unwrap_or(0));
        times.command_begins(entry);
        for event in events(entry) {
            times.event(index, event);
        }
        times.command_ends(index, entry);
    }
    times.ruled
}

fn events(entry: &Json) -> impl Iterator<Item = &Json> {
    entry["outcome"]["events"].as_array().into_iter().flatten()
}

impl LeaseTimes {
    /// An acquire makes a lease, if there is none, before it says what became of it.
    fn command_begins(&mut self, entry: &Json) {
        let Some(("Acquire", asked)) = variant(&entry["command"]) else {
            return;
        };
        let (Some(lease), Some((answer, given))) = (
            asked["lease"].as_str(),
            variant(&entry["outcome"]["response"]),
        ) else {
            return;
        };
        if given["repeated"] == true || self.leases.contains_key(lease) {
            return;
        }
        let deadline_ms = match answer {
            "Granted" => self
                .now_ms
                .saturating_add(given["ttl_ms"].as_u64().unwrap_or(0)),
            "Queued" => given["deadline"].as_u64().unwrap_or(u64::MAX),
            _ => return,
        };
        let made = Lease {
            deadline_ms,
            ttl_ms: asked["ttl_ms"].as_u64().unwrap_or(0),
            lives_for_wait: answer == "Queued",
            ends_unused: true,
            holds: BTreeSet::new(),
            waits: BTreeSet::new(),
        };
        self.leases.insert(lease.to_owned(), made);
    }

    fn command_ends(&mut self, index: u64, entry: &Json) {
        let response = &entry["outcome"]["response"];
        match (variant(&entry["command"]), variant(response)) {
            (Some(("Renew", _)), Some((_, answers))) => {
                for answer in answers.as_array().into_iter().flatten() {
                    if answer["result"].get("Ok").is_some()
                        && let Some(lease) = answer["lease"].as_str()
                    {
                        self.lives(index, lease, "was renewed");
                        let now_ms = self.now_ms;
                        if let Some(lease) = self.leases.get_mut(lease) {
                            let later = now_ms.saturating_add(lease.ttl_ms);
                            lease.deadline_ms = lease.deadline_ms.max(later);
                        }
                    }
                }
            }
            (Some(("OpenLease", asked)), Some((answer, given))) => {
                if let (false, Some(lease), Some(ttl_ms)) = (
                    answer == "Refused" || given["repeated"] == true,
                    asked["lease"].as_str(),
                    asked["ttl_ms"].as_u64(),
                ) {
                    let made = Lease {
                        deadline_ms: self.now_ms.saturating_add(ttl_ms),
                        ttl_ms,
                        lives_for_wait: false,
                        ends_unused: false,
                        holds: BTreeSet::new(),
                        waits: BTreeSet::new(),
                    };
                    self.leases.insert(lease.to_owned(), made);
                }
            }
            (Some(("Revoke" | "RevokeById" | "ForceRelease", asked)), Some((answer, _))) => {
                if let (true, Some(lease)) = (answer != "Refused", asked["lease"].as_str()) {
                    self.leases.remove(lease);
                }
            }
            // It ends all leases there were.
            (Some(("Restore", _)), _) => self.leases.clear(),
            _ => {}
        }
    }

    fn lives(&mut self, index: u64, lease: &str, what: &str) {
        self.ruled.examined += 1;
        if let Some(known) = self.leases.get(lease)
            && known.deadline_ms <= self.now_ms
        {
            self.ruled.broken.push(format!(
                "lease {lease} {what} by entry {index} at {} ms of cluster time, and its deadline was \
                 {} ms",
                self.now_ms, known.deadline_ms
            ));
        }
    }

    /// It ends because its deadline is said to have come.
    fn expires(&mut self, index: u64, lease: &str) {
        self.ruled.examined += 1;
        if let Some(known) = self.leases.get(lease)
            && self.now_ms < known.deadline_ms
        {
            self.ruled.broken.push(format!(
                "lease {lease} expired by entry {index} at {} ms of cluster time, before its deadline, \
                 {} ms",
                self.now_ms, known.deadline_ms
            ));
        }
    }

    fn event(&mut self, index: u64, event: &Json) {
        let Some((kind, fields)) = variant(&event["kind"]) else {
            return;
        };
        let (Some(lease), Some(lock)) = (fields["lease"].as_str(), fields["lock"].as_str()) else {
            return;
        };
        let hold = fields["token"]
            .as_u64()
            .map(|token| (lock.to_owned(), token));
        let wait = position(&fields["queued_position"]).map(|place| (lock.to_owned(), place));
        match kind {
            "Granted" => {
                self.lives(index, lease, "was granted a lock");
                let now_ms = self.now_ms;
                if let Some(known) = self.leases.get_mut(lease) {
                    let later = now_ms.saturating_add(fields["ttl_ms"].as_u64().unwrap_or(0));
                    known.deadline_ms = match known.lives_for_wait {
                        true => later,
                        false => known.deadline_ms.max(later),
                    };
                    known.lives_for_wait = false;
                    known.holds.extend(hold);
                    if let Some(wait) = wait {
                        known.waits.remove(&wait);
                    }
                }
                return;
            }
            "Queued" => {
                if let Some(known) = self.leases.get_mut(lease) {
                    known.waits.extend(wait);
                }
                return;
            }
            "Updated" => return self.lives(index, lease, "changed a value"),
            "Released" => self.lives(index, lease, "gave up a lock"),
            "Expired" => self.expires(index, lease),
            "WaitEnded" if fields["reason"]["LeaseEnded"]["how"] == "Expired" => {
                self.expires(index, lease);
            }
            _ => {}
        }
        if let Some(known) = self.leases.get_mut(lease) {
            if let Some(hold) = hold {
                known.holds.remove(&hold);
            }
            if let Some(wait) = wait {
                known.waits.remove(&wait);
            }
            if known.ends_unused && known.holds.is_empty() && known.waits.is_empty() {
                self.leases.remove(lease);
            }
        }
    }
}

/// No request is granted a lock while one waits for it that was there before.
pub(super) fn queue_order(applied: &Applied) -> Ruled {
    let mut ruled = Ruled::default();
    let mut queues: BTreeMap<String, BTreeMap<Position, String>> = BTreeMap::new();
    for (index, entry) in applied.entries() {
        for event in events(entry) {
            let Some((kind, fields)) = variant(&event["kind"]) else {
                continue;
            };
            let (Some(lock), Some(place)) = (
                fields["lock"].as_str(),
                position(&fields["queued_position"]),
            ) else {
                continue;
            };
            let request = fields["request"].as_str().unwrap_or_default();
            let queue = queues.entry(lock.to_owned()).or_default();
            match kind {
                "Queued" => {
                    queue.insert(place, request.to_owned());
                }
                "WaitEnded" => {
                    queue.remove(&place);
                }
                "Granted" => {
                    ruled.examined += 1;
                    queue.remove(&place);
                    if let Some((earlier, passed)) = queue.range(..place).next() {
                        ruled.broken.push(format!(
                            "{lock} was granted by entry {index} to request {request}, which queued at \
                             {place}, and request {passed} had waited for it since {earlier}"
                        ));
                    }
                }
                _ => {}
            }
        }
    }
    ruled
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run_directory::NodeSample;

    fn place(index: u64) -> Json {
        json!({"index": index, "ordinal": 0})
    }

    fn entry(index: u64, stamp: u64, command: &Json, response: &Json, events: &[Json]) -> Json {
        let events: Vec<Json> = events
            .iter()
            .zip(1..)
            .map(|(kind, ordinal)| {
                json!({"position": {"index": index, "ordinal": ordinal}, "kind": kind})
            })
            .collect();
        json!({
            "index": index, "term": 1, "stamp": stamp, "command": command,
            "outcome": {"position": place(index), "response": response, "events": events},
        })
    }

    fn granted(lock: &str, lease: &str, request: &str, token: u64, queued: u64) -> Json {
        json!({"Granted": {"lock": lock, "lease": lease, "request": request, "token": token,
            "queued_position": place(queued), "ttl_ms": 2000}})
    }

    fn queued(lock: &str, lease: &str, request: &str, index: u64) -> Json {
        json!({"Queued": {"lock": lock, "lease": lease, "request": request,
            "queued_position": place(index)}})
    }

    fn acquire(index: u64, stamp: u64, lease: &str, answer: &Json, event: Json) -> Json {
        let command = json!({"Acquire": {"lease": lease, "request": "r", "ttl_ms": 2000}});
        entry(index, stamp, &command, answer, &[event])
    }

    fn gets(index: u64, stamp: u64, lock: &str, lease: &str) -> Json {
        let answer = json!({"Granted": {"ttl_ms": 2000, "repeated": false}});
        let event = granted(lock, lease, &format!("r{index}"), index, index);
        acquire(index, stamp, lease, &answer, event)
    }

    fn waits(index: u64, stamp: u64, lock: &str, lease: &str, deadline: u64) -> Json {
        let answer = json!({"Queued": {"deadline": deadline, "repeated": false}});
        let event = queued(lock, lease, &format!("r{index}"), index);
        acquire(index, stamp, lease, &answer, event)
    }

    fn tick(index: u64, stamp: u64, events: &[Json]) -> Json {
        entry(index, stamp, &json!("Tick"), &json!("Ticked"), events)
    }

    fn renewed(index: u64, stamp: u64, lease: &str) -> Json {
        let answer = json!({"Renewed": [{"lease": lease, "result": {"Ok": {}}}]});
        entry(index, stamp, &json!({"Renew": {}}), &answer, &[])
    }

    fn expired(lock: &str, lease: &str, token: u64) -> Json {
        json!({"Expired": {"lock": lock, "lease": lease, "token": token}})
    }

    fn log(entries: &[Json]) -> Applied {
        Applied::of(entries)
    }

    #[test]
    fn a_lease_that_is_granted_renewed_and_expires_in_time_is_right() {
        let log = log(&[
            gets(1, 100, "a", "L"),
            waits(2, 200, "a", "M", 9_000),
            renewed(3, 1_500, "L"),
            tick(
                4,
                3_500,
                &[expired("a", "L", 1), granted("a", "M", "r2", 4, 2)],
            ),
            renewed(5, 5_400, "M"),
        ]);
        let ruled = lease_times(&log);
        assert_eq!(ruled.broken, [""; 0]);
        assert_eq!(ruled.examined, 5);
    }

    #[test]
    fn an_expiry_before_the_renewed_deadline_is_found() {
        let log = log(&[
            gets(1, 100, "a", "L"),
            renewed(2, 1_500, "L"),
            tick(3, 2_100, &[expired("a", "L", 1)]),
        ]);
        let ruled = lease_times(&log);
        assert_eq!(ruled.broken.len(), 1, "{ruled:?}");
        assert!(ruled.broken[0].contains("before its deadline, 3500 ms"));
    }

    #[test]
    fn a_grant_and_a_renewal_after_the_deadline_are_found_but_a_wait_of_its_own_keeps_a_lease() {
        // L holds `a` until 2,100 and waits for `b` beyond that.
        let dead = log(&[
            gets(1, 100, "a", "L"),
            waits(2, 200, "b", "L", 9_000),
            tick(3, 2_100, &[granted("b", "L", "r2", 3, 2)]),
        ]);
        assert_eq!(lease_times(&dead).broken.len(), 1);
        let late = log(&[gets(1, 100, "a", "L"), renewed(2, 2_100, "L")]);
        assert_eq!(lease_times(&late).broken.len(), 1);
        // M was made to wait.
        let waiting = log(&[
            waits(1, 100, "b", "M", 9_000),
            tick(2, 8_000, &[granted("b", "M", "r1", 2, 1)]),
        ]);
        assert_eq!(lease_times(&waiting).broken, [""; 0]);
    }

    #[test]
    fn a_grant_past_who_waited_before_is_found() {
        let served = |first: Json, then: Json| {
            log(&[
                gets(1, 1, "a", "L"),
                waits(2, 2, "a", "M", 9_000),
                waits(3, 3, "a", "N", 9_000),
                tick(4, 9, &[first]),
                tick(5, 10, &[then]),
            ])
        };
        let (m, n) = (granted("a", "M", "r2", 4, 2), granted("a", "N", "r3", 5, 3));
        let ended = json!({"WaitEnded": {"lock": "a", "lease": "M", "queued_position": place(2)}});
        assert_eq!(queue_order(&served(m.clone(), n.clone())).broken, [""; 0]);
        assert_eq!(queue_order(&served(ended, n.clone())).broken, [""; 0]);
        let broken = queue_order(&served(n, m)).broken;
        assert_eq!(broken.len(), 1);
        assert!(broken[0].contains("request r2 had waited"), "{broken:?}");
    }

    #[test]
    fn a_term_that_falls_and_a_term_of_two_leaders_are_found() {
        let mut old = tick(2, 2, &[]);
        old["term"] = json!(0);
        let log = log(&[tick(1, 1, &[]), old]);
        let leads = |node: &str, term| ClusterSample {
            time_ns: 0,
            nodes: vec![NodeSample {
                node: node.to_owned(),
                process: "running".to_owned(),
                reachable: true,
                leads: true,
                leader: None,
                term: Some(term),
                applied_index: None,
            }],
        };
        assert_eq!(
            terms(&log, &[leads("n1", 1), leads("n2", 2)]).broken.len(),
            1
        );
        let broken = terms(&log, &[leads("n1", 1), leads("n2", 1)]).broken;
        assert_eq!(broken[1], "n1 and n2 say that they led in term 1");
    }
}
