//! One call = one request, repeated on the cluster's endpoints until there is an answer or the
//! deadline has come. The only place that retries: exponential pauses with full jitter, a budget of
//! retries for the whole client, a circuit breaker for each endpoint (`breaker`).
//!
//! Each failure is either *certain* (the request had no effect) or not. Once one was not, only an
//! answer to the request itself can make the outcome known again; running out of time before that is
//! [`Error::Unknown`].

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lock_api::{ErrorCode, LeaseSecret, Outcome, Problem, RequestId, TOMBSTONE_WINDOW_MS};

use crate::transport::{NoReply, Reply, Transport, WireRequest};
use crate::{AttemptFailure, BootTime, Error};

/// Pauses between rounds over the endpoints: full jitter between zero and a bound that doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A server's wish to be left alone is granted up to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);
/// A lost answer is not asked for again after this: half of the time for which ended leases are
/// remembered.
pub(crate) const REPEAT_WINDOW: Duration = Duration::from_millis(TOMBSTONE_WINDOW_MS / 2);

/// What sending the request twice does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it only reads.
    Read,
    /// The same as sending it once, however late: renewals.
    Repeatable,
    /// The same as sending it once, as long as the cluster remembers it: for its own wait and
    /// [`REPEAT_WINDOW`] after the first sending.
    OnceFor { wait: Duration },
}

/// The request's ids, for the error that may have to name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    pub(crate) lease: Option<LeaseSecret>,
    pub(crate) request_id: Option<RequestId>,
}

/// An answer to the request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    /// When the sending that was answered began.
    pub(crate) sent: BootTime,
    /// Whether no earlier sending can have had an effect.
    pub(crate) first_sending: bool,
}

/// How long one attempt may take, here and on the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptLimit {
    pub(crate) here: Duration,
    pub(crate) server: Duration,
}

impl AttemptLimit {
    /// For a request that does not wait: the server is to answer a little before we hang up.
    pub(crate) fn without_wait(here: Duration) -> Self {
        Self {
            here,
            server: here - here / 10,
        }
    }
}

/// A repeat with less time than this would most likely fail for want of it, and hide why the attempts
/// before it failed.
const SHORTEST_REPEAT: Duration = Duration::from_millis(50);

/// The state of one call over all its attempts.
pub(crate) struct Call<'a> {
    transport: &'a Transport,
    request: WireRequest,
    effect: Effect,
    ids: Ids,
    deadline: BootTime,
    /// Until when some node must have answered something.
    contact_deadline: BootTime,
    contacted: bool,
    /// Sending time of the first attempt that may have had an effect.
    uncertain_since: Option<BootTime>,
    failures: Vec<AttemptFailure>,
    failures_in_row: usize,
    last_endpoint: usize,
    pauses: ExponentialBackoff,
}

