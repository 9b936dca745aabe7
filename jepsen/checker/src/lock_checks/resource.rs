//! What the lock is for: a resource that several holders read and write, one after the other. Finds
//! writes that were lost, and stale tokens that were let in. Judges nothing but the resource.

use std::collections::{HashMap, HashSet};

use super::record::name;
use super::{CheckReport, Conclusion};
use crate::{EventIndex, History, Malformed, Operation, OperationId, Outcome, Value};

/// A resource that refuses stale tokens loses no update: every accepted write knows the one before
/// it, tokens never fall, and the last value leads back through every acknowledged write.
///
/// # Errors
///
/// The first write without `token`, `saw` and `wrote`.
pub fn guarded_resource(history: &History) -> Result<CheckReport, Malformed> {
    let mut report = CheckReport::new(
        "guarded resource",
        "a resource that refuses stale tokens loses no update",
    );
    for resource in Resource::read_all(history, "guarded-read", "guarded-write")? {
        resource.lost_updates(history, &mut report);
        resource.stale_tokens(history, &mut report);
    }
    Ok(report.conclude("the history writes no guarded resource"))
}

/// A control: a resource that takes every write must lose updates under faults, or the run could
/// not have seen any elsewhere. Passes when updates were lost; *unknown* when none were.
///
/// # Errors
///
/// The first write without `saw` and `wrote`.
pub fn unguarded_resource(history: &History) -> Result<CheckReport, Malformed> {
    let mut report = CheckReport::new(
        "unguarded resource",
        "the control, a resource that takes every write, loses updates",
    );
    for resource in Resource::read_all(history, "unguarded-read", "unguarded-write")? {
        resource.lost_updates(history, &mut report);
    }
    report.conclusion = if report.findings_in_all > 0 {
        Conclusion::Pass
    } else {
        Conclusion::Unknown(if report.examined == 0 {
            "the history writes no unguarded resource".to_owned()
        } else {
            "the control lost no update, so this run could not have seen one elsewhere either"
                .to_owned()
        })
    };
    Ok(report)
}

struct Write {
    operation: OperationId,
    token: Option<u64>,
    saw: Value,
    wrote: Value,
    invoked: EventIndex,
    /// When it was acknowledged; none if nobody knows.
    acknowledged: Option<EventIndex>,
}

struct Read {
    operation: OperationId,
    token: Option<u64>,
    value: Value,
    invoked: EventIndex,
    completed: EventIndex,
}

struct Resource {
    key: Value,
    /// By invocation; refused ones are left out.
    writes: Vec<Write>,
    reads: Vec<Read>,
}

impl Resource {
    fn read_all(history: &History, read: &str, write: &str) -> Result<Vec<Self>, Malformed> {
        let mut index: HashMap<Value, usize> = HashMap::new();
        let mut resources: Vec<Resource> = Vec::new();
        for operation in history.operations() {
            let is_write = &*operation.function == write;
            if !is_write && &*operation.function != read {
                continue;
            }
            let key = operation.key.clone().unwrap_or_default();
            let at = *index.entry(key.clone()).or_insert_with(|| {
                resources.push(Resource {
                    key,
                    writes: Vec::new(),
                    reads: Vec::new(),
                });
                resources.len() - 1
            });
            if is_write {
                resources[at].add_write(history, operation)?;
            } else if let (Outcome::Ok(value), Some(completed)) =
                (&operation.outcome, operation.completion)
            {
                resources[at].reads.push(Read {
                    operation: operation.id,
                    token: token(operation),
                    value: value.clone(),
                    invoked: operation.invocation,
                    completed,
                });
            }
        }
        Ok(resources)
    }

