//! Random commands that mean something: leases that exist, tokens that are held, requests that are
//! repeated, so that all rules meet each other. The same seed gives the same commands.

use lock_model::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, LockTable,
    Metadata, Mode, ModelVersion, Owner, RequestId, Settings, Timestamp, Token, Value,
};

/// Sebastiano Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn from<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// An endless log.
pub struct Workload {
    random: Random,
    entry: Entry,
    settings: Settings,
    /// Request ids count up, so that most are new.
    requests: u64,
    /// Some of the last acquires, to be repeated.
    repeatable: Vec<Acquire>,
    clusters: u8,
}

const LEASES: u64 = 9;
const LOCKS: u64 = 5;

impl Workload {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let settings = settings(&mut random);
        Self {
            random,
            entry: Entry {
                index: 0,
                now: Timestamp(0),
            },
            settings,
            requests: 0,
            repeatable: Vec::new(),
            clusters: 1,
        }
    }

    /// The next entry and its command, for a state that is like `table`.
    pub fn next(&mut self, table: &LockTable) -> (Entry, Command) {
        // A log that begins with anything else, so that it is refused.
        let is_first = self.entry.index == 0;
        self.entry.index += 1 + u64::from(self.random.one_in(50));
        let now = table.clock().0;
        let elapsed_ms = match self.random.below(12) {
            0..=4 => 0,
            5..=9 => self.random.below(150),
            10 => self.random.below(1_500),
            // To the very moment at which something is due.
            _ => table
                .next_deadline()
                .map_or(0, |at| at.0.saturating_sub(now)),
        };
        let back_ms = if self.random.one_in(40) { 1_000 } else { 0 };
        self.entry.now = Timestamp((now + elapsed_ms).saturating_sub(back_ms));
        let is_founded = table.cluster_id().is_some();
        let command = if !is_founded && !is_first && !self.random.one_in(4) {
            Command::Found {
                cluster_id: ClusterId([1; 16]),
                token_floor: Token(self.random.below(50)),
                settings: self.settings.clone(),
                model_version: ModelVersion::V1,
            }
        } else {
            self.command(table)
        };
        (self.entry, command)
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId([u8::try_from(self.random.below(LEASES)).unwrap(); 16])
    }

    fn lock(&mut self) -> LockName {
        LockName::new(&format!("lock-{}", self.random.below(LOCKS))).unwrap()
    }

    /// A lease with one of its tokens, most often.
    fn held(&mut self, table: &LockTable) -> (LeaseId, LockName, Token) {
        let lease = self.lease();
        let holds = table.lease(lease).map_or(Vec::new(), |lease| lease.holds);
        let some = self.random.below(holds.len().max(1) as u64);
        match holds.get(usize::try_from(some).unwrap()) {
            Some(hold) if !self.random.one_in(15) => (lease, hold.lock.clone(), hold.token),
            _ => {
                let lowest = table.token_counter().0.saturating_sub(12);
                let token = Token(lowest + self.random.below(14));
                (lease, self.lock(), token)
            }
        }
    }

    fn owner(&mut self) -> &'static str {
        if self.random.one_in(40) {
            "owner!"
        } else {
            "o"
        }
    }

    fn value(&mut self) -> Option<&'static str> {
        let long = self.random.one_in(20);
        self.random
            .from(&[None, Some(if long { "value!" } else { "v" })])
    }

    fn mode(&mut self, lock: &LockName) -> Mode {
        // Each lock is mostly of one kind, or there would be nothing but mismatches.
        let is_pool = lock.as_str().ends_with(['3', '4']) != self.random.one_in(40);
        let limit = if self.random.one_in(80) { 4 } else { 3 };
        match (is_pool, self.random.below(2)) {
            (true, _) => Mode::Permits {
                permits: if self.random.one_in(60) {
                    self.random.from(&[0, 5, u32::MAX])
                } else {
                    self.random.from(&[1, 1, 1, 2, 3])
                },
                limit,
            },
            (false, 0) => Mode::Shared,
            (false, _) => Mode::Exclusive,
        }
    }

    fn acquire(&mut self) -> Acquire {
        if self.random.one_in(5) && !self.repeatable.is_empty() {
            let len = self.repeatable.len() as u64;
            let some = usize::try_from(self.random.below(len)).unwrap();
            let mut acquire = self.repeatable[some].clone();
            if self.random.one_in(10) {
                acquire.body = BodyHash([9; 16]);
            }
            return acquire;
        }
        let count = self
            .random
            .from(&[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4]);
        let count = if self.random.one_in(60) { 0 } else { count };
        let mut locks: Vec<LockRequest> = Vec::new();
        for _ in 0..count {
            let lock = self.lock();
            let is_new = locks.iter().all(|it| it.lock != lock);
            if is_new || self.random.one_in(30) {
                let mode = self.mode(&lock);
                locks.push(LockRequest { lock, mode });
            }
        }
        self.requests += 1;
        let text = |text: &str| Value::new(text).unwrap();
        let acquire = Acquire {
            lease: self.lease(),
            request: RequestId::new(&format!("r{}", self.requests)).unwrap(),
            body: BodyHash([1; 16]),
            locks,
            ttl_ms: if self.random.one_in(8) {
                Some(900)
            } else {
                None
            },
            owner: Owner::new(self.owner()).unwrap(),
            wait_ms: self
                .random
                .from(&[0, 0, 500, 3_000, 3_000, 20_000, u64::MAX]),
            value: self.value().map(text),
            lock_delay_ms: self
                .random
                .from(&[0, 0, 0, 0, 0, 0, 400, 400, 2_000, 9_000]),
        };
        self.repeatable.push(acquire.clone());
        if self.repeatable.len() > 12 {
            self.repeatable.remove(0);
        }
        acquire
    }

    fn command(&mut self, table: &LockTable) -> Command {
        let some_request = |random: &mut Random, requests: u64| {
            let back = random.below(12);
            RequestId::new(&format!("r{}", requests.saturating_sub(back))).unwrap()
        };
        match self.random.below(1_000) {
            0..=449 => Command::Acquire(self.acquire()),
            450..=649 => {
                let (lease, _, token) = self.held(table);
                let mut tokens = vec![token];
                for hold in table.lease(lease).map_or(Vec::new(), |it| it.holds) {
                    if self.random.one_in(3) {
                        tokens.push(hold.token);
                    }
                }
                tokens.truncate(usize::try_from(self.random.below(8)).unwrap());
                Command::Release { lease, tokens }
            }
            650..=749 => {
                let count = self.random.below(5);
                let leases = (0..count).map(|_| self.lease()).collect();
                Command::Renew { leases }
            }
            750..=799 => {
                let lease = self.lease();
                let waits = table.lease(lease).map_or(Vec::new(), |it| it.waits);
                let request = match waits.first() {
                    Some(wait) if self.random.one_in(2) => wait.request,
                    _ => some_request(&mut self.random, self.requests + 2),
                };
                Command::Cancel { lease, request }
            }
            800..=849 => Command::OpenLease {
                lease: self.lease(),
                ttl_ms: self
                    .random
                    .from(&[4_000, 4_000, 4_000, 4_000, 2_000, 900, 40_000]),
                owner: Owner::new(self.owner()).unwrap(),
                metadata: Metadata::default(),
            },
            850..=864 => Command::Revoke {
                lease: self.lease(),
            },
            865..=884 => {
                let (lease, lock, token) = self.held(table);
                let now = self.random.one_in(2);
                Command::ForceRelease {
                    lock,
                    token,
                    lease,
                    now,
                }
            }
            885..=894 => Command::RevokeById {
                lease: self.lease(),
                now: self.random.one_in(2),
            },
            895..=914 => {
                let (lease, _, token) = self.held(table);
                let text = |text: &str| Value::new(text).unwrap();
                let value = self.value().map(text);
                Command::Update {
                    lease,
                    token,
                    value,
                }
            }
            915..=917 => {
                let mut settings = settings(&mut self.random);
                if self.random.one_in(5) {
                    settings.expiry_cap = 0;
                }
                Command::ChangeSettings { settings }
            }
            918 => Command::RaiseModelVersion {
                model_version: ModelVersion::V1,
            },
            919 => {
                self.clusters = self.clusters.wrapping_add(u8::from(self.random.one_in(2)));
                Command::Restore {
                    cluster_id: ClusterId([self.clusters; 16]),
                    token_floor: Token(match self.random.below(4) {
                        0 => Token::MAX.0 + 1,
                        _ => table.token_counter().0 + self.random.below(9),
                    }),
                    hold_ms: self.random.from(&[0, 1_000, 5_000]),
                }
            }
            920 => Command::Found {
                cluster_id: ClusterId([77; 16]),
                token_floor: Token(0),
                settings: self.settings.clone(),
                model_version: ModelVersion::V1,
            },
            _ => Command::Tick,
        }
    }
}

/// Settings under which limits and caps are met now and then.
fn settings(random: &mut Random) -> Settings {
    let leases_max = random.from(&[2, 5, 100, 100]);
    Settings {
        ttl_min_ms: random.from(&[1_000, 1_000, 3_500]),
        ttl_max_ms: random.from(&[30_000, 5_000]),
        ttl_default_ms: 4_000,
        wait_max_ms: 10_000,
        expiry_cap: random.from(&[1, 2, 4, 100]),
        events_max: random.from(&[0, 3, 70, 200]),
        tombstone_ttl_ms: random.from(&[1, 500, 500, 3_000]),
        leases_max,
        tombstones_max: leases_max + random.from(&[0, 1, 50, 50]),
        locks_max: random.from(&[2, 5, 5, 5]),
        queue_max: random.from(&[1, 2, 100, 100]),
        locks_per_lease_max: random.from(&[1, 3, 10, 10]),
        decided_max: random.from(&[1, 3, 64]),
        owner_max_bytes: random.from(&[5, 6]),
        value_max_bytes: random.from(&[5, 6]),
        name_max_bytes: random.from(&[6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5]),
        lock_delay_max_ms: random.from(&[5_000, 60_000]),
        ..Settings::default()
    }
}
