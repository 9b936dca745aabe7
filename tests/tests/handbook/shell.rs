//! One bash for a page, in namespaces of its own. It runs scripts one after the other, each with a
//! deadline; what they define stays defined.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tempfile::TempDir;
use tests::bin_dir;

/// A command of the handbook that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// What pages may use in their `before:` comments.
const PRELUDE: &str = r#"
wait_for() {  # COMMAND: until it succeeds
    for _ in $(seq 600); do
        if eval "$*" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    echo "never came true: $*"; return 1
}
start_cluster() {  # as `make run` does
    palisaded dev >dev.out 2>&1 &
    wait_for grep -q ready dev.out
}
"#;

/// What a script did.
pub struct Done {
    pub status: i32,
    /// Standard output and standard error.
    pub output: String,
}

/// A shell; dropping it ends everything that was started in it.
pub struct Shell {
    process: Child,
    input: ChildStdin,
    statuses: Receiver<String>,
    folder: TempDir,
    private: TempDir,
    scripts: usize,
}

impl Shell {
    /// `None` where the system allows no namespaces.
    pub fn start(repository: &Path) -> Option<Self> {
        if !unshare()
            .arg("true")
            .status()
            .is_ok_and(|status| status.success())
        {
            return None;
        }
        let folder = TempDir::with_prefix("palisade-handbook-").unwrap();
        let (programs, path) = (bin_dir(), std::env::var("PATH").unwrap());
        let examples = programs.join("examples");
        let path = format!("{}:{}:{path}", programs.display(), examples.display());
        let mut command = unshare();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PALISADE_") {
                command.env_remove(name);
            }
        }
        let mut process = command
            .args([
                "bash",
                "-c",
                "ip link set lo up && exec bash --noprofile --norc",
            ])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("HOME", folder.path())
            .env("REPOSITORY", repository)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (say, statuses) = sync_channel(1);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        let mut shell = Self {
            input: process.stdin.take().unwrap(),
            process,
            statuses,
            folder,
            private: TempDir::with_prefix("palisade-handbook-shell-").unwrap(),
            scripts: 0,
        };
        assert_eq!(shell.run(PRELUDE, true).status, 0);
        Some(shell)
    }

    /// Runs a script in this shell. With `every_status`, the first of its commands that fails decides
    /// about its status, else the last of all.
    pub fn run(&mut self, script: &str, every_status: bool) -> Done {
        self.scripts += 1;
        let file = |kind: &str| self.private.path().join(format!("{}.{kind}", self.scripts));
        let (script_file, output) = (file("sh"), file("out"));
        std::fs::write(&script_file, format!("{script}\n")).unwrap();
        let trap = if every_status {
            "__failed=${__failed:-$?}"
        } else {
            ""
        };
        writeln!(
            self.input,
            "set -E; unset __failed; trap '{trap}' ERR; source {} >{} 2>&1 </dev/null; \
             __status=$?; trap - ERR; echo ${{__failed:-$__status}}",
            script_file.display(),
            output.display()
        )
        .unwrap();
        let status = self
            .statuses
            .recv_timeout(LIMIT)
            .map(|status| status.parse().unwrap());
        let output = std::fs::read(&output).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        let status = status.unwrap_or_else(|_| {
            panic!(
                "no end within {LIMIT:?}, or the shell ended, in {}:\n{script}\nwhich printed\n{output}",
                self.folder.path().display()
            )
        });
        Done { status, output }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The first process of the namespace dies with it, and with that one all others.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args([
        "--net",
        "--pid",
        "--mount",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}
