//! The last requests of a lease that neither hold nor wait any more, so that a repeat of one is told
//! what became of it and has no second effect.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize, Serializer};

use crate::{BodyHash, Refusal, RequestId, Token};

/// A request that is over, and what a repeat of it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decided {
    pub(crate) request: RequestId,
    /// `None` for a request that was cancelled before it arrived.
    pub(crate) body: Option<BodyHash>,
    pub(crate) verdict: Verdict,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It was granted, and what it held under these tokens ended.
    Ended {
        /// What ended first, which a repeat is told.
        first: Token,
        /// What ended later, when the grant was of several locks.
        more: Vec<Token>,
    },
    /// It was refused. Behind a box, because few are.
    Refused(Box<Refusal>),
}

impl Decided {
    /// What a repeat is told.
    pub(crate) fn refusal(&self) -> Refusal {
        match &self.verdict {
            Verdict::Ended { first, .. } => Refusal::GrantEnded { token: *first },
            Verdict::Refused(refusal) => Refusal::clone(refusal),
        }
    }

    /// Whether it held under `token` once.
    pub(crate) fn has_ended(&self, token: Token) -> bool {
        match &self.verdict {
            Verdict::Ended { first, more } => *first == token || more.contains(&token),
            Verdict::Refused(_) => false,
        }
    }
}

/// The last decided requests, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "VecDeque<Decided>")]
pub(crate) struct Decisions {
    all: VecDeque<Decided>,
    /// Of each request, so that looking for one touches little memory.
    fingerprints: VecDeque<u32>,
}

impl Decisions {
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Decided> {
        self.all.iter()
    }

    fn place(&self, request: &RequestId) -> Option<usize> {
        let fingerprint = request.fingerprint();
        let candidates = self.fingerprints.iter().enumerate();
        candidates
            .filter(|(_, print)| **print == fingerprint)
            .map(|(at, _)| at)
            .find(|at| self.all.get(*at).is_some_and(|it| it.request == *request))
    }

    pub(crate) fn get(&self, request: &RequestId) -> Option<&Decided> {
        self.all.get(self.place(request)?)
    }

    /// Whether what was held under `token` is remembered to have ended.
    pub(crate) fn has_ended(&self, token: Token) -> bool {
        self.all.iter().any(|decided| decided.has_ended(token))
    }

    /// Adds a request, and forgets the oldest beyond `max`.
    pub(crate) fn push(&mut self, decided: Decided, max: u64) {
        self.fingerprints.push_back(decided.request.fingerprint());
        self.all.push_back(decided);
        while self.all.len() as u64 > max {
            self.all.pop_front();
            self.fingerprints.pop_front();
        }
    }

    /// Notes that what `request` held under `token` has ended.
    pub(crate) fn push_ended(
        &mut self,
        request: RequestId,
        body: BodyHash,
        token: Token,
        max: u64,
    ) {
        let known = self.place(&request).and_then(|at| self.all.get_mut(at));
        if let Some(Verdict::Ended { more, .. }) = known.map(|decided| &mut decided.verdict) {
            more.push(token);
            return;
        }
        let (first, more) = (token, Vec::new());
        let (body, verdict) = (Some(body), Verdict::Ended { first, more });
        self.push(
            Decided {
                request,
                body,
                verdict,
            },
            max,
        );
    }
}

impl From<VecDeque<Decided>> for Decisions {
    fn from(all: VecDeque<Decided>) -> Self {
        let fingerprints = all
            .iter()
            .map(|decided| decided.request.fingerprint())
            .collect();
        Self { all, fingerprints }
    }
}

impl Serialize for Decisions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}
