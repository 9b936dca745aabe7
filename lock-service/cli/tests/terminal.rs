//! `palisade lock` on a terminal: the command is in its foreground, and gets what is typed there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]
#![allow(
    unsafe_code,
    reason = "a controlling terminal is set between fork and exec"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use serde_json::{Value, json};
use support::fake_server::{FakeServer, Reaction, TOKEN, cancelled, queued};
use support::{healthy, wait_until};

/// `palisade` as the leader of a session with a terminal of its own, and what appears on it.
struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl OnTerminal {
    /// Runs a shell script on the terminal, in which `palisade` is on the path.
    fn start(server: &FakeServer, script: &str) -> Self {
        let pty = openpty(None, None).unwrap();
        let (master, slave) = (File::from(pty.master), File::from(pty.slave));
        let mut command = Command::new("bash");
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_palisade"))
            .parent()
            .unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        command.args(["--norc", "-c", script]).env("PATH", path);
        command.env("PALISADE_ENDPOINTS", &server.endpoint);
        for stream in [Command::stdin, Command::stdout, Command::stderr] {
            stream(&mut command, Stdio::from(slave.try_clone().unwrap()));
        }
        let terminal = slave.as_raw_fd();
        let prepare = move || {
            nix::unistd::setsid()?;
            // SAFETY: a plain system call on an open descriptor.
            match unsafe { nix::libc::ioctl(terminal, nix::libc::TIOCSCTTY, 0) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure only makes system calls.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().unwrap();
        drop((command, slave));
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shown) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self {
            child,
            keyboard: master,
            screen,
        }
    }

    fn wait_for(&self, text: &str) {
        wait_until(text, || self.screen.lock().unwrap().contains(text));
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn end(&mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the session's leader ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        let screen = self.screen.lock().unwrap().clone();
        (status.code(), screen)
    }
}

impl Drop for OnTerminal {
    /// Nothing in the session outlives a test that fails, stopped processes neither.
    fn drop(&mut self) {
        let leader = Pid::from_raw(self.child.id().cast_signed());
        for entry in std::fs::read_dir("/proc").unwrap() {
            let name = entry.unwrap().file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if getsid(Some(Pid::from_raw(pid))) == Ok(leader) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

#[test]
fn the_command_is_in_the_foreground_and_control_c_is_its_own() {
    // Fields of /proc/PID/stat after the name: state, parent, group, session, terminal, foreground.
    let script = r#"exec palisade lock a -- bash -c '
        trap "echo caught; exit 5" INT
        read -r line < /proc/$$/stat; set -- ${line#*) }
        [ "$3" = "$6" ] && echo "foreground $3 of session $4"
        while :; do sleep 0.01; done'"#;
    let server = healthy();
    let mut terminal = OnTerminal::start(&server, script);
    terminal.wait_for("foreground");
    terminal.type_in("\u{3}");
    terminal.wait_for("caught");
    let (status, screen) = terminal.end();
    assert_eq!(status, Some(5), "{screen}");
    assert_eq!(server.requests("/v1/release").len(), 1);
}

/// A lock that alice holds, as `GET /v1/locks` shows it.
fn alices_lock() -> Value {
    json!({
        "lock": "a", "queue": [], "blocked_by": "held", "position": "1.0",
        "holders": [{
            "owner": "alice", "lease_id": "0".repeat(32), "mode": "exclusive", "token": TOKEN,
            "value": null, "age_ms": 1, "remaining_ms": 1,
        }],
    })
}

#[test]
fn tables_have_colour_on_a_terminal_and_nowhere_else() {
    let server = FakeServer::start(|request| {
        assert_eq!(request.path, "/v1/locks?prefix=");
        let page = json!({"locks": [alices_lock()], "next_cursor": null, "position": "1.0"});
        Reaction::Answer(200, page)
    });
    let script = "palisade locks; palisade locks | cat; NO_COLOR=1 palisade locks; \
                  palisade locks --json; exit 7";
    let mut terminal = OnTerminal::start(&server, script);
    let (status, _) = terminal.end();
    assert_eq!(status, Some(7));
    terminal.wait_for("\"lease_id\"");
    let screen = terminal.screen.lock().unwrap().clone();
    assert_eq!(screen.matches("alice").count(), 4, "{screen}");
    assert_eq!(
        screen.matches('\u{1b}').count(),
        2,
        "on and off, once: {screen}"
    );
    assert!(screen.starts_with("\u{1b}[1mLOCK"), "{screen}");
}

#[test]
fn whoever_waits_at_a_terminal_is_told_for_what_and_leaves_the_queue_by_control_c() {
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/v1/acquire" => queued(request),
        "/v1/cancel" => cancelled(),
        "/v1/locks?name=a" => Reaction::Answer(200, alices_lock()),
        other => panic!("nobody should ask for {other}"),
    });
    let mut terminal = OnTerminal::start(&server, "exec palisade lock a --wait 1h -- true");
    terminal.wait_for("waiting for \"a\", held by alice");
    terminal.type_in("\u{3}");
    let (status, screen) = terminal.end();
    assert_eq!(status, Some(130), "{screen}");
    assert_eq!(server.requests("/v1/cancel").len(), 1);
}

#[test]
fn the_terminal_is_taken_back_so_that_the_shell_can_go_on() {
    let script = r#"palisade lock a -- bash -c 'read -r word; echo "got $word"'
        echo "status $?"; read -r word; echo "then $word""#;
    let mut terminal = OnTerminal::start(&healthy(), script);
    terminal.type_in("one\n");
    terminal.wait_for("status 0");
    terminal.type_in("two\n");
    terminal.wait_for("then two");
    let (status, screen) = terminal.end();
    assert_eq!(status, Some(0), "{screen}");
    assert!(screen.contains("got one"), "{screen}");
}

#[test]
fn control_z_stops_the_job_and_the_shell_continues_it() {
    // `set -m` makes the script a shell with job control, as an interactive one is.
    let script = r#"set -m
        palisade lock a -- bash -c 'echo started; read -r word; echo "got $word"'
        echo "stopped with $?"; fg %1 > /dev/null; echo "ended with $?""#;
    let mut terminal = OnTerminal::start(&healthy(), script);
    terminal.wait_for("started");
    terminal.type_in("\u{1a}");
    // 128 and SIGSTOP, by which palisade stops itself.
    terminal.wait_for("stopped with 147");
    terminal.type_in("again\n");
    terminal.wait_for("got again");
    let (_, screen) = terminal.end();
    assert!(screen.contains("ended with 0"), "{screen}");
}
