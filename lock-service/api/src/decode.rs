//! Decoding of request bodies with errors that name the field.

use serde::de::DeserializeOwned;

/// A body that is not the request it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct InvalidRequest {
    /// The field that is wrong, as a path (`ttl_ms`, `leases[3]`); `None` when the body as a whole
    /// is.
    pub field: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// Decodes a JSON request body.
///
/// # Errors
/// [`InvalidRequest`] names the field that is unknown, missing, duplicate, out of range or of the
/// wrong type.
pub fn decode_request<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidRequest> {
    // serde would take an array for a struct, field by field.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(InvalidRequest {
            field: None,
            detail: "expected a JSON object".to_owned(),
        });
    }
    let deserializer = &mut serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut *deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        let detail = without_location(&error.to_string());
        let field = match error.classify() {
            serde_json::error::Category::Data => quoted_field(&detail).or(Some(path)),
            _ => Some(path),
        };
        // `.` is the path of the body itself, `?` of what the parser could not name.
        let field = field.filter(|path| !matches!(path.as_str(), "." | "?"));
        let detail = match &field {
            Some(field) if quoted_field(&detail).is_none() => format!("`{field}`: {detail}"),
            _ => detail,
        };
        InvalidRequest { field, detail }
    })?;
    deserializer.end().map_err(|error| InvalidRequest {
        field: None,
        detail: without_location(&error.to_string()),
    })?;
    Ok(value)
}

/// serde's words for a missing, unknown or duplicate field begin with the fact and quote its name;
/// the path of such an error is that of the object around it.
fn quoted_field(detail: &str) -> Option<String> {
    let rest = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| detail.strip_prefix(start))?;
    rest.split('`').next().map(str::to_owned)
}

