//! Reads back what `json` wrote of a violation, so that it can be drawn later, and beside another history:
//! the one as it was recorded, when the one that was judged was made from it. It judges nothing.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::format::edn_value;
use crate::{
    Alternative, History, LinearizedCall, OperationId, Origin, PartialLinearization, Value,
    Violation, WhyNot,
};

/// The `violation` of what [`report_json`](super::report_json) made, in terms of a history whose lines
/// are those that the judged history's events came from. An operation is the one that ends on the same
/// line, else the one that begins on it.
///
/// # Errors
///
/// What is missing, or which line is of no operation.
pub fn read_violation(history: &History, violation: &Json) -> Result<Violation, String> {
    let lines = Lines::of(history);
    let stuck = &violation["stuck"];
    let begin = stuck["invocation"]["line"].as_u64();
    let end = stuck["completion"]["line"].as_u64();
    let stuck = lines.operation(begin, end)?;
    let operation = history.operation(stuck);
    let partial = list(violation, "partial_linearizations")?.iter();
    Ok(Violation {
        objects: list(violation, "objects")?
            .iter()
            .filter_map(Json::as_str)
            .map(|object| edn_value(object, 0).map_err(|error| error.problem))
            .collect::<Result<Vec<Value>, _>>()?,
        stuck,
        prefix_end: operation.completion.unwrap_or(operation.invocation),
        partial_linearizations: partial
            .map(|partial| lines.partial(partial))
            .collect::<Result<_, _>>()?,
    })
}

fn list<'j>(json: &'j Json, name: &str) -> Result<&'j Vec<Json>, String> {
    json[name]
        .as_array()
        .ok_or_else(|| format!("the violation has no list `{name}`"))
}

fn words(json: &Json, name: &str) -> String {
    json[name].as_str().unwrap_or_default().to_owned()
}

struct Lines {
    begins: HashMap<u64, OperationId>,
    ends: HashMap<u64, OperationId>,
}

impl Lines {
    fn of(history: &History) -> Self {
        let operations = history.operations().iter();
        Lines {
            begins: operations
                .clone()
                .map(|operation| (history.event(operation.invocation).line, operation.id))
                .collect(),
            ends: operations
                .filter_map(|operation| Some((history.completion(operation)?.line, operation.id)))
                .collect(),
        }
    }

    fn operation(&self, begin: Option<u64>, end: Option<u64>) -> Result<OperationId, String> {
        let ends = end.and_then(|line| self.ends.get(&line));
        let begins = begin.and_then(|line| self.begins.get(&line));
        ends.or(begins).copied().ok_or_else(|| {
            let line = end.or(begin).unwrap_or(0);
            format!("the history has no operation at line {line}")
        })
    }

    fn origin(&self, call: &Json) -> Result<Origin, String> {
        let id = self.operation(call["line"].as_u64(), call["end_line"].as_u64())?;
        Ok(match call["derived"].as_bool() {
            Some(true) => Origin::Derived(id),
            _ => Origin::Operation(id),
        })
    }

    fn partial(&self, partial: &Json) -> Result<PartialLinearization, String> {
        let call = |call: &Json| {
            Ok(LinearizedCall {
                origin: self.origin(call)?,
                call: words(call, "call"),
                state: words(call, "state"),
            })
        };
        let alternative = |alternative: &Json| {
            let states = alternative["leads_nowhere"].as_array();
            Ok(Alternative {
                origin: self.origin(alternative)?,
                call: words(alternative, "call"),
                why: match states {
                    Some(states) => WhyNot::LeadsNowhere {
                        states: states
                            .iter()
                            .filter_map(|state| state.as_str().map(String::from))
                            .collect(),
                    },
                    None => WhyNot::Refused {
                        reason: words(alternative, "refused"),
                    },
                },
            })
        };
        Ok(PartialLinearization {
            calls: list(partial, "calls")?
                .iter()
                .map(call)
                .collect::<Result<_, String>>()?,
            state: words(partial, "state"),
            alternatives: list(partial, "alternatives")?
                .iter()
                .map(alternative)
                .collect::<Result<_, String>>()?,
        })
    }
}
