//! Network namespaces as open files, and the programs that know how to set them up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getgid, getuid};
use tokio::io::AsyncWriteExt;

/// How long a program may take that only tells the kernel something.
const LIMIT: Duration = Duration::from_secs(10);

/// Takes the calling thread, and what it starts from now on, to a new network namespace; where that takes
/// more rights than it has, the process to a new user namespace, which a process of one thread can do.
///
/// # Errors
/// Neither is allowed here.
pub(crate) fn isolate() -> Result<(), String> {
    let users = match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => {
            let (user, group) = (getuid(), getgid());
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| {
                    // A group may be mapped by whoever gave up changing them.
                    std::fs::write("/proc/self/setgroups", "deny")?;
                    std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
                    std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))
                })
        }
        Err(error) => Err(error.into()),
    };
    users.map_err(|error| {
        format!(
            "no network namespace can be made ({error}): be root, or allow unprivileged user namespaces \
             (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, \
             user.max_user_namespaces)"
        )
    })
}

/// A network namespace. It lasts as long as this, or a process in it.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// A new one, in which `settle` is called first.
    pub(super) fn new(
        settle: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self, String> {
        // A thread's namespace is its own, and stays for whoever has it open.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            settle()?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().map_err(|_| "a thread panicked".to_owned())?;
        file.map(Namespace)
            .map_err(|error| format!("a network namespace cannot be made: {error}"))
    }

    /// A path by which programs of this user find it while this process has it open.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Takes the calling thread to it.
    #[cfg(test)]
    pub(super) fn enter_thread(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Has a command run in it. It must be started while this lives.
    pub(super) fn enter(&self, command: &mut Command) {
        let file = self.0.try_clone();
        #[expect(
            unsafe_code,
            reason = "the namespace of a child is changed between fork and exec, or by a helper program \
                      that what is preloaded for the child would be loaded into as well"
        )]
        // SAFETY: between fork and exec only `setns` is called, which is async-signal-safe, and errors are
        // made of numbers.
        unsafe {
            command.pre_exec(move || match &file {
                Ok(file) => setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from),
                Err(error) => Err(error.kind().into()),
            });
        }
    }
}

/// Runs a program to its end, in a namespace or here; what it printed.
async fn told(
    program: &str,
    package: &str,
    namespace: Option<&Namespace>,
    arguments: &[&str],
    input: &str,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(namespace) = namespace {
        namespace.enter(&mut command);
    }
    let mut command = tokio::process::Command::from(command);
    let words = |error: io::Error| format!("{program}: {error}");
    let run = async {
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("{program} is not installed (Debian: apt-get install {package})")
                }
                _ => words(error),
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends early says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(words)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} failed: {}", complaint.trim()))
    };
    tokio::time::timeout(LIMIT, run)
        .await
        .unwrap_or_else(|_| Err(format!("{program} takes longer than {} s", LIMIT.as_secs())))
}

/// Devices, addresses and routes: a line for each change.
pub(super) async fn ip(namespace: Option<&Namespace>, changes: &str) -> Result<(), String> {
    told("ip", "iproute2", namespace, &["-batch", "-"], changes)
        .await
        .map(drop)
}

/// Rules for packets.
pub(super) async fn nft(
    namespace: &Namespace,
    arguments: &[&str],
    input: &str,
) -> Result<String, String> {
    told("nft", "nftables", Some(namespace), arguments, input).await
}

/// Sockets.
pub(super) async fn ss(namespace: Option<&Namespace>, arguments: &[&str]) -> Result<(), String> {
    told("ss", "iproute2", namespace, arguments, "")
        .await
        .map(drop)
}
