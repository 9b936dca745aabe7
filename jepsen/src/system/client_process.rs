//! A client in a process of its own, so that SIGSTOP does to it what it does to any program: nobody reads
//! its sockets, its timers are late, and what it was about to do it does when it wakes. The harness
//! writes a call to its standard input and reads what came of it from its standard output, a line of
//! JSON each; it decides what to ask, and writes the history. The process keeps nothing but connections.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jepsen_checker::lock_checks::{EventStream, read_event_streams, write_event_streams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Answer, Call, ClientLinks, WatchEnding, Watched, client_of};
use crate::cluster::{ends_with_this_thread, this_program};

/// The subcommand that is such a process.
const SUBCOMMAND: &str = "client";
/// A refusal: nothing was asked, as there is no process any more that could.
const GONE: &str = "client_process_ended";

/// What the process is told first.
#[derive(Serialize, Deserialize)]
struct Start {
    system: String,
    links: ClientLinks,
}

/// What it is told then.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Say that you run.
    Answer,
    /// Make this call.
    Call {
        node: usize,
        call: Call,
        timeout: Duration,
    },
    /// Listen.
    Watch {
        node: usize,
        after: Option<String>,
        lasts: Duration,
    },
}

/// A [`Watched`], its events as a file of events has them.
#[derive(Serialize, Deserialize)]
struct Told {
    events: String,
    places: Vec<String>,
    place: Option<String>,
    ending: WatchEnding,
}

impl Told {
    fn write(watched: Watched) -> io::Result<Self> {
        let (events, places) = watched.events.into_iter().unzip();
        let stream = EventStream {
            node: "told".into(),
            events,
        };
        let mut lines = Vec::new();
        write_event_streams(&[stream], &mut lines)?;
        Ok(Told {
            events: String::from_utf8(lines).map_err(io::Error::other)?,
            places,
            place: watched.place,
            ending: watched.ending,
        })
    }

    fn read(self) -> io::Result<Watched> {
        let streams = read_event_streams(&self.events).map_err(io::Error::other)?;
        let events = streams.into_iter().flat_map(|stream| stream.events);
        Ok(Watched {
            events: events.zip(self.places).collect(),
            place: self.place,
            ending: self.ending,
        })
    }
}

/// Does what standard input says, one line after the other, until it ends.
pub(crate) async fn serve() -> io::Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let Some(start) = orders.next_line().await? else {
        return Ok(());
    };
    let Start { system, links } = serde_json::from_str(&start)?;
    let mut client = client_of(&system, links).map_err(io::Error::other)?;
    while let Some(order) = orders.next_line().await? {
        let line = match serde_json::from_str(&order)? {
            Order::Answer => serde_json::to_string(&()),
            Order::Call {
                node,
                call,
                timeout,
            } => serde_json::to_string(&client.call(node, &call, timeout).await),
            Order::Watch { node, after, lasts } => {
                let watched = client.watch(node, after.as_deref(), lasts).await;
                serde_json::to_string(&Told::write(watched)?)
            }
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line?)?;
        out.flush()?;
    }
    Ok(())
}

/// What can be done to a client's process by others than its user.
#[derive(Clone, Debug)]
pub(crate) struct ClientHandle(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    Runs(Pid),
    /// Nobody uses it any more; its id may be another process's.
    Over,
    /// It should not have.
    Ended(String),
}

impl ClientHandle {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // Under the lock: before it is let go of, the process has not been waited for.
        self.with(|state| match state {
            State::Runs(pid) => kill(*pid, signal).map_err(io::Error::from),
            State::Over | State::Ended(_) => Ok(()),
        })
    }

    /// SIGSTOP. Nothing happens to one that has ended.
    pub(crate) fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT. Nothing happens to one that has ended.
    pub(crate) fn resume(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Why it has ended although nobody wanted that, if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.with(|state| match state {
            State::Runs(_) | State::Over => None,
            State::Ended(why) => Some(why.clone()),
        })
    }
}

