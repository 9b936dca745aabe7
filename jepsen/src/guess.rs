//! Tells formats and models where only one is possible. What is guessed is said in the output.

use jepsen_checker::History;
use jepsen_checker::format::Format;
use jepsen_checker::models::AnyModel;

/// The format of an input, by its first character that is no space.
pub(crate) fn format(input: &[u8]) -> Result<Format, String> {
    let start = input.trim_ascii_start();
    let rest = start.get(1..).unwrap_or_default().trim_ascii_start();
    match start.first() {
        None => Err("the history is empty".to_owned()),
        Some(b'{') if rest.first() == Some(&b'"') => Ok(Format::JsonLines),
        Some(b'{' | b'[' | b'(' | b';') => Ok(Format::Edn),
        Some(_) if start.starts_with(b"INFO") => Ok(Format::Etcd),
        Some(_) => Err("line 1 does not tell the format; name it with --format".to_owned()),
    }
}

/// The model of a history, by its operations.
pub(crate) fn model(history: &History) -> Result<AnyModel, String> {
    let mut functions: Vec<&str> = history
        .operations()
        .iter()
        .map(|operation| &*operation.function)
        .collect();
    functions.sort_unstable();
    functions.dedup();
    let only = |known: &[&str]| functions.iter().all(|function| known.contains(function));
    let name = if functions.is_empty() {
        return Err("no operation tells the model; name it with --model".to_owned());
    } else if only(&["read", "write"]) {
        "register"
    } else if only(&["read", "write", "cas"]) {
        "cas-register"
    } else if only(&["get", "put", "append"]) {
        "kv"
    } else {
        return Err(format!(
            "the operations ({}) do not tell the model; name one with --model: {}",
            functions.join(", "),
            AnyModel::NAMES.join(", ")
        ));
    };
    name.parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jepsen_checker::FailMeaning;
    use jepsen_checker::format::read_edn;

    #[test]
    fn formats_are_told_by_how_they_begin() {
        for (text, expected) in [
            ("\n {\"process\": 0", Some(Format::JsonLines)),
            ("{ \"process\": 0", Some(Format::JsonLines)),
            ("{:process 0", Some(Format::Edn)),
            ("; a comment\n[{:process", Some(Format::Edn)),
            ("INFO  jepsen.util - 0\t:invoke", Some(Format::Etcd)),
            ("", None),
            ("process,type", None),
        ] {
            assert_eq!(format(text.as_bytes()).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn models_are_told_by_operations_that_only_one_has() {
        for (functions, expected) in [
            (&["read", "write"][..], Some("register")),
            (&["read", "cas"], Some("cas-register")),
            (&["put", "append"], Some("kv")),
            (&["acquire", "release"], None),
            (&["read", "put"], None),
            (&[], None),
        ] {
            let lines: String = (0..)
                .zip(functions)
                .map(|(process, f)| {
                    format!("{{:process {process} :type :invoke :f :{f} :value nil}}\n")
                })
                .collect();
            let history = read_edn(lines.as_bytes(), FailMeaning::DidNotHappen).unwrap();
            let expected: Option<AnyModel> = expected.map(|name| name.parse().unwrap());
            assert_eq!(model(&history).ok(), expected, "{functions:?}");
        }
    }
}