/// serde_json ends its messages with the place in the text, which says little about one line.
fn without_location(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcquireRequest, CreateLeaseRequest, ReleaseRequest, RenewRequest};

    fn refused<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> InvalidRequest {
        decode_request::<T>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn bad_numbers_are_refused_by_field() {
        for number in [
            "0",
            "-1",
            "100000000000000000000",
            "1e20",
            "1.5",
            "\"15s\"",
            "[]",
            "true",
        ] {
            let body = format!(r#"{{"lock":"a","ttl_ms":{number}}}"#);
            let error = refused::<AcquireRequest>(&body);
            assert_eq!(error.field.as_deref(), Some("ttl_ms"), "{body}: {error}");
            assert!(error.detail.contains("ttl_ms"), "{error}");
            let error = refused::<CreateLeaseRequest>(&format!(r#"{{"ttl_ms":{number}}}"#));
            assert_eq!(error.field.as_deref(), Some("ttl_ms"), "{body}: {error}");
        }
        for number in ["-1", "100000000000000000000", "null", "{}"] {
            let error = refused::<AcquireRequest>(&format!(r#"{{"lock":"a","wait_ms":{number}}}"#));
            assert_eq!(error.field.as_deref(), Some("wait_ms"));
            let lease = "0".repeat(32);
            let body = format!(r#"{{"lease":"{lease}","tokens":[1,{number}]}}"#);
            assert_eq!(
                refused::<ReleaseRequest>(&body).field.as_deref(),
                Some("tokens[1]")
            );
        }
    }

    fn targets(body: &str) -> Result<Vec<crate::Holding>, InvalidRequest> {
        let request: AcquireRequest = decode_request(body.as_bytes())?;
        let locks = request.targets()?;
        locks.iter().map(crate::LockRequest::holding).collect()
    }

    #[test]
    fn modes_and_locks_that_do_not_fit_together_are_refused_by_field() {
        for (body, field) in [
            (r#"{"lock":"a","mode":"intent"}"#, "mode"),
            (r#"{"lock":"a","mode":7}"#, "mode"),
            (r#"{"lock":"a","lock":"twice"}"#, "lock"),
            (r#"{"lock":"a","colour":"red"}"#, "colour"),
            (r#"{"lock":"a","locks":[{"name":"b"}]}"#, "locks"),
            (r#"{"locks":[]}"#, "locks"),
            (
                r#"{"locks":[{"name":"b"},{"name":"b","mode":"shared"}]}"#,
                "locks",
            ),
            (r#"{"locks":[{"name":"b"}],"mode":"shared"}"#, "mode"),
            (r#"{"locks":[{"name":"b"}],"limit":2}"#, "limit"),
            (
                r#"{"locks":[{"name":"b","mode":"intent"}]}"#,
                "locks[0].mode",
            ),
            (r#"{"locks":[{"name":"b","permits":1}]}"#, "permits"),
            (r#"{"lock":"a","permits":2}"#, "permits"),
            (r#"{"lock":"a","mode":"shared","limit":2}"#, "limit"),
            (r#"{"lock":"a","mode":"permits"}"#, "limit"),
            (r#"{"lock":"a","mode":"permits","limit":0}"#, "limit"),
            (
                r#"{"lock":"a","mode":"permits","limit":2,"permits":3}"#,
                "permits",
            ),
            (
                r#"{"lock":"a","mode":"permits","limit":2,"permits":0}"#,
                "permits",
            ),
            (r#"{"lock":"a","lock_delay_ms":-5}"#, "lock_delay_ms"),
        ] {
            let error = targets(body).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{body}: {error}");
        }
    }

    #[test]
    fn one_lock_or_several_of_any_modes_can_be_asked_for() {
        use crate::Holding::{Exclusive, Permits, Shared};
        for (body, expected) in [
            (r#"{"lock":"a"}"#, vec![Exclusive]),
            (r#"{"lock":"a","mode":"exclusive"}"#, vec![Exclusive]),
            (
                r#"{"lock":"a","mode":"permits","limit":2}"#,
                vec![Permits {
                    permits: 1,
                    limit: 2,
                }],
            ),
            (
                r#"{"locks":[{"name":"b","mode":"shared"},{"name":"a"}]}"#,
                vec![Shared, Exclusive],
            ),
        ] {
            assert_eq!(targets(body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn bad_names_and_secrets_are_refused_by_field() {
        for (body, field) in [
            (r#"{"lock":""}"#.to_owned(), "lock"),
            (r#"{"lock":"a\nb"}"#.to_owned(), "lock"),
            (format!(r#"{{"lock":"{}"}}"#, "a".repeat(513)), "lock"),
            (r#"{"lock":"a","lease":"short"}"#.to_owned(), "lease"),
            (r#"{"lock":"a","lease":5}"#.to_owned(), "lease"),
            (r#"{"lock":"a","request_id":""}"#.to_owned(), "request_id"),
            (
                format!(r#"{{"lock":"a","request_id":"{}"}}"#, "r".repeat(65)),
                "request_id",
            ),
            (
                format!(r#"{{"lock":"a","value":"{}"}}"#, "v".repeat(4097)),
                "value",
            ),
        ] {
            let error = refused::<AcquireRequest>(&body);
            assert_eq!(error.field.as_deref(), Some(field), "{body}: {error}");
        }
        let error = decode_request::<AcquireRequest>(b"{\"lock\":\"a\xff\"}").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("lock"), "{error}");
        let body = format!(r#"{{"leases":["{}","x"]}}"#, "0".repeat(32));
        assert_eq!(
            refused::<RenewRequest>(&body).field.as_deref(),
            Some("leases[1]")
        );
    }

    #[test]
    fn broken_json_is_refused_without_a_panic_and_without_a_trailing_rest() {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "[\"a\"]",
            "7",
            "\"a\"",
            "{\"lock\":\"a\"}x",
            "{\"lock\":\"a\"}{}",
        ] {
            refused::<AcquireRequest>(body);
        }
        let deep = "[".repeat(60_000);
        refused::<AcquireRequest>(&deep);
    }
}