/// One client. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct ClientProcess {
    handle: ClientHandle,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl ClientProcess {
    /// Starts one for the system of this name. Call it from a thread that lives as long as the process
    /// is to.
    pub(crate) async fn start(system: &str, links: ClientLinks) -> io::Result<Self> {
        let mut command = this_program();
        // Ctrl-C at a terminal is for the harness, which ends its run in order.
        command.process_group(0);
        ends_with_this_thread(&mut command);
        let mut child = Command::from(command)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let mut process = ClientProcess {
            handle: ClientHandle(Arc::new(Mutex::new(State::Runs(Pid::from_raw(
                pid.cast_signed(),
            ))))),
            orders: child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?,
            answers: BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines(),
            child,
        };
        let system = system.to_owned();
        process.write(&Start { system, links }).await?;
        process.ask::<()>(&Order::Answer).await?;
        Ok(process)
    }

    /// By which others stop it.
    pub(crate) fn handle(&self) -> ClientHandle {
        self.handle.clone()
    }

    /// Waits until the process runs: at once, unless it is stopped.
    pub(crate) async fn runs(&mut self) {
        // One that has ended is told by its handle.
        let _ = self.ask::<()>(&Order::Answer).await;
    }

    /// One attempt at one node, as [`super::Client::call`].
    pub(crate) async fn call(&mut self, node: usize, call: &Call, timeout: Duration) -> Answer {
        if self.handle.ended().is_some() {
            return Answer::refused(GONE);
        }
        let call = call.clone();
        let order = Order::Call {
            node,
            call,
            timeout,
        };
        let answer = self.ask(&order).await;
        answer.unwrap_or_else(|why| Answer::unknown(format!("the client's process: {why}")))
    }

    /// Listens at one node, as [`super::Client::watch`].
    pub(crate) async fn watch(
        &mut self,
        node: usize,
        after: Option<&str>,
        lasts: Duration,
    ) -> Watched {
        let after = after.map(String::from);
        let order = Order::Watch { node, after, lasts };
        let told = self.ask::<Told>(&order).await.and_then(Told::read);
        told.unwrap_or_else(|why| Watched::nothing(WatchEnding::Broken(why.to_string())))
    }

    async fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> io::Result<T> {
        if let Some(why) = self.handle.ended() {
            return Err(io::Error::other(why));
        }
        let asked = async {
            self.write(order).await?;
            let line = self.answers.next_line().await?;
            let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
            serde_json::from_str(&line).map_err(io::Error::from)
        };
        match asked.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.end(&error).await),
        }
    }

    async fn write(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.orders.write_all(&line).await
    }

    /// It cannot be talked to: whatever it still does, it does no more.
    async fn end(&mut self, error: &io::Error) -> io::Error {
        self.handle
            .with(|state| *state = State::Ended(error.to_string()));
        let status = match self.child.kill().await {
            Ok(()) => self.child.wait().await,
            Err(error) => Err(error),
        };
        let why = match status {
            Ok(status) => format!("{error}, {status}"),
            Err(other) => format!("{error}, {other}"),
        };
        self.handle.with(|state| *state = State::Ended(why.clone()));
        io::Error::other(why)
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        // The runtime kills the child and waits for it.
        self.handle.with(|state| {
            if matches!(state, State::Runs(_)) {
                *state = State::Over;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use jepsen_checker::lock_checks::{LockEvent, LockEventKind};
    use jepsen_checker::{Position, Value};

    use super::*;

    #[test]
    fn what_a_listener_was_told_arrives_as_it_was() {
        let event = LockEvent {
            position: Position {
                index: 7,
                ordinal: 1,
            },
            kind: LockEventKind::Granted,
            lock: Value::text("a"),
            token: Some(1 << 50),
            lease: Some("l".into()),
            request: None,
        };
        for events in [vec![], vec![(event, "7.1@c".to_owned())]] {
            let watched = Watched {
                events,
                place: Some("9.0@c".to_owned()),
                ending: WatchEnding::Gone,
            };
            let told = Told::write(watched.clone()).unwrap();
            let line = serde_json::to_string(&told).unwrap();
            assert!(!line.contains('\n'));
            let read = serde_json::from_str::<Told>(&line).unwrap().read().unwrap();
            assert_eq!(
                (read.events, read.place, read.ending),
                (watched.events, watched.place, watched.ending)
            );
        }
    }
}
