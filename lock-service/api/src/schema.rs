//! What the wire's own types look like in OpenAPI's words; those of plain structs are derived.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    BlockReason, CancelResult, ClusterId, EndReason, ErrorCode, EventPosition, EventType,
    FenceVerdict, FencingToken, LeaseId, LeaseSecret, LockMode, LockName, LockValue, MemberRole,
    MembershipVersion, NodeId, Owner, Position, RequestId,
};

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .description(Some(description))
}

macro_rules! schemas {
    ($($name:ident: $schema:expr;)*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    $schema.build().into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }
            }
        )*
    };
}

/// Control characters, as JSON's regular expressions name them.
const NO_CONTROLS: &str = r"^[^\u0000-\u001F\u007F-\u009F]*$";

macro_rules! open_enums {
    ($($name:ident: $description:literal;)*) => {
        schemas! {
            $($name: text($description)
                .enum_values(Some($name::ALL.iter().map(|value| value.as_str().to_owned())));)*
        }
    };
}

open_enums! {
    LockMode: "How a lock is held.";
    BlockReason: "Why a lock cannot be granted now.";
    CancelResult: "What a cancel found.";
    FenceVerdict: "What is known of a token: current is a hint, superseded is final.";
    ErrorCode: "What went wrong, for programs. Codes are append-only.";
    EventType: "What happened.";
    EndReason: "Why something ended.";
    MemberRole: "What a member does, by its own account.";
}

schemas! {
    LockName: text("The name of a lock: 1 to 512 bytes of UTF-8 without control characters.")
        .min_length(Some(1)).max_length(Some(512)).pattern(Some(NO_CONTROLS));
    Owner: text("Who took a lease, for people: 1 to 256 bytes of UTF-8 without control characters.")
        .min_length(Some(1)).max_length(Some(256)).pattern(Some(NO_CONTROLS));
    RequestId: text("A request's id, unique within its lease: 1 to 64 bytes of UTF-8 without \
        control characters.")
        .min_length(Some(1)).max_length(Some(64)).pattern(Some(NO_CONTROLS));
    LockValue: text("What a holder shows: at most 4,096 bytes of UTF-8.").max_length(Some(4_096));
    LeaseSecret: text("The secret of a lease: 128 random bits, which nobody else may know.")
        .pattern(Some("^[0-9a-f]{32}$")).format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)));
    LeaseId: text("The id of a lease, a hash of its secret.").pattern(Some("^[0-9a-f]{32}$"));
    ClusterId: text("The id of a cluster.").pattern(Some("^[0-9a-f]{32}$"));
    NodeId: text("The id of a node.").pattern(Some("^[0-9a-f]{1,16}$"));
    MembershipVersion: text("A version of the membership, TERM-INDEX.")
        .pattern(Some("^[0-9]+-[0-9]+$"));
    Position: text("A position, INDEX.ORDINAL: a Raft log index and a number within that entry.")
        .pattern(Some(r"^[0-9]+\.[0-9]+$")).examples(["4711.0"]);
    EventPosition: text("A position, and the cluster that it is of: INDEX.ORDINAL@CLUSTER.")
        .pattern(Some(r"^[0-9]+\.[0-9]+(@.+)?$"));
    FencingToken: ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .description(Some(
            "A fencing token: larger is newer. Those that were issued are below 2^53; a check repeats \
             whatever it was asked about."
        ))
        .minimum(Some(0));
}
