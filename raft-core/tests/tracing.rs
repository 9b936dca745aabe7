//! That the trace of a proposal can be followed from the call to the apply, over two nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use raft_core::{
    Config, EntryContext, MachineError, Member, Node, SnapshotWriter, Start, StateMachine,
};
use tokio::net::TcpListener;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Forgets everything.
struct Sink;

impl StateMachine for Sink {
    type Command = ();
    type Response = ();

    fn apply(&mut self, _: EntryContext, (): ()) -> Result<(), MachineError> {
        Ok(())
    }

    fn freeze(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    fn restore(&self, _: &mut dyn Read) -> io::Result<Self> {
        Ok(Self)
    }
}

/// Something that happened to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    span: &'static str,
    proposal: String,
    what: String,
    index: Option<u64>,
}

/// Keeps what happens inside of spans that name a proposal.
#[derive(Clone, Default)]
struct Steps(Arc<Mutex<Vec<Step>>>);

/// The fields that the test looks at.
#[derive(Default)]
struct Fields {
    proposal: Option<String>,
    message: Option<String>,
    index: Option<u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "index" {
            self.index = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "proposal" => self.proposal = Some(format!("{value:?}")),
            "message" => self.message = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

struct ProposalName(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Steps {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(proposal), Some(span)) = (fields.proposal, context.span(id)) {
            span.extensions_mut().insert(ProposalName(proposal));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else {
            return;
        };
        let extensions = span.extensions();
        let Some(ProposalName(proposal)) = extensions.get() else {
            return;
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push(Step {
            span: span.name(),
            proposal: proposal.clone(),
            what: fields.message.unwrap_or_default(),
            index: fields.index,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_proposal_leaves_one_trace_from_the_call_on_a_follower_to_the_apply() {
    let steps = Steps::default();
    let filtered = steps
        .clone()
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
            metadata.target().starts_with("raft_core")
        }));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filtered)).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (mut listeners, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        peers.push(listener.local_addr().unwrap().to_string());
        listeners.push(listener);
    }
    let starting = listeners.into_iter().zip(&peers).map(|(listener, own)| {
        let start = Start::InitialPeers(peers.clone());
        let config = Config::new(folder.path().join(own), Member::new("node", own), start);
        Node::start(config, listener, Sink, ())
    });
    let nodes = futures::future::try_join_all(starting).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let follower = loop {
        assert!(Instant::now() < deadline, "no leader in time");
        let leads = nodes.iter().position(Node::is_leader);
        if let Some(leads) = leads {
            break &nodes[(leads + 1) % nodes.len()];
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let index = follower.propose(&(), deadline).await.unwrap().index;

    let find = |span: &str, what: &str| {
        let steps = steps.0.lock().unwrap();
        steps
            .iter()
            .position(|step| step.span == span && step.what == what)
    };
    // The leader's last word may come after the follower's answer.
    while find("forwarded_proposal", "applied").is_none() {
        assert!(Instant::now() < deadline, "{:?}", steps.0.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let step = |span, what| find(span, what).unwrap_or_else(|| panic!("{span}: {what}"));
    let sealed = step("forwarded_proposal", "sealed");
    let committed = step("forwarded_proposal", "committed");
    assert!(sealed < step("forwarded_proposal", "handed over"));
    assert!(sealed < committed);
    assert!(committed < step("forwarded_proposal", "applied"));
    assert!(step("proposal", "forwarded") < step("proposal", "answered"));

    let steps = steps.0.lock().unwrap();
    for step in steps.iter() {
        assert_eq!(step.proposal, steps[0].proposal, "{steps:?}");
        assert!(step.index.is_none_or(|own| own == index), "{steps:?}");
    }
    assert_eq!(steps.iter().filter(|step| step.index.is_some()).count(), 3);
}