    fn add_write(&mut self, history: &History, operation: &Operation) -> Result<(), Malformed> {
        let field = |name| {
            operation.input.field(name).cloned().ok_or_else(|| {
                let line = history.event(operation.invocation).line;
                Malformed::new(line, format!("`{}` says no `{name}`", operation.function))
            })
        };
        if matches!(operation.outcome, Outcome::Fail(_)) {
            return Ok(());
        }
        if operation.function.starts_with("guarded") {
            field("token")?;
        }
        self.writes.push(Write {
            operation: operation.id,
            token: token(operation),
            saw: field("saw")?,
            wrote: field("wrote")?,
            invoked: operation.invocation,
            acknowledged: match operation.outcome {
                Outcome::Ok(_) => operation.completion,
                Outcome::Fail(_) | Outcome::Info => None,
            },
        });
        Ok(())
    }

    /// Two writes over the same value: the second never saw the first. And acknowledged writes that
    /// the value read last does not lead back to.
    fn lost_updates(&self, history: &History, report: &mut CheckReport) {
        let mut over: HashMap<&Value, &Write> = HashMap::new();
        let mut lost: HashSet<OperationId> = HashSet::new();
        let acknowledged = self
            .writes
            .iter()
            .filter(|write| write.acknowledged.is_some());
        for write in acknowledged.clone() {
            report.examined += 1;
            if let Some(other) = over.insert(&write.saw, write) {
                lost.insert(other.operation);
                report.find(
                    [other.operation, write.operation],
                    format!(
                        "{} and {} both wrote {} over {}: one of them is lost",
                        name(history, other.operation),
                        name(history, write.operation),
                        self.key,
                        write.saw
                    ),
                );
            }
        }
        let Some(last) = self.reads.iter().max_by_key(|read| read.invoked) else {
            return;
        };
        let by_value: HashMap<&Value, &Write> = self
            .writes
            .iter()
            .map(|write| (&write.wrote, write))
            .collect();
        let mut behind: HashSet<&Value> = HashSet::new();
        let mut value = &last.value;
        while let Some(write) = by_value.get(value).filter(|_| behind.insert(value)) {
            value = &write.saw;
        }
        for write in acknowledged {
            let before = write.acknowledged.is_some_and(|at| at < last.invoked);
            if before && !behind.contains(&write.wrote) && lost.insert(write.operation) {
                report.find(
                    [write.operation, last.operation],
                    format!(
                        "{} wrote {}, but {} read {} of {}, which does not follow from it",
                        name(history, write.operation),
                        write.wrote,
                        name(history, last.operation),
                        last.value,
                        self.key
                    ),
                );
            }
        }
    }

    /// An access with a smaller token than one that was let in before it began.
    fn stale_tokens(&self, history: &History, report: &mut CheckReport) {
        let writes = self.writes.iter().filter_map(|write| {
            Some((
                write.invoked,
                write.acknowledged?,
                write.token?,
                write.operation,
            ))
        });
        let reads = self
            .reads
            .iter()
            .filter_map(|read| Some((read.invoked, read.completed, read.token?, read.operation)));
        let mut by_invocation: Vec<_> = writes.chain(reads).collect();
        by_invocation.sort_unstable();
        let mut by_completion = by_invocation.clone();
        by_completion.sort_unstable_by_key(|(_, completed, ..)| *completed);
        let mut completed = by_completion.into_iter().peekable();
        let mut largest: Option<(u64, OperationId)> = None;
        for (invoked, _, token, operation) in by_invocation {
            while let Some((_, _, its, by)) = completed.next_if(|(_, at, ..)| *at < invoked) {
                largest = largest.max(Some((its, by)));
            }
            if let Some((seen, by)) = largest.filter(|(seen, _)| *seen > token) {
                report.find(
                    [by, operation],
                    format!(
                        "{} let {} in with token {token}, after {} with {seen}",
                        self.key,
                        name(history, operation),
                        name(history, by)
                    ),
                );
            }
        }
    }
}

