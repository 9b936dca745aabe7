//! The formats that outlive a build: commands in logs, states in snapshots. What an older build
//! wrote must be read for ever, so these bytes never change; a new format gets new bytes beside them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "bytes that cannot be read fail their test"
)]

mod common;

use common::{check_invariants, encode, through_a_snapshot};
use lock_model::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, LockTable,
    Metadata, Mode, ModelVersion, Owner, RequestId, Settings, Timestamp, Token, Value,
};

fn lease(n: u8) -> LeaseId {
    LeaseId([n; 16])
}

fn acquire(n: u8, lock: &str, wait_ms: u64) -> Command {
    Command::Acquire(Acquire {
        lease: lease(n),
        request: RequestId::new("r1").unwrap(),
        body: BodyHash([0xbb; 16]),
        locks: vec![LockRequest {
            lock: LockName::new(lock).unwrap(),
            mode: Mode::Exclusive,
        }],
        ttl_ms: Some(5_000),
        owner: Owner::new("alice").unwrap(),
        wait_ms,
        value: Some(Value::new("here").unwrap()),
        lock_delay_ms: 0,
    })
}

/// Every command, in the order of the variants, and every mode.
fn commands() -> Vec<Command> {
    let request = RequestId::new("r1").unwrap();
    let metadata = Metadata::new([("k".to_owned(), "v".to_owned())].into()).unwrap();
    vec![
        Command::Found {
            cluster_id: ClusterId([7; 16]),
            token_floor: Token(100),
            settings: Settings::default(),
            model_version: ModelVersion::V1,
        },
        Command::Tick,
        Command::OpenLease {
            lease: lease(1),
            ttl_ms: 5_000,
            owner: Owner::new("alice").unwrap(),
            metadata,
        },
        acquire(1, "job", 300),
        Command::Renew {
            leases: vec![lease(1), lease(2)],
        },
        Command::Release {
            lease: lease(1),
            tokens: vec![Token(101)],
        },
        Command::Cancel {
            lease: lease(1),
            request,
        },
        Command::Revoke { lease: lease(1) },
        Command::Update {
            lease: lease(1),
            token: Token(101),
            value: Some(Value::new("here").unwrap()),
        },
        Command::ForceRelease {
            lock: LockName::new("job").unwrap(),
            token: Token(101),
            lease: lease(1),
            now: true,
        },
        Command::RevokeById {
            lease: lease(1),
            now: false,
        },
        Command::ChangeSettings {
            settings: Settings::default(),
        },
        Command::RaiseModelVersion {
            model_version: ModelVersion::V1,
        },
        Command::Restore {
            cluster_id: ClusterId([7; 16]),
            token_floor: Token(100),
            hold_ms: 1_000,
        },
        several(1),
    ]
}

/// For a lock of each mode.
fn several(n: u8) -> Command {
    let Command::Acquire(mut acquire) = acquire(n, "job", 0) else {
        panic!("an acquire is an acquire");
    };
    let permits = Mode::Permits {
        permits: 2,
        limit: 5,
    };
    let locks = [("a", Mode::Exclusive), ("b", Mode::Shared), ("c", permits)];
    acquire.lock_delay_ms = 1_000;
    acquire.locks = locks
        .map(|(lock, mode)| LockRequest {
            lock: LockName::new(lock).unwrap(),
            mode,
        })
        .to_vec();
    Command::Acquire(acquire)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn commands_are_encoded_as_they_always_were() {
    let id = |n: u8| hex(&[n; 16]);
    let (one, two, seven, body) = (id(1), id(2), id(7), id(0xbb));
    let settings = "d00f80dddb019875 80b89929 e807 904e b0ea01 c0843d 40 90a10f c0843d 904e e807 8004 8002 8020 8020 80dddb01";
    let expected = [
        format!("00 {seven} 64 {settings} 01"),
        "01".to_owned(),
        format!("02 {one} 8827 05616c696365 01016b0176"),
        format!("03 {one} 027231 {body} 01036a6f6200 018827 05616c696365 ac02 010468657265 00"),
        format!("04 02{one}{two}"),
        format!("05 {one} 0165"),
        format!("06 {one} 027231"),
        format!("07 {one}"),
        format!("08 {one} 65 010468657265"),
        format!("09 036a6f62 65 {one} 01"),
        format!("0a {one} 00"),
        format!("0b {settings}"),
        "0c 01".to_owned(),
        format!("0d {seven} 64 e807"),
        format!(
            "03 {one} 027231 {body} 03 016100 016201 0163020205 018827 05616c696365 00 \
             010468657265 e807"
        ),
    ];
    assert_eq!(commands().len(), expected.len());
    for (command, expected) in commands().iter().zip(expected) {
        let bytes = postcard::to_stdvec(command).unwrap();
        assert_eq!(hex(&bytes), expected.replace(' ', ""), "{command:?}");
        assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), *command);
    }
}

#[test]
fn a_command_of_another_build_is_an_error_and_not_another_command() {
    assert!(
        postcard::from_bytes::<Command>(&[14]).is_err(),
        "an unknown variant"
    );
    let mut bytes = postcard::to_stdvec(&commands()[0]).unwrap();
    *bytes.last_mut().unwrap() = 2;
    assert!(
        postcard::from_bytes::<Command>(&bytes).is_err(),
        "an unknown model version"
    );
}

/// A state with at least one of everything.
fn table() -> LockTable {
    let mut table = LockTable::new();
    let mut commands = commands();
    commands.truncate(3);
    commands.extend([
        acquire(1, "job", 0),
        acquire(2, "job", 60_000),
        acquire(3, "job", 0),
        acquire(4, "other", 0),
        Command::Cancel {
            lease: lease(1),
            request: RequestId::new("later").unwrap(),
        },
        Command::Release {
            lease: lease(4),
            tokens: vec![Token(102)],
        },
        several(5),
        acquire(6, "held back", 0),
        Command::RevokeById {
            lease: lease(6),
            now: false,
        },
    ]);
    for (index, command) in (1..).zip(&commands) {
        table.apply(
            Entry {
                index,
                now: Timestamp(index * 10),
            },
            command,
        );
    }
    table
}

/// What build 0.1.0 wrote of [`table`].
const SNAPSHOT_OF_FORMAT_1: &str = include_str!("snapshot-format-1.hex");

#[test]
fn a_snapshot_of_format_1_is_read_and_written_as_it_always_was() {
    let table = table();
    let counts = table.counts();
    assert_eq!(
        (
            counts.leases,
            counts.waits,
            counts.tombstones,
            counts.events
        ),
        (3, 1, 3, 9)
    );
    let digits = SNAPSHOT_OF_FORMAT_1.split_whitespace().collect::<String>();
    assert_eq!(hex(&encode(&table)), digits);
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let read = LockTable::read(&mut bytes.as_slice()).unwrap();
    assert_eq!(encode(&read), bytes);
    check_invariants(&read).unwrap();
    through_a_snapshot(&read).unwrap();
}
