//! Header names and content types of the API.

/// Response header: the position (`index.ordinal`) at which the answer is true.
pub const POSITION_HEADER: &str = "palisade-position";
/// Request header: a position that the answering node must have applied first, so that a client
/// reads its own writes on any node.
pub const MIN_POSITION_HEADER: &str = "palisade-min-position";
/// Request header: how long the server may work on this request, in milliseconds.
pub const TIMEOUT_HEADER: &str = "palisade-timeout-ms";
/// Request header of `GET /v1/events`: the id of the last server-sent event that arrived.
pub const LAST_EVENT_ID_HEADER: &str = "last-event-id";
/// Content type of every request body and of every successful response.
pub const JSON_CONTENT_TYPE: &str = "application/json";
/// Content type of every error (RFC 9457).
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";
