//! Commands and states to measure with.

use std::time::Duration;

use lock_model::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, LockTable,
    Metadata, Mode, ModelVersion, Owner, RequestId, Response, Settings, Timestamp, Token,
};
use rustix::time::{ClockId, clock_gettime};

/// As an allocator for a server should be. That of glibc walks through everything that a dropped
/// copy of a large state freed, in one of the next allocations: up to 30 ms in a single apply.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The processor time that this thread has used, so that other load on the machine is not counted
/// (but for the caches that it takes).
pub fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = now.tv_sec.try_into().unwrap();
    Duration::new(seconds, now.tv_nsec.try_into().unwrap())
}

/// A state and the log that it comes from. The clock moves a millisecond with every thousand
/// entries, as it would at a million entries a second.
pub struct Node {
    pub table: LockTable,
    index: u64,
    random: u64,
}

/// Ids as hashes make them: spread evenly.
pub fn lease_id(n: u64) -> LeaseId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(n).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    LeaseId(bytes)
}

fn mix(n: u64) -> u64 {
    let mixed = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

pub fn acquire(lease: u64, lock: &LockName, request: u64) -> Command {
    Command::Acquire(Acquire {
        lease: lease_id(lease),
        request: RequestId::new(&format!("{request:032x}")).unwrap(),
        body: BodyHash([7; 16]),
        locks: vec![LockRequest {
            lock: lock.clone(),
            mode: Mode::Exclusive,
        }],
        ttl_ms: None,
        owner: Owner::new("").unwrap(),
        wait_ms: 0,
        value: None,
        lock_delay_ms: 0,
    })
}

pub fn release(lease: u64, token: Token) -> Command {
    Command::Release {
        lease: lease_id(lease),
        tokens: vec![token],
    }
}

/// The name of a job among many tenants' jobs.
pub fn lock_name(n: u64) -> LockName {
    LockName::new(&format!("tenants/{:03}/jobs/{n:08}", n % 500)).unwrap()
}

impl Node {
    /// A state with so many explicit leases, each of which holds so many locks. Turns huge pages
    /// off, as the server does.
    pub fn with(leases: u64, locks_each: u64) -> Self {
        rustix::thread::disable_transparent_huge_pages(true).unwrap();
        let mut node = Self {
            table: LockTable::new(),
            index: 0,
            random: 1,
        };
        node.apply(&Command::Found {
            cluster_id: ClusterId([1; 16]),
            token_floor: Token(0),
            settings: Settings {
                locks_max: 10_000_000,
                ..Settings::default()
            },
            model_version: ModelVersion::LATEST,
        });
        for lease in 0..leases {
            node.apply(&Command::OpenLease {
                lease: lease_id(lease),
                ttl_ms: 3_600_000,
                owner: Owner::new(&format!("worker-{lease}")).unwrap(),
                metadata: Metadata::default(),
            });
        }
        for n in 0..leases * locks_each {
            node.acquire_at(n % leases, n);
        }
        node
    }

    pub fn random(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % bound
    }

    pub fn entry(&mut self) -> Entry {
        self.index += 1;
        Entry {
            index: self.index,
            now: Timestamp(self.index / 1_000),
        }
    }

    pub fn apply(&mut self, command: &Command) -> Response {
        let entry = self.entry();
        self.table.apply(entry, command).response
    }

    /// Acquires a free lock. Its token.
    pub fn acquire_at(&mut self, lease: u64, lock: u64) -> Token {
        let command = acquire(lease, &lock_name(lock), lock);
        match self.apply(&command) {
            Response::Granted(granted) => granted.grants[0].token,
            other => panic!("not granted: {other:?}"),
        }
    }
}
