//! How long an entry takes to apply while a snapshot of a large lock table is taken: just before, at
//! the freeze, while the frozen view is held and written by another thread, and after.
//!
//! `cargo bench --profile release -p lock-model --bench freeze` (`make bench-snapshot` runs it).
//! Prints microseconds; promises none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

use lock_model::{
    Acquire, BodyHash, ClusterId, Command, Entry, LeaseId, LockName, LockRequest, LockTable, Mode,
    ModelVersion, Outcome, Owner, RequestId, Response, Settings, Timestamp, Token, Value,
};

const LEASES: u64 = 250_000;
/// Entries of the phases that have no end of their own.
const ENTRIES: u64 = 200_000;
const TTL_MS: u64 = 3_600_000;

struct Bench {
    table: LockTable,
    index: u64,
    random: u64,
    /// What the last acquire got, to be released next.
    held: Option<(LeaseId, Token)>,
}

#[derive(Default)]
struct Phase {
    taken: Vec<Duration>,
}

impl Phase {
    fn print(mut self, name: &str) {
        self.taken.sort_unstable();
        let at = |share: f64| {
            let position = (self.taken.len() as f64 * share) as usize;
            let taken = self.taken[position.min(self.taken.len() - 1)];
            taken.as_secs_f64() * 1e6
        };
        println!(
            "  {name:<34} {:>8} entries  p50 {:>7.1}  p99 {:>7.1}  p99.9 {:>7.1}  worst {:>8.1} us",
            self.taken.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}

fn id(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

impl Bench {
    fn new(value_bytes: usize) -> Self {
        let mut bench = Self {
            table: LockTable::new(),
            index: 0,
            random: 1,
            held: None,
        };
        bench.apply(&Command::Found {
            cluster_id: ClusterId(id(1)),
            token_floor: Token(0),
            settings: Settings::default(),
            model_version: ModelVersion::LATEST,
        });
        for number in 0..LEASES {
            // Every value is another one, as every holder's address is.
            let value = format!("{number:0>value_bytes$}");
            let value = (value_bytes > 0).then(|| Value::new(&value).unwrap());
            let outcome = bench.acquire(LeaseId(id(number)), &format!("lock/{number}"), value);
            assert!(matches!(outcome.response, Response::Granted(_)));
        }
        bench
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let entry = Entry {
            index: self.index,
            // A thousand entries a second.
            now: Timestamp(self.index),
        };
        self.table.apply(entry, command)
    }

    fn acquire(&mut self, lease: LeaseId, lock: &str, value: Option<Value>) -> Outcome {
        let acquire = Acquire {
            lease,
            request: RequestId::new(&self.index.to_string()).unwrap(),
            body: BodyHash(id(self.index)),
            locks: vec![LockRequest {
                lock: LockName::new(lock).unwrap(),
                mode: Mode::Exclusive,
            }],
            ttl_ms: Some(TTL_MS),
            owner: Owner::new("bench").unwrap(),
            wait_ms: 0,
            value,
            lock_delay_ms: 0,
        };
        self.apply(&Command::Acquire(acquire))
    }

    /// An xorshift: the same entries in every run.
    fn any_lease(&mut self) -> LeaseId {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        LeaseId(id(self.random % LEASES))
    }

    /// One of: a renewal, an acquire of a free lock, its release.
    fn entry(&mut self) -> Duration {
        let started = Instant::now();
        match (self.index % 3, self.held.take()) {
            (_, Some((lease, token))) => {
                let tokens = vec![token];
                self.apply(&Command::Release { lease, tokens });
            }
            (0, None) => {
                let lease = self.any_lease();
                let lock = format!("free/{}", self.index);
                match self.acquire(lease, &lock, None).response {
                    Response::Granted(granted) => {
                        self.held = Some((lease, granted.grants[0].token));
                    }
                    other => panic!("{other:?}"),
                }
            }
            _ => {
                let leases = vec![self.any_lease()];
                self.apply(&Command::Renew { leases });
            }
        }
        started.elapsed()
    }

    fn run(&mut self, name: &str, mut goes_on: impl FnMut(u64) -> bool) {
        let mut phase = Phase::default();
        while goes_on(phase.taken.len() as u64) {
            phase.taken.push(self.entry());
        }
        phase.print(name);
    }
}

struct Counting(u64);

impl Write for Counting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn main() {
    for value_bytes in [0, 4096] {
        println!("{LEASES} leases with a lock each, values of {value_bytes} bytes:");
        let mut bench = Bench::new(value_bytes);
        bench.run("no view", |done| done < ENTRIES);
        let started = Instant::now();
        let frozen = bench.table.freeze();
        println!(
            "  the freeze itself: {:.1} us",
            started.elapsed().as_secs_f64() * 1e6
        );
        bench.run("view held (nothing reads it)", |done| done < ENTRIES);
        let writer = std::thread::spawn(move || {
            let started = Instant::now();
            let mut out = BufWriter::with_capacity(1 << 20, Counting(0));
            frozen.write(&mut out).unwrap();
            out.flush().unwrap();
            let bytes = out.get_ref().0;
            let written = started.elapsed();
            drop(frozen);
            (bytes, written, started.elapsed() - written)
        });
        bench.run("view held and written, and dropped", |_| {
            !writer.is_finished()
        });
        let (bytes, written, dropped) = writer.join().unwrap();
        println!(
            "  written: {:.1} MiB in {:.2} s; the view dropped in {:.3} s",
            bytes as f64 / f64::from(1 << 20),
            written.as_secs_f64(),
            dropped.as_secs_f64()
        );
        bench.run("after", |done| done < ENTRIES);
    }
}