fn token(operation: &Operation) -> Option<u64> {
    operation
        .input
        .field("token")?
        .as_integer()?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::tests::Script;

    fn guarded(script: &Script) -> CheckReport {
        guarded_resource(&script.history()).unwrap()
    }

    #[test]
    fn writes_that_follow_each_other_lose_nothing() {
        let mut script = Script::new();
        script.call(1, "guarded-read", "r", "{:token 1}", "nil");
        script.call(
            1,
            "guarded-write",
            "r",
            "{:token 1, :saw nil, :wrote 10}",
            "nil",
        );
        let stale = script.invoke(1, "guarded-write", "r", "{:token 1, :saw nil, :wrote 11}");
        script.call(2, "guarded-read", "r", "{:token 2}", "10");
        script.fail(stale, "token_stale");
        let unknown = script.invoke(2, "guarded-write", "r", "{:token 2, :saw 10, :wrote 20}");
        script.info(unknown);
        script.call(
            3,
            "guarded-write",
            "r",
            "{:token 3, :saw 20, :wrote 30}",
            "nil",
        );
        script.call(3, "guarded-read", "r", "{:token 3}", "30");
        let report = guarded(&script);
        assert_eq!(report.conclusion, Conclusion::Pass, "{report:?}");
        assert_eq!(report.examined, 2);
    }

    #[test]
    fn two_writes_over_the_same_value_are_a_lost_update() {
        let mut script = Script::new();
        script.call(
            1,
            "guarded-write",
            "r",
            "{:token 2, :saw nil, :wrote 10}",
            "nil",
        );
        script.call(
            2,
            "guarded-write",
            "r",
            "{:token 2, :saw nil, :wrote 20}",
            "nil",
        );
        let report = guarded(&script);
        assert_eq!(report.findings_in_all, 1, "{report:?}");
        assert!(report.findings[0].words.contains("one of them is lost"));
    }

    #[test]
    fn an_acknowledged_write_that_no_later_value_follows_from_is_lost() {
        let mut script = Script::new();
        script.call(
            1,
            "guarded-write",
            "r",
            "{:token 1, :saw nil, :wrote 10}",
            "nil",
        );
        let unknown = script.invoke(2, "guarded-write", "r", "{:token 2, :saw nil, :wrote 20}");
        script.info(unknown);
        script.call(3, "guarded-read", "r", "{:token 3}", "20");
        let report = guarded(&script);
        assert_eq!(report.findings_in_all, 1, "{report:?}");
        assert!(report.findings[0].words.contains("does not follow"));
    }

    #[test]
    fn a_stale_token_that_is_let_in_is_found_on_reads_too() {
        let mut script = Script::new();
        script.call(
            2,
            "guarded-write",
            "r",
            "{:token 2, :saw nil, :wrote 10}",
            "nil",
        );
        script.call(1, "guarded-read", "r", "{:token 1}", "10");
        let report = guarded(&script);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert!(
            report.findings[0].words.contains("with token 1, after"),
            "{report:?}"
        );
    }

    #[test]
    fn the_control_passes_by_losing_updates() {
        let mut script = Script::new();
        script.call(1, "unguarded-write", "u", "{:saw nil, :wrote 10}", "nil");
        let report = unguarded_resource(&script.history()).unwrap();
        assert!(
            matches!(report.conclusion, Conclusion::Unknown(_)),
            "{report:?}"
        );
        script.call(2, "unguarded-write", "u", "{:saw nil, :wrote 20}", "nil");
        let report = unguarded_resource(&script.history()).unwrap();
        assert_eq!(report.conclusion, Conclusion::Pass);
        assert_eq!(report.findings_in_all, 1);
        assert!(matches!(
            guarded(&script).conclusion,
            Conclusion::Unknown(_)
        ));
    }

    #[test]
    fn a_write_that_does_not_say_what_it_saw_is_malformed() {
        let mut script = Script::new();
        script.call(1, "guarded-write", "r", "{:token 1, :wrote 10}", "nil");
        let error = guarded_resource(&script.history()).unwrap_err();
        assert!(error.problem.contains("says no `saw`"), "{error}");
    }
}