enum Verdict {
    Answer,
    Refused(Box<Problem>),
    /// The outcome is unknown and repeating will not tell.
    Hopeless(String),
    Retry {
        uncertain: bool,
        pause: bool,
        at_least: Duration,
        reason: String,
    },
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        transport: &'a Transport,
        request: WireRequest,
        effect: Effect,
        ids: Ids,
        deadline: BootTime,
        contact_timeout: Duration,
    ) -> Self {
        transport.begin_call();
        Self {
            transport,
            request,
            effect,
            ids,
            deadline,
            contact_deadline: transport.now() + contact_timeout,
            contacted: false,
            uncertain_since: None,
            failures: Vec::new(),
            failures_in_row: 0,
            last_endpoint: 0,
            pauses: new_pauses(),
        }
    }

    /// Whether the last attempt was answered, so that the preferred endpoint is known to be well.
    pub(crate) fn endpoint_is_well(&self) -> bool {
        self.contacted && self.failures_in_row == 0
    }

    /// Notes that a sending had an effect which the call is not yet done with (it was queued).
    pub(crate) fn took_effect(&mut self, sent: BootTime) {
        self.uncertain_since.get_or_insert(sent);
    }

    /// Treats an answer that could not be read like one that was lost.
    pub(crate) async fn unreadable(&mut self, sent: BootTime, reason: String) -> Result<(), Error> {
        self.failed(self.last_endpoint, sent, true, true, Duration::ZERO, reason)
            .await
    }

    /// Sends the request, until it is answered or there is no time left.
    ///
    /// `accepted` are statuses beyond 2xx that are answers if their body is not a problem.
    pub(crate) async fn next_answer(
        &mut self,
        limit: AttemptLimit,
        accepted: &[u16],
    ) -> Result<Answer, Error> {
        loop {
            let sent = self.transport.now();
            let remaining = self.end().saturating_since(sent);
            let too_short = remaining < SHORTEST_REPEAT && !self.failures.is_empty();
            if remaining.is_zero() || too_short {
                return Err(self.give_up());
            }
            let endpoint = self.transport.pick();
            self.last_endpoint = endpoint;
            let (here, server) = (limit.here.min(remaining), limit.server.min(remaining));
            let result = self
                .transport
                .attempt(endpoint, &self.request, here, server)
                .await;
            let verdict = match result {
                Ok(reply) => {
                    self.contacted = true;
                    match self.judge(&reply, accepted) {
                        Verdict::Answer => {
                            self.transport.succeeded(endpoint);
                            self.failures_in_row = 0;
                            self.pauses = new_pauses();
                            let first_sending = self.uncertain_since.is_none();
                            return Ok(Answer {
                                reply,
                                sent,
                                first_sending,
                            });
                        }
                        verdict => verdict,
                    }
                }
                Err(NoReply {
                    may_have_arrived,
                    reason,
                }) => Verdict::Retry {
                    uncertain: may_have_arrived,
                    pause: false,
                    at_least: Duration::ZERO,
                    reason,
                },
            };
            match verdict {
                Verdict::Answer => {}
                Verdict::Refused(problem) => {
                    self.transport.succeeded(endpoint);
                    return Err(Error::Refused { problem });
                }
                Verdict::Hopeless(reason) => {
                    self.note(endpoint, reason);
                    self.took_effect(sent);
                    return Err(self.give_up());
                }
                Verdict::Retry {
                    uncertain,
                    pause,
                    at_least,
                    reason,
                } => {
                    self.failed(endpoint, sent, uncertain, pause, at_least, reason)
                        .await?;
                }
            }
        }
    }

    fn judge(&self, reply: &Reply, accepted: &[u16]) -> Verdict {
        if (200..300).contains(&reply.status) {
            return Verdict::Answer;
        }
        let reads = self.effect == Effect::Read;
        let Ok(problem) = serde_json::from_slice::<Problem>(&reply.body) else {
            if accepted.contains(&reply.status) {
                return Verdict::Answer;
            }
            return Verdict::Retry {
                uncertain: !reads,
                pause: true,
                at_least: Duration::ZERO,
                reason: format!("HTTP {} that is not Palisade's", reply.status),
            };
        };
        let uncertain = problem.outcome == Outcome::Unknown && !reads;
        if problem.retryable {
            // A node without a leader says nothing about the next node; an overloaded one does.
            let pause = !matches!(
                problem.code,
                ErrorCode::NoLeader | ErrorCode::DeadlineExceeded
            );
            let wish = Duration::from_millis(problem.retry_after_ms.unwrap_or(0));
            let at_least = match pause {
                true => wish.min(LONGEST_RETRY_AFTER),
                false => Duration::ZERO,
            };
            return Verdict::Retry {
                uncertain,
                pause,
                at_least,
                reason: problem.to_string(),
            };
        }
        // A refusal that did not pass through the log says nothing of an earlier sending.
        if uncertain || (self.uncertain_since.is_some() && !decides(&problem.code)) {
            return Verdict::Hopeless(problem.to_string());
        }
        Verdict::Refused(Box::new(problem))
    }

    /// Books a failed attempt, moves to the next endpoint, and pauses if it is time to.
    async fn failed(
        &mut self,
        endpoint: usize,
        sent: BootTime,
        uncertain: bool,
        pause: bool,
        at_least: Duration,
        reason: String,
    ) -> Result<(), Error> {
        tracing::debug!(endpoint = %self.transport.endpoints()[endpoint], reason, "attempt failed");
        if uncertain && self.effect != Effect::Read {
            self.took_effect(sent);
        }
        self.note(endpoint, reason);
        self.failures_in_row += 1;
        self.transport.failed(endpoint);
        let round_is_over = self
            .failures_in_row
            .is_multiple_of(self.transport.endpoints().len());
        let at_least = match self.effect {
            // Renewals keep what is held, and are few: one for each lease at a time.
            Effect::Repeatable => at_least,
            Effect::Read | Effect::OnceFor { .. } => at_least.max(self.transport.take_retry()),
        };
        let remaining = self.end().saturating_since(self.transport.now());
        if at_least >= remaining {
            return Err(self.give_up());
        }
        let mut jittered = Duration::ZERO;
        if pause || round_is_over {
            let bound = self.pauses.next().unwrap_or(LONGEST_PAUSE);
            jittered = bound.mul_f64(rand::random::<f64>());
        }
        // Half of what is left stays for the attempt.
        let pause = jittered.min(remaining / 2).max(at_least);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// When to stop trying.
    fn end(&self) -> BootTime {
        let mut end = self.deadline;
        if !self.contacted {
            end = end.min(self.contact_deadline);
        }
        if let (Effect::OnceFor { wait }, Some(since)) = (self.effect, self.uncertain_since) {
            end = end.min(since + wait + REPEAT_WINDOW);
        }
        end
    }

    /// Keeps the last failure of each endpoint.
    fn note(&mut self, endpoint: usize, reason: String) {
        let endpoint = self.transport.endpoints()[endpoint].clone();
        match self
            .failures
            .iter_mut()
            .find(|failure| failure.endpoint == endpoint)
        {
            Some(failure) => failure.reason = reason,
            None => self.failures.push(AttemptFailure { endpoint, reason }),
        }
    }

    fn give_up(&mut self) -> Error {
        let failures = std::mem::take(&mut self.failures);
        match self.uncertain_since {
            None => Error::Unavailable { failures },
            // A renewal that was not confirmed is no different from one that never was.
            Some(_) => Error::Unknown {
                lease: self.ids.lease.clone(),
                request_id: self.ids.request_id.clone(),
                failures,
            },
        }
    }
}

/// Whether a refusal is the cluster's decision on this very request, ids included, so that it also
/// tells what became of an earlier sending.
fn decides(code: &ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::LeaseNotFound
            | ErrorCode::LockHeld
            | ErrorCode::AlreadyHeld
            | ErrorCode::AlreadyWaiting
            | ErrorCode::ModeMismatch
            | ErrorCode::TokenStale
            | ErrorCode::GrantEnded
            | ErrorCode::LeaseEnded
            | ErrorCode::WaitTimeout
            | ErrorCode::PositionGone
    )
}

fn new_pauses() -> ExponentialBackoff {
    // The builder's own jitter adds to the delay; full jitter is drawn where the pause is made.
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}
