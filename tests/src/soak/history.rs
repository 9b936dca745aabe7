//! What the clients were told, and whether what the nodes applied agrees with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// Violations of one kind that are spelled out; more are counted.
const SPELLED_OUT: usize = 5;

/// What became of a proposal, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied at this log index.
    Applied {
        /// The log index.
        index: u64,
    },
    /// Nobody knows.
    Unknown,
    /// Not applied.
    Refused,
}

/// Every proposal ever begun, and its outcome. A proposal without one is unknown.
#[derive(Default)]
pub struct History {
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
}

impl History {
    /// A number that was never proposed before.
    pub fn begin(&self) -> u64 {
        let mut outcomes = self.outcomes.lock().unwrap();
        let id = outcomes.len() as u64;
        outcomes.insert(id, Outcome::Unknown);
        id
    }

    /// Its client heard this.
    pub fn end(&self, id: u64, outcome: Outcome) {
        self.outcomes.lock().unwrap().insert(id, outcome);
    }

    /// How many were acknowledged, are unknown, were refused.
    pub fn counts(&self) -> (usize, usize, usize) {
        let outcomes = self.outcomes.lock().unwrap();
        let count = |wanted: fn(&Outcome) -> bool| outcomes.values().filter(|o| wanted(o)).count();
        (
            count(|outcome| matches!(outcome, Outcome::Applied { .. })),
            count(|outcome| *outcome == Outcome::Unknown),
            count(|outcome| *outcome == Outcome::Refused),
        )
    }

    /// Checks what each node applied, named, as pairs of proposal and log index.
    pub fn check(&self, sequences: &BTreeMap<String, Vec<(u64, u64)>>) -> Vec<String> {
        let mut violations = Violations::default();
        let Some((first_name, first)) = sequences.first_key_value() else {
            return vec!["no node told what it applied".to_owned()];
        };
        for (name, sequence) in sequences {
            if let Some(at) = first_difference(first, sequence) {
                violations.add(
                    "order",
                    format!(
                        "{first_name} and {name} differ from place {at} on: {:?} and {:?}",
                        first.get(at),
                        sequence.get(at)
                    ),
                );
            }
        }
        let outcomes = self.outcomes.lock().unwrap();
        let mut applied: HashMap<u64, u64> = HashMap::with_capacity(first.len());
        let mut last = None;
        for (id, index) in first {
            if last >= Some(*index) {
                violations.add("index", format!("index {index} follows {last:?}"));
            }
            last = Some(*index);
            if let Some(before) = applied.insert(*id, *index) {
                violations.add("twice", format!("{id} is applied at {before} and {index}"));
            }
            match outcomes.get(id) {
                None => violations.add("invented", format!("{id} was never proposed")),
                Some(Outcome::Refused) => {
                    violations.add(
                        "refused",
                        format!("{id} was refused, and applied at {index}"),
                    );
                }
                Some(Outcome::Applied { index: told }) if told != index => violations.add(
                    "place",
                    format!("{id} was acknowledged at {told}, and applied at {index}"),
                ),
                Some(_) => {}
            }
        }
        for (id, outcome) in &*outcomes {
            if let Outcome::Applied { index } = outcome
                && !applied.contains_key(id)
            {
                violations.add(
                    "lost",
                    format!("{id} was acknowledged at {index}, and is applied nowhere"),
                );
            }
        }
        violations.spelled_out()
    }
}

fn first_difference<T: PartialEq>(left: &[T], right: &[T]) -> Option<usize> {
    let common = left
        .iter()
        .zip(right)
        .position(|(left, right)| left != right);
    common.or_else(|| (left.len() != right.len()).then(|| left.len().min(right.len())))
}

/// By kind, so that one flood does not hide another kind.
#[derive(Default)]
struct Violations(BTreeMap<&'static str, Vec<String>>);

impl Violations {
    fn add(&mut self, kind: &'static str, what: String) {
        self.0.entry(kind).or_default().push(what);
    }

    fn spelled_out(self) -> Vec<String> {
        let mut all = Vec::new();
        for (kind, mut violations) in self.0 {
            let more = violations.len().saturating_sub(SPELLED_OUT);
            violations.truncate(SPELLED_OUT);
            all.extend(violations.into_iter().map(|what| format!("{kind}: {what}")));
            if more > 0 {
                all.push(format!("{kind}: and {more} more"));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proposal 0 at index 3, 1 unknown, 2 refused, 3 at index 7.
    fn history() -> History {
        let history = History::default();
        for outcome in [
            Outcome::Applied { index: 3 },
            Outcome::Unknown,
            Outcome::Refused,
            Outcome::Applied { index: 7 },
        ] {
            let id = history.begin();
            history.end(id, outcome);
        }
        history
    }

    fn check(nodes: &[&[(u64, u64)]]) -> Vec<String> {
        let named = nodes.iter().enumerate();
        let named = named.map(|(number, sequence)| (format!("n{number}"), sequence.to_vec()));
        history().check(&named.collect())
    }

    #[test]
    fn what_agrees_with_the_clients_is_no_violation() {
        for fine in [&[(0, 3), (3, 7)][..], &[(0, 3), (1, 5), (3, 7)]] {
            assert_eq!(check(&[fine, fine]), Vec::<String>::new());
        }
    }

    #[test]
    fn every_kind_of_broken_promise_is_seen() {
        let fine = [(0, 3), (3, 7)];
        for (kind, broken) in [
            ("order", vec![(3, 7), (0, 3)]),
            ("order", vec![(0, 3)]),
            ("index", vec![(0, 3), (3, 7), (1, 7)]),
            ("twice", vec![(0, 3), (3, 7), (0, 9)]),
            ("twice", vec![(0, 3), (1, 5), (1, 6), (3, 7)]),
            ("invented", vec![(0, 3), (3, 7), (9, 9)]),
            ("refused", vec![(0, 3), (2, 5), (3, 7)]),
            ("place", vec![(0, 3), (3, 8)]),
            ("lost", vec![(0, 3)]),
        ] {
            let violations = match kind {
                "order" => check(&[&fine, &broken]),
                _ => check(&[&broken, &broken]),
            };
            let expected = format!("{kind}:");
            let seen = violations.iter().any(|text| text.starts_with(&expected));
            assert!(seen, "{kind} {broken:?}: {violations:?}");
        }
        assert_ne!(check(&[]), Vec::<String>::new(), "no dump is no proof");
    }
}
