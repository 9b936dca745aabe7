//! The guard of docs/fencing.md in a real PostgreSQL, which the test starts. Skipped where
//! PostgreSQL's server is not installed (Debian: `apt-get install postgresql`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown};
use tempfile::TempDir;
use tests::eventually;
use tokio_postgres::{Client, Config, NoTls};

const GUARD: &str = include_str!("../../docs/fencing/guard.sql");
/// What the guard raises for a stale token.
const STALE: &str = "PF001";

/// A server of this test's own: no TCP, a socket in its folder, stopped when dropped.
struct Postgres {
    server: Child,
    folder: TempDir,
}

impl Postgres {
    /// `None` where it is not installed.
    async fn start() -> Option<Self> {
        let Some(programs) = newest_installation() else {
            eprintln!("skipped: PostgreSQL's server is not installed (apt-get install postgresql)");
            return None;
        };
        let folder = TempDir::with_prefix("palisade-postgres-").unwrap();
        let data = folder.path().join("data");
        // It refuses to run as root.
        let user = Uid::effective().is_root().then(|| {
            ["postgres", "nobody"]
                .iter()
                .find_map(|name| User::from_name(name).unwrap())
                .expect("a user to run PostgreSQL as")
        });
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.stdin(Stdio::null()).current_dir(folder.path());
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        };
        let made = command("initdb")
            .args(["--auth=trust", "--username=test", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let server = command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stderr(log)
            .spawn()
            .unwrap();
        let postgres = Self { server, folder };
        let client = eventually("PostgreSQL answers", async || {
            postgres.try_connect().await.ok()
        })
        .await;
        client.batch_execute(GUARD).await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE account (name text PRIMARY KEY, balance bigint NOT NULL);
                 INSERT INTO account VALUES ('billing', 0)",
            )
            .await
            .unwrap();
        Some(postgres)
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = Config::new()
            .host_path(self.folder.path())
            .user("test")
            .dbname("postgres")
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn connect(&self) -> Client {
        self.try_connect().await.unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap());
        // SIGQUIT: at once, without a checkpoint. It takes its own children along.
        kill(pid, Signal::SIGQUIT).unwrap();
        self.server.wait().unwrap();
    }
}

/// The folder of the newest version's programs: Debian's layout, or wherever `initdb` is on the path.
fn newest_installation() -> Option<PathBuf> {
    let holds = |folder: &Path| folder.join("initdb").exists() && folder.join("postgres").exists();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| {
            let version = version.ok()?;
            let number = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .filter(|(_, folder)| holds(folder))
        .collect();
    versions.sort();
    versions.pop().map(|(_, folder)| folder).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| holds(folder))
    })
}

/// Enters the guard; `Err` holds the SQLSTATE.
async fn pass(client: &Client, token: i64) -> Result<(), String> {
    match client
        .execute("SELECT palisade_pass('billing', $1)", &[&token])
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => Err(error
            .code()
            .expect("refused by the server")
            .code()
            .to_owned()),
    }
}

async fn begin(client: &Client) {
    client.batch_execute("BEGIN").await.unwrap();
}

async fn commit(client: &Client) {
    client.batch_execute("COMMIT").await.unwrap();
}

async fn balance(client: &Client) -> i64 {
    let row = client
        .query_one("SELECT balance FROM account WHERE name = 'billing'", &[])
        .await
        .unwrap();
    row.get(0)
}

async fn set_balance(client: &Client, balance: i64) {
    client
        .execute(
            "UPDATE account SET balance = $1 WHERE name = 'billing'",
            &[&balance],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stale_token_changes_nothing_and_the_same_or_a_larger_one_passes() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let client = postgres.connect().await;
    for (token, balance) in [(7, 70), (7, 71), (9, 90)] {
        begin(&client).await;
        pass(&client, token).await.unwrap();
        set_balance(&client, balance).await;
        commit(&client).await;
    }
    begin(&client).await;
    assert_eq!(pass(&client, 8).await.unwrap_err(), STALE);
    // Whoever overlooks the refusal cannot go on in the transaction either.
    let overlooked = client
        .execute("UPDATE account SET balance = 80", &[])
        .await
        .unwrap_err();
    assert_eq!(
        overlooked.code().unwrap(),
        &tokio_postgres::error::SqlState::IN_FAILED_SQL_TRANSACTION
    );
    commit(&client).await;
    assert_eq!(balance(&client).await, 90);
}

/// The control: what happens without a guard, and what the guard makes of the same steps.
#[tokio::test]
async fn a_holder_that_wakes_after_its_lease_loses_an_update_unless_reads_carry_the_token() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let (old, new) = (postgres.connect().await, postgres.connect().await);

    // Unguarded: both have read 0 when both write 1.
    let (old_seen, new_seen) = (balance(&old).await, balance(&new).await);
    set_balance(&new, new_seen + 1).await;
    set_balance(&old, old_seen + 1).await;
    assert_eq!(balance(&new).await, 1, "two increments, one lost");

    // Guarded: the old holder reads and is paused; the new one reads, with its token, before it
    // writes; from then on the old one's write is refused, even though the new one has written nothing.
    begin(&old).await;
    pass(&old, 1).await.unwrap();
    let old_seen = balance(&old).await;
    commit(&old).await;
    begin(&new).await;
    pass(&new, 2).await.unwrap();
    let new_seen = balance(&new).await;
    commit(&new).await;
    begin(&old).await;
    assert_eq!(pass(&old, 1).await.unwrap_err(), STALE);
    commit(&old).await;
    begin(&new).await;
    pass(&new, 2).await.unwrap();
    set_balance(&new, new_seen + 1).await;
    commit(&new).await;
    assert_eq!(
        balance(&new).await,
        old_seen + 1,
        "nothing acknowledged was lost"
    );
}

#[tokio::test]
async fn a_later_holder_waits_for_a_transaction_that_passed_and_sees_what_it_wrote() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let (old, watching) = (postgres.connect().await, postgres.connect().await);
    begin(&old).await;
    pass(&old, 1).await.unwrap();
    let new = postgres.connect().await;
    let later = tokio::spawn(async move {
        begin(&new).await;
        pass(&new, 2).await.unwrap();
        let seen = balance(&new).await;
        commit(&new).await;
        seen
    });
    eventually("the later holder waits in the guard", async || {
        let waiting = watching
            .query(
                "SELECT 1 FROM pg_stat_activity
                 WHERE wait_event_type = 'Lock' AND query LIKE '%palisade_pass%'",
                &[],
            )
            .await
            .unwrap();
        (waiting.len() == 1).then_some(())
    })
    .await;
    set_balance(&old, 10).await;
    commit(&old).await;
    assert_eq!(later.await.unwrap(), 10);
}
