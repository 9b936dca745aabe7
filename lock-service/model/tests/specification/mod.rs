//! What the lock model should answer, said as plainly as possible: lists that are searched from end
//! to end, and nothing kept that can be counted anew. Written from DESIGN section 3 and the
//! decisions, not from the model; it shares only the words of commands and answers with it.

use lock_model::{
    Acquire, BodyHash, Cancelled, ClusterId, Command, Entry, Event, EventKind, Field, Grant,
    Granted, LeaseEnd, LeaseId, Limit, LockHeldReason, LockName, LockRequest, LockTable, Metadata,
    Mode, ModelVersion, Outcome, Owner, Position, Queued, Refusal, Released, ReleasedBy, Renewal,
    Renewed, RequestId, Response, Settings, Timestamp, Token, Value, WaitEnd,
};

#[derive(Default)]
pub struct Specification {
    cluster_id: Option<ClusterId>,
    settings: Settings,
    clock: u64,
    tokens: u64,
    index: u64,
    ordinal: u32,
    hold_until: Option<u64>,
    leases: Vec<Lease>,
    holds: Vec<Hold>,
    waits: Vec<Wait>,
    delays: Vec<Delay>,
    tombstones: Vec<Tombstone>,
    /// The ring.
    pub events: Vec<Event>,
    new_events: Vec<Event>,
}

struct Lease {
    id: LeaseId,
    ttl_ms: u64,
    owner: Owner,
    metadata: Metadata,
    deadline: u64,
    is_explicit: bool,
    was_granted: bool,
    decided: Vec<Decided>,
    last_grant: Option<Decided>,
}

#[derive(Clone)]
struct Hold {
    lease: LeaseId,
    lock: LockName,
    mode: Mode,
    token: Token,
    request: RequestId,
    body: BodyHash,
    of: usize,
    place: Position,
    delay_ms: u64,
}

#[derive(Clone)]
struct Wait {
    place: Position,
    acquire: Acquire,
    deadline: u64,
}

struct Delay {
    lock: LockName,
    limit: Option<u32>,
    until: u64,
    held_back: bool,
}

#[derive(Clone)]
struct Decided {
    request: RequestId,
    body: Option<BodyHash>,
    /// All tokens of a grant that ended, as they ended.
    tokens: Vec<Token>,
    told: Refusal,
}

struct Tombstone {
    id: LeaseId,
    deadline: u64,
    how: LeaseEnd,
    last_grant: Option<Decided>,
    last_refused: Option<Decided>,
}

/// What ends by itself; the order is that of things that are due at the same time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Wait(Position),
    Lease(LeaseId),
    Delay(LockName),
    Tombstone(LeaseId),
    Hold,
}

impl Specification {
    pub fn apply(&mut self, entry: Entry, command: &Command) -> Outcome {
        self.index = entry.index;
        self.ordinal = 0;
        self.clock = self.clock.max(entry.now.0);
        self.new_events.clear();
        self.end_what_is_due(command);
        self.promote();
        let position = self.next_position();
        let response = self
            .run(command, position)
            .unwrap_or_else(Response::Refused);
        self.promote();
        let events = self.new_events.clone();
        self.events.extend(events.iter().cloned());
        let keep = usize::try_from(self.settings.events_max).unwrap();
        self.events.drain(..self.events.len().saturating_sub(keep));
        let more_due = self.dues().iter().any(|(at, _)| *at <= self.clock);
        Outcome {
            position,
            response,
            events,
            more_due,
        }
    }

    /// Whether looking at the model's state shows what there is.
    pub fn check_reads(&self, table: &LockTable) -> Result<(), String> {
        let ensure = |holds: bool, what: &str| holds.then_some(()).ok_or(format!("other {what}"));
        ensure(table.cluster_id() == self.cluster_id, "cluster id")?;
        let version = self.cluster_id.map(|_| ModelVersion::V1);
        ensure(table.model_version() == version, "model version")?;
        ensure(*table.settings() == self.settings, "settings")?;
        let hold = self.hold_until.filter(|until| *until > self.clock);
        ensure(table.held_back_until() == hold.map(Timestamp), "hold")?;

        let live = |lease: &&Lease| lease.deadline > self.clock;
        let mut ids: Vec<LeaseId> = self.leases.iter().filter(live).map(|it| it.id).collect();
        ids.sort();
        for after in std::iter::once(None).chain(ids.iter().copied().map(Some)) {
            let expected = ids.iter().copied().filter(|id| Some(*id) > after);
            let leases = table.leases(after).map(|lease| lease.lease);
            ensure(leases.eq(expected), "leases")?;
        }

        let is_live_wait = |wait: &&&Wait| !self.is_dead(wait);
        let is_live_hold = |hold: &&&Hold| {
            self.lease(hold.lease)
                .is_some_and(|lease| lease.deadline > self.clock)
        };
        let exists = |lock: &&LockName| {
            let delay = self.delay(lock);
            self.holders(lock).iter().any(|it| is_live_hold(&it))
                || self.queue(lock).iter().any(|it| is_live_wait(&it))
                || delay.is_some_and(|delay| delay.until > self.clock)
        };
        let all = self.locks();
        let seen: Vec<&LockName> = all.iter().filter(exists).collect();
        for lock in &all {
            let view = table.lock(lock);
            ensure(view.is_some() == seen.contains(&lock), "lock")?;
            let Some(view) = view else { continue };
            let holders = self.holders(lock);
            let tokens = holders.iter().filter(is_live_hold).map(|it| it.token);
            ensure(view.holders.iter().map(|it| it.token).eq(tokens), "holders")?;
            let queue = self.queue(lock);
            for (ahead, wait) in queue.iter().enumerate() {
                let place = table.place_in_queue(lock, wait.place);
                let expected = (ahead as u64, queue.len() as u64);
                ensure((place.ahead, place.length) == expected, "place in a queue")?;
            }
            let places = queue.iter().filter(is_live_wait).map(|it| it.place);
            ensure(
                view.queue.iter().map(|it| it.queued_position).eq(places),
                "queue",
            )?;
        }
        let names = ["a", "lock-1", "lock-10", "z"].map(|text| LockName::new(text).ok());
        let after = names
            .iter()
            .map(Option::as_ref)
            .chain(seen.iter().copied().map(Some));
        for after in after {
            for prefix in ["", "l", "lock-1", "lock-2", "z"] {
                let is_in =
                    |lock: &&&LockName| lock.as_str().starts_with(prefix) && Some(**lock) > after;
                let expected = seen.iter().filter(is_in).copied();
                let found: Vec<LockName> = table.locks(prefix, after).map(|it| it.lock).collect();
                ensure(found.iter().eq(expected), "listing")?;
            }
        }

        let oldest = table.oldest_event_position();
        let events = table.events_after(oldest).map(Iterator::count);
        ensure(events == Ok(self.events.len()), "oldest event")?;
        let before = Position {
            index: oldest.index.wrapping_sub(1),
            ordinal: oldest.ordinal,
        };
        let is_refused = oldest.index == 0 || table.events_after(before).is_err();
        ensure(is_refused, "events before the oldest")
    }

    fn next_position(&mut self) -> Position {
        let (index, ordinal) = (self.index, self.ordinal);
        self.ordinal += 1;
        Position { index, ordinal }
    }

    fn tell(&mut self, kind: EventKind) {
        let position = self.next_position();
        self.new_events.push(Event { position, kind });
    }

    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id == id)
    }

    fn lease_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }

    fn tombstone(&self, id: LeaseId) -> Option<&Tombstone> {
        self.tombstones.iter().find(|tombstone| tombstone.id == id)
    }

    fn holds_of(&self, id: LeaseId) -> Vec<Hold> {
        let holds = self.holds.iter().filter(|hold| hold.lease == id);
        let mut holds: Vec<Hold> = holds.cloned().collect();
        holds.sort_by(|a, b| a.lock.cmp(&b.lock));
        holds
    }

    fn holders(&self, lock: &LockName) -> Vec<&Hold> {
        let holds = self.holds.iter().filter(|hold| hold.lock == *lock);
        let mut holds: Vec<&Hold> = holds.collect();
        holds.sort_by_key(|hold| hold.lease);
        holds
    }

    /// Waits are kept in the order of their places.
    fn queue(&self, lock: &LockName) -> Vec<&Wait> {
        let is_for = |wait: &&Wait| wait.acquire.locks.iter().any(|it| it.lock == *lock);
        self.waits.iter().filter(is_for).collect()
    }

    fn waits_of(&self, id: LeaseId) -> Vec<Wait> {
        let waits = self.waits.iter().filter(|wait| wait.acquire.lease == id);
        waits.cloned().collect()
    }

    fn delay(&self, lock: &LockName) -> Option<&Delay> {
        self.delays.iter().find(|delay| delay.lock == *lock)
    }

    /// All locks that exist, by name.
    fn locks(&self) -> Vec<LockName> {
        let held = self.holds.iter().map(|hold| &hold.lock);
        let waits = self.waits.iter().flat_map(|wait| &wait.acquire.locks);
        let delayed = self.delays.iter().map(|delay| &delay.lock);
        let all = held.chain(waits.map(|it| &it.lock)).chain(delayed);
        let mut all: Vec<LockName> = all.cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// `None` for a lock that does not exist, `Some(None)` for one without permits.
    fn limit(&self, lock: &LockName) -> Option<Option<u32>> {
        if let Some(hold) = self.holders(lock).first() {
            return Some(hold.mode.limit());
        }
        if let Some(wait) = self.queue(lock).first() {
            let request = wait.acquire.locks.iter().find(|it| it.lock == *lock);
            return request.map(|it| it.mode.limit());
        }
        self.delay(lock).map(|delay| delay.limit)
    }

    fn has_room(&self, lock: &LockName, mode: Mode) -> bool {
        let holders = self.holders(lock);
        let taken = |mode: &Mode| match mode {
            Mode::Permits { permits, .. } => *permits,
            Mode::Exclusive | Mode::Shared => 0,
        };
        match mode {
            Mode::Exclusive => holders.is_empty(),
            Mode::Shared => holders.iter().all(|hold| hold.mode == Mode::Shared),
            Mode::Permits { permits, limit } => {
                let sum: u32 = holders.iter().map(|hold| taken(&hold.mode)).sum();
                sum + permits <= limit
            }
        }
    }

    fn is_dead(&self, wait: &Wait) -> bool {
        let lease = self.lease(wait.acquire.lease);
        wait.deadline <= self.clock || lease.is_none_or(|lease| lease.deadline <= self.clock)
    }

    fn is_grantable(&self, wait: &Wait) -> bool {
        let can_have = |it: &LockRequest| {
            let is_first = self.queue(&it.lock)[0].place == wait.place;
            is_first && self.delay(&it.lock).is_none() && self.has_room(&it.lock, it.mode)
        };
        !self.is_dead(wait)
            && wait.acquire.locks.iter().all(can_have)
            && self.tokens + wait.acquire.locks.len() as u64 <= Token::MAX.0
    }

    fn promote(&mut self) {
        while let Some(wait) = self.locks().iter().find_map(|lock| {
            let first = self.queue(lock).first().copied()?;
            self.is_grantable(first).then(|| first.clone())
        }) {
            self.waits.retain(|other| other.place != wait.place);
            self.grant(&wait.acquire, wait.place);
        }
    }

    fn dues(&self) -> Vec<(u64, Due)> {
        let waits = self
            .waits
            .iter()
            .map(|it| (it.deadline, Due::Wait(it.place)));
        let leases = self
            .leases
            .iter()
            .map(|it| (it.deadline, Due::Lease(it.id)));
        let delays = self.delays.iter();
        let delays = delays.map(|it| (it.until, Due::Delay(it.lock.clone())));
        let tombstones = self.tombstones.iter();
        let tombstones = tombstones.map(|it| (it.deadline, Due::Tombstone(it.id)));
        let hold = self.hold_until.map(|until| (until, Due::Hold));
        let all = waits.chain(leases).chain(delays).chain(tombstones);
        let mut all: Vec<_> = all.chain(hold).collect();
        all.sort();
        all
    }

    fn end_what_is_due(&mut self, command: &Command) {
        let (mut leases, locks) = named(command);
        for lock in &locks {
            leases.extend(self.holders(lock).iter().map(|hold| hold.lease));
            let front = self.queue(lock).into_iter();
            let dead = front.take_while(|wait| self.is_dead(wait));
            leases.extend(dead.map(|wait| wait.acquire.lease));
        }
        let is_touched = |due: &Due| match due {
            Due::Wait(place) => self
                .waits
                .iter()
                .any(|it| it.place == *place && leases.contains(&it.acquire.lease)),
            Due::Lease(id) | Due::Tombstone(id) => leases.contains(id),
            Due::Delay(lock) => locks.contains(lock),
            Due::Hold => false,
        };
        let past = |(at, _): &(u64, Due)| *at <= self.clock;
        let touched = self.dues().into_iter().filter(past);
        let touched: Vec<_> = touched.filter(|(_, due)| is_touched(due)).collect();
        for due in touched {
            if self.dues().contains(&due) {
                self.end(due.1);
            }
        }
        let mut freed = 0;
        while let Some((at, due)) = self.dues().into_iter().next() {
            let more = freed + self.weight(&due);
            if at > self.clock || (freed > 0 && more > self.settings.expiry_cap) {
                break;
            }
            freed = more;
            self.end(due);
        }
    }

    /// How many locks and waiters ending this frees, at least 1.
    fn weight(&self, due: &Due) -> u64 {
        let waited = |wait: &Wait| wait.acquire.locks.len();
        let weight = match due {
            Due::Wait(place) => self
                .waits
                .iter()
                .filter(|it| it.place == *place)
                .map(waited)
                .sum(),
            Due::Lease(id) => {
                self.holds_of(*id).len() + self.waits_of(*id).iter().map(waited).sum::<usize>()
            }
            Due::Delay(_) | Due::Tombstone(_) | Due::Hold => 1,
        };
        weight.max(1) as u64
    }

    fn end(&mut self, due: Due) {
        match due {
            Due::Wait(place) => self.end_wait(place, WaitEnd::TimedOut),
            Due::Lease(id) => {
                self.end_lease(id, LeaseEnd::Expired, false);
            }
            Due::Delay(lock) => self.delays.retain(|it| it.lock != lock),
            Due::Tombstone(id) => self.tombstones.retain(|it| it.id != id),
            Due::Hold => self.hold_until = None,
        }
    }

    fn decide(&mut self, id: LeaseId, decided: Decided) {
        let keep = usize::try_from(self.settings.decided_max).unwrap();
        if let Some(lease) = self.lease_mut(id) {
            lease.decided.push(decided);
            let over = lease.decided.len().saturating_sub(keep);
            lease.decided.drain(..over);
        }
    }

    fn end_wait(&mut self, place: Position, reason: WaitEnd) {
        let at = self.waits.iter().position(|it| it.place == place).unwrap();
        let acquire = self.waits.remove(at).acquire;
        for it in &acquire.locks {
            self.tell(EventKind::WaitEnded {
                lock: it.lock.clone(),
                lease: acquire.lease,
                request: acquire.request,
                queued_position: place,
                reason,
            });
        }
        let told = match reason {
            WaitEnd::TimedOut => Refusal::WaitTimedOut,
            WaitEnd::Cancelled => Refusal::Cancelled,
            WaitEnd::LeaseEnded { .. } => return,
        };
        let decided = Decided {
            request: acquire.request,
            body: Some(acquire.body),
            tokens: Vec::new(),
            told,
        };
        self.decide(acquire.lease, decided);
        self.end_if_unused(acquire.lease);
    }

    fn end_if_unused(&mut self, id: LeaseId) {
        let is_implicit = self.lease(id).is_some_and(|lease| !lease.is_explicit);
        if is_implicit && self.holds_of(id).is_empty() && self.waits_of(id).is_empty() {
            self.end_lease(id, LeaseEnd::Unused, true);
        }
    }

    /// The moment at which all that it held is free.
    fn end_lease(&mut self, id: LeaseId, how: LeaseEnd, now: bool) -> u64 {
        let mut free_at = self.clock;
        let at = self.leases.iter().position(|it| it.id == id).unwrap();
        let lease = self.leases.remove(at);
        for hold in self.holds_of(id) {
            self.holds
                .retain(|it| it.lease != id || it.lock != hold.lock);
            let held_back = matches!(how, LeaseEnd::Forced | LeaseEnd::RevokedById);
            let mut until = self.clock;
            if how == LeaseEnd::Expired || (held_back && !now) {
                until = until.max(lease.deadline + hold.delay_ms);
                self.put_delay(&hold.lock, hold.mode.limit(), until, held_back);
            }
            free_at = free_at.max(until);
            let (lock, token) = (hold.lock, hold.token);
            self.tell(match how {
                LeaseEnd::Expired => EventKind::Expired {
                    lock,
                    lease: id,
                    token,
                },
                LeaseEnd::Forced | LeaseEnd::RevokedById | LeaseEnd::Restored => {
                    EventKind::Forced {
                        lock,
                        lease: id,
                        token,
                        how,
                        held_back_until: Timestamp(until),
                    }
                }
                _ => EventKind::Released {
                    lock,
                    lease: id,
                    token,
                    by: ReleasedBy::Revoke,
                },
            });
        }
        for wait in self.waits_of(id) {
            self.end_wait(wait.place, WaitEnd::LeaseEnded { how });
        }
        let mut refused = lease.decided.into_iter().rev();
        let last_refused = refused.find(|it| it.tokens.is_empty());
        self.bury(id, how, lease.last_grant, last_refused);
        free_at
    }

    fn put_delay(&mut self, lock: &LockName, limit: Option<u32>, until: u64, held_back: bool) {
        let old = self.delay(lock).map(|it| (it.until, it.held_back));
        if until > self.clock && old < Some((until, held_back)) {
            self.delays.retain(|it| it.lock != *lock);
            self.delays.push(Delay {
                lock: lock.clone(),
                limit,
                until,
                held_back,
            });
        }
    }

    fn bury(
        &mut self,
        id: LeaseId,
        how: LeaseEnd,
        last_grant: Option<Decided>,
        last_refused: Option<Decided>,
    ) {
        self.tombstones.push(Tombstone {
            id,
            deadline: self.clock + self.settings.tombstone_ttl_ms,
            how,
            last_grant,
            last_refused,
        });
    }

    fn grant(&mut self, acquire: &Acquire, place: Position) -> Vec<Grant> {
        let (clock, mut grants) = (self.clock, Vec::new());
        for it in sorted(&acquire.locks) {
            let holders = self.holders(&it.lock);
            let joined = holders.first().filter(|_| it.mode == Mode::Shared);
            let joined = joined.map(|hold| hold.token);
            self.tokens += u64::from(joined.is_none());
            let token = joined.unwrap_or(Token(self.tokens));
            self.holds.push(Hold {
                lease: acquire.lease,
                lock: it.lock.clone(),
                mode: it.mode,
                token,
                request: acquire.request,
                body: acquire.body,
                of: acquire.locks.len(),
                place,
                delay_ms: acquire.lock_delay_ms,
            });
            let (lock, mode) = (it.lock, it.mode);
            grants.push(Grant { lock, token, mode });
        }
        let lease = self.lease_mut(acquire.lease).unwrap();
        let renewed = clock + lease.ttl_ms;
        lease.deadline = if lease.is_explicit || lease.was_granted {
            lease.deadline.max(renewed)
        } else {
            renewed
        };
        lease.was_granted = true;
        let tokens: Vec<Token> = grants.iter().map(|it| it.token).collect();
        lease.last_grant = Some(Decided {
            request: acquire.request,
            body: Some(acquire.body),
            told: Refusal::GrantEnded {
                token: tokens[tokens.len() - 1],
            },
            tokens,
        });
        let (ttl_ms, owner) = (lease.ttl_ms, lease.owner.clone());
        let remaining_ms = lease.deadline - clock;
        for it in &grants {
            self.tell(EventKind::Granted {
                lock: it.lock.clone(),
                lease: acquire.lease,
                owner: owner.clone(),
                request: acquire.request,
                mode: it.mode,
                token: it.token,
                queued_position: place,
                ttl_ms,
                remaining_ms,
            });
        }
        grants
    }

    fn run(&mut self, command: &Command, position: Position) -> Result<Response, Refusal> {
        if let Command::Found {
            cluster_id,
            token_floor,
            settings,
            ..
        } = command
        {
            let repeated = self.cluster_id.is_some();
            if !repeated {
                settings.validate().map_err(Refusal::InvalidSettings)?;
                self.tokens = floor(*token_floor)?;
                self.settings = settings.clone();
            }
            let cluster_id = *self.cluster_id.get_or_insert(*cluster_id);
            return Ok(Response::Founded {
                cluster_id,
                repeated,
            });
        }
        if self.cluster_id.is_none() {
            return Err(Refusal::Unfounded);
        }
        match command {
            Command::Found { .. } | Command::Tick => Ok(Response::Ticked),
            Command::OpenLease {
                lease,
                ttl_ms,
                owner,
                metadata,
            } => self.open(*lease, *ttl_ms, owner, metadata),
            Command::Acquire(acquire) => self.acquire(acquire, position),
            Command::Renew { leases } => {
                let mut renewals = Vec::new();
                for (at, lease) in leases.iter().enumerate() {
                    let position = if at == 0 {
                        position
                    } else {
                        self.next_position()
                    };
                    renewals.push(Renewal {
                        lease: *lease,
                        position,
                        result: self.renew(*lease),
                    });
                }
                Ok(Response::Renewed(renewals))
            }
            Command::Release { lease, tokens } => self.release(*lease, tokens),
            Command::Cancel { lease, request } => self.cancel(*lease, request),
            Command::Revoke { lease } => {
                let was_live = self.lease(*lease).is_some();
                if !was_live && self.tombstone(*lease).is_none() {
                    return Err(Refusal::LeaseNotFound);
                }
                let released = self.grants_of(*lease);
                if was_live {
                    self.end_lease(*lease, LeaseEnd::Revoked, true);
                }
                Ok(Response::Revoked { was_live, released })
            }
            Command::Update {
                lease,
                token,
                value,
            } => self.update(*lease, *token, value),
            Command::ForceRelease {
                lock,
                token,
                lease,
                now,
            } => {
                if self.lease(*lease).is_none() {
                    return Err(self.gone(*lease));
                }
                let holds = self.holds_of(*lease);
                if !holds
                    .iter()
                    .any(|it| it.lock == *lock && it.token == *token)
                {
                    return Err(Refusal::TokenStale { token: *token });
                }
                Ok(self.end_by_force(*lease, LeaseEnd::Forced, *now))
            }
            Command::RevokeById { lease, now } => {
                if self.lease(*lease).is_none() && self.tombstone(*lease).is_none() {
                    return Err(Refusal::LeaseNotFound);
                }
                Ok(self.end_by_force(*lease, LeaseEnd::RevokedById, *now))
            }
            Command::ChangeSettings { settings } => {
                settings.validate().map_err(Refusal::InvalidSettings)?;
                self.settings = settings.clone();
                Ok(Response::SettingsChanged)
            }
            Command::RaiseModelVersion { model_version } => Ok(Response::ModelVersionRaised {
                model_version: *model_version,
                repeated: true,
            }),
            Command::Restore {
                cluster_id,
                token_floor,
                hold_ms,
            } => self.restore(*cluster_id, *token_floor, *hold_ms),
        }
    }

    fn end_by_force(&mut self, id: LeaseId, how: LeaseEnd, now: bool) -> Response {
        let (was_live, released) = (self.lease(id).is_some(), self.grants_of(id));
        let free_at = if was_live {
            self.end_lease(id, how, now)
        } else {
            self.clock
        };
        Response::Ended {
            was_live,
            released,
            held_back_ms: free_at - self.clock,
        }
    }

    fn restore(
        &mut self,
        cluster_id: ClusterId,
        token_floor: Token,
        hold_ms: u64,
    ) -> Result<Response, Refusal> {
        let token_floor = floor(token_floor)?;
        let repeated = self.cluster_id == Some(cluster_id);
        if !repeated {
            self.cluster_id = Some(cluster_id);
            self.tokens = self.tokens.max(token_floor);
            self.events.clear();
            let mut ids: Vec<LeaseId> = self.leases.iter().map(|it| it.id).collect();
            ids.sort();
            for id in ids {
                self.end_lease(id, LeaseEnd::Restored, true);
            }
            self.hold_until = (hold_ms > 0).then_some(self.clock + hold_ms);
        }
        Ok(Response::Restored {
            cluster_id,
            token_counter: Token(self.tokens),
            hold_ms: self
                .hold_until
                .map_or(0, |it| it.saturating_sub(self.clock)),
            repeated,
        })
    }

    fn gone(&self, id: LeaseId) -> Refusal {
        self.tombstone(id)
            .map_or(Refusal::LeaseNotFound, |it| Refusal::LeaseEnded {
                how: it.how,
            })
    }

    fn grants_of(&self, id: LeaseId) -> Vec<Grant> {
        let grant = |hold: Hold| Grant {
            lock: hold.lock,
            token: hold.token,
            mode: hold.mode,
        };
        self.holds_of(id).into_iter().map(grant).collect()
    }

    fn check_ttl(&self, given_ms: u64) -> Result<(), Refusal> {
        let (min_ms, max_ms) = (self.settings.ttl_min_ms, self.settings.ttl_max_ms);
        if given_ms < min_ms || given_ms > max_ms {
            return Err(Refusal::TtlOutOfBounds {
                given_ms,
                min_ms,
                max_ms,
            });
        }
        Ok(())
    }

    fn check_room(&self, for_a_lease: bool) -> Result<(), Refusal> {
        let all = self.leases.len() + self.tombstones.len();
        if for_a_lease {
            at_most(
                Limit::Leases,
                self.leases.len() + 1,
                self.settings.leases_max,
            )?;
        }
        at_most(Limit::Tombstones, all + 1, self.settings.tombstones_max)
    }

    fn open(
        &mut self,
        id: LeaseId,
        ttl_ms: u64,
        owner: &Owner,
        metadata: &Metadata,
    ) -> Result<Response, Refusal> {
        let clock = self.clock;
        if let Some(lease) = self.lease(id) {
            let is_same = lease.is_explicit
                && (lease.ttl_ms, &lease.owner, &lease.metadata) == (ttl_ms, owner, metadata);
            return if is_same {
                Ok(Response::LeaseOpened {
                    ttl_ms,
                    remaining_ms: lease.deadline - clock,
                    repeated: true,
                })
            } else {
                Err(Refusal::LeaseExists)
            };
        }
        if self.tombstone(id).is_some() {
            return Err(self.gone(id));
        }
        fits(
            Field::Metadata,
            metadata.bytes(),
            self.settings.metadata_max_bytes,
        )?;
        fits(Field::Owner, owner.bytes(), self.settings.owner_max_bytes)?;
        self.check_ttl(ttl_ms)?;
        self.check_room(true)?;
        self.make_lease(id, ttl_ms, owner, metadata, clock + ttl_ms, true);
        Ok(Response::LeaseOpened {
            ttl_ms,
            remaining_ms: ttl_ms,
            repeated: false,
        })
    }

    fn make_lease(
        &mut self,
        id: LeaseId,
        ttl_ms: u64,
        owner: &Owner,
        metadata: &Metadata,
        deadline: u64,
        is_explicit: bool,
    ) {
        self.leases.push(Lease {
            id,
            ttl_ms,
            owner: owner.clone(),
            metadata: metadata.clone(),
            deadline,
            is_explicit,
            was_granted: false,
            decided: Vec::new(),
            last_grant: None,
        });
    }

    fn renew(&mut self, id: LeaseId) -> Result<Renewed, Refusal> {
        let (clock, holds) = (self.clock, self.grants_of(id));
        let waits = self.waits_of(id);
        let waits = waits.iter().map(|it| it.acquire.request).collect();
        let Some(lease) = self.lease_mut(id) else {
            return Err(self.gone(id));
        };
        lease.deadline = lease.deadline.max(clock + lease.ttl_ms);
        Ok(Renewed {
            ttl_ms: lease.ttl_ms,
            remaining_ms: lease.deadline - clock,
            holds,
            waits,
        })
    }

    fn update(
        &mut self,
        id: LeaseId,
        token: Token,
        value: &Option<Value>,
    ) -> Result<Response, Refusal> {
        if let Some(value) = value {
            fits(Field::Value, value.bytes(), self.settings.value_max_bytes)?;
        }
        if self.lease(id).is_none() {
            return Err(self.gone(id));
        }
        let holds = self.holds_of(id);
        let hold = holds.into_iter().find(|it| it.token == token);
        let lock = hold.ok_or(Refusal::TokenStale { token })?.lock;
        self.tell(EventKind::Updated {
            lock: lock.clone(),
            lease: id,
            token,
        });
        Ok(Response::Updated { lock })
    }

    fn release(&mut self, id: LeaseId, tokens: &[Token]) -> Result<Response, Refusal> {
        let (given, max) = (tokens.len() as u64, self.settings.locks_per_lease_max);
        if given == 0 || given > max {
            return Err(Refusal::TokenCount { given, max });
        }
        let released = |is_held: &dyn Fn(&Token) -> bool| {
            let answer = |token: &Token| Released {
                token: *token,
                was_held: is_held(token),
            };
            Ok(Response::Released(tokens.iter().map(answer).collect()))
        };
        let Some(lease) = self.lease(id) else {
            let last = self.tombstone(id).and_then(|it| it.last_grant.as_ref());
            let knows = |last: &Decided| tokens.iter().all(|token| last.tokens.contains(token));
            return if last.is_some_and(knows) {
                released(&|_| false)
            } else {
                Err(self.gone(id))
            };
        };
        let holds = self.holds_of(id);
        let is_held = |token: &Token| holds.iter().any(|hold| hold.token == *token);
        let past = || lease.decided.iter().chain(&lease.last_grant);
        let was_held = |token: &Token| past().any(|it| it.tokens.contains(token));
        if let Some(token) = tokens.iter().find(|it| !is_held(it) && !was_held(it)) {
            return Err(Refusal::TokenStale { token: *token });
        }
        let answer = released(&is_held);
        self.give_up(id, ReleasedBy::Release, |hold| tokens.contains(&hold.token));
        self.end_if_unused(id);
        answer
    }

    fn give_up(
        &mut self,
        id: LeaseId,
        by: ReleasedBy,
        is_wanted: impl Fn(&Hold) -> bool,
    ) -> Vec<Grant> {
        let holds = self.holds_of(id);
        let mut grants = Vec::new();
        for hold in holds.into_iter().filter(|hold| is_wanted(hold)) {
            self.holds
                .retain(|it| it.lease != id || it.lock != hold.lock);
            let (lock, token, mode) = (hold.lock, hold.token, hold.mode);
            let lease = self.lease_mut(id).unwrap();
            let of_request = |it: &&mut Decided| it.request == hold.request;
            if let Some(decided) = lease.decided.iter_mut().find(of_request) {
                decided.tokens.push(token);
            } else {
                let decided = Decided {
                    request: hold.request,
                    body: Some(hold.body),
                    tokens: vec![token],
                    told: Refusal::GrantEnded { token },
                };
                self.decide(id, decided);
            }
            self.tell(EventKind::Released {
                lock: lock.clone(),
                lease: id,
                token,
                by,
            });
            grants.push(Grant { lock, token, mode });
        }
        grants
    }

    fn cancel(&mut self, id: LeaseId, request: &RequestId) -> Result<Response, Refusal> {
        let before = Decided {
            request: *request,
            body: None,
            tokens: Vec::new(),
            told: Refusal::Cancelled,
        };
        let Some(lease) = self.lease(id) else {
            let Some(tombstone) = self.tombstone(id) else {
                self.check_room(false)?;
                self.bury(id, LeaseEnd::CancelledBefore, None, Some(before));
                return Ok(Response::Cancelled(Cancelled::Unknown));
            };
            let mut known = tombstone.last_grant.iter().chain(&tombstone.last_refused);
            return if known.any(|it| it.request == *request) {
                Ok(Response::Cancelled(Cancelled::Decided))
            } else {
                Err(self.gone(id))
            };
        };
        let is_decided = lease.decided.iter().any(|it| it.request == *request);
        let waits = self.waits_of(id);
        let holds = self.holds_of(id);
        let cancelled = if let Some(wait) = waits.iter().find(|it| it.acquire.request == *request) {
            self.end_wait(wait.place, WaitEnd::Cancelled);
            Cancelled::Waiting
        } else if holds.iter().any(|hold| hold.request == *request) {
            let released = self.give_up(id, ReleasedBy::Cancel, |it| it.request == *request);
            self.end_if_unused(id);
            Cancelled::Granted { released }
        } else if is_decided {
            Cancelled::Decided
        } else {
            self.decide(id, before);
            Cancelled::Unknown
        };
        Ok(Response::Cancelled(cancelled))
    }

    /// The answer to a request that is known already.
    fn repeat(&self, acquire: &Acquire) -> Option<Result<Response, Refusal>> {
        let decided = |it: &Decided| {
            let differs = it.body.is_some_and(|body| body != acquire.body);
            Some(Err(if differs {
                Refusal::RequestMismatch
            } else {
                it.told.clone()
            }))
        };
        let Some(lease) = self.lease(acquire.lease) else {
            let tombstone = self.tombstone(acquire.lease)?;
            let mut known = tombstone.last_grant.iter().chain(&tombstone.last_refused);
            return match known.find(|it| it.request == acquire.request) {
                Some(it) => decided(it),
                None => Some(Err(self.gone(acquire.lease))),
            };
        };
        if let Some(it) = lease
            .decided
            .iter()
            .find(|it| it.request == acquire.request)
        {
            return decided(it);
        }
        let mut holds = self.holds_of(acquire.lease);
        holds.retain(|hold| hold.request == acquire.request);
        if let Some(first) = holds.first() {
            if first.body != acquire.body {
                return Some(Err(Refusal::RequestMismatch));
            }
            if holds.len() < first.of {
                return Some(Err(Refusal::GrantEnded { token: first.token }));
            }
            let mut grants = self.grants_of(acquire.lease);
            grants.retain(|grant| holds.iter().any(|hold| hold.lock == grant.lock));
            return Some(Ok(Response::Granted(Granted {
                grants,
                ttl_ms: lease.ttl_ms,
                remaining_ms: lease.deadline - self.clock,
                queued_position: first.place,
                repeated: true,
            })));
        }
        let waits = self.waits_of(acquire.lease);
        let wait = waits
            .iter()
            .find(|it| it.acquire.request == acquire.request)?;
        Some(if wait.acquire.body == acquire.body {
            Ok(self.queued(wait, true))
        } else {
            Err(Refusal::RequestMismatch)
        })
    }

    fn queued(&self, wait: &Wait, repeated: bool) -> Response {
        let ahead = |it: &LockRequest| {
            let queue = self.queue(&it.lock);
            queue.iter().position(|other| other.place == wait.place)
        };
        let ahead = wait.acquire.locks.iter().filter_map(ahead).max();
        Response::Queued(Queued {
            ahead: ahead.unwrap() as u64,
            queued_position: wait.place,
            deadline: Timestamp(wait.deadline),
            remaining_ms: wait.deadline - self.clock,
            repeated,
        })
    }

    fn acquire(&mut self, acquire: &Acquire, place: Position) -> Result<Response, Refusal> {
        if let Some(answer) = self.repeat(acquire) {
            return answer;
        }
        let acquire = &Acquire {
            locks: sorted(&acquire.locks),
            ..acquire.clone()
        };
        let clock = self.clock;
        let settings = self.settings.clone();
        self.check_words(acquire)?;
        let lease = self.lease(acquire.lease);
        let fixed_ms = lease.map(|lease| lease.ttl_ms);
        let default_ms = fixed_ms.unwrap_or(settings.ttl_default_ms);
        let ttl_ms = acquire.ttl_ms.unwrap_or(default_ms);
        if let Some(fixed_ms) = fixed_ms {
            let given_ms = ttl_ms;
            if given_ms != fixed_ms {
                return Err(Refusal::TtlDiffers { given_ms, fixed_ms });
            }
        } else {
            self.check_ttl(ttl_ms)?;
            self.check_room(true)?;
        }
        for it in &acquire.locks {
            if let Some(refusal) = self.clash(acquire.lease, it) {
                return Err(self.refuse(acquire, refusal));
            }
        }
        let obstacle = acquire.locks.iter().find_map(|it| self.obstacle(it));
        let hold_ms = self.hold_until.map_or(0, |it| it.saturating_sub(clock));
        if acquire.wait_ms == 0 {
            if hold_ms > 0 {
                let remaining_ms = hold_ms;
                return Err(Refusal::HeldBack { remaining_ms });
            }
            if let Some(refusal) = obstacle {
                return Err(self.refuse(acquire, refusal));
            }
        }
        let waited: usize = self
            .waits_of(acquire.lease)
            .iter()
            .map(|it| it.acquire.locks.len())
            .sum();
        let of_lease = self.holds_of(acquire.lease).len() + waited + acquire.locks.len();
        at_most(Limit::LocksPerLease, of_lease, settings.locks_per_lease_max)?;
        let is_new = |it: &&LockRequest| self.limit(&it.lock).is_none();
        let new = acquire.locks.iter().filter(is_new).count();
        if new > 0 {
            at_most(Limit::Locks, self.locks().len() + new, settings.locks_max)?;
        }
        let must_wait = obstacle.is_some() || hold_ms > 0;
        if must_wait {
            let lengths = acquire.locks.iter().map(|it| self.queue(&it.lock).len());
            at_most(Limit::Queue, lengths.max().unwrap() + 1, settings.queue_max)?;
        } else if self.tokens + acquire.locks.len() as u64 > Token::MAX.0 {
            let (limit, max) = (Limit::Tokens, Token::MAX.0);
            return Err(Refusal::LimitReached { limit, max });
        }
        let deadline = clock + acquire.wait_ms.min(settings.wait_max_ms);
        if fixed_ms.is_none() {
            let metadata = Metadata::default();
            self.make_lease(
                acquire.lease,
                ttl_ms,
                &acquire.owner,
                &metadata,
                deadline,
                false,
            );
        }
        if !must_wait {
            let grants = self.grant(acquire, place);
            return Ok(Response::Granted(Granted {
                grants,
                ttl_ms,
                remaining_ms: self.lease(acquire.lease).unwrap().deadline - clock,
                queued_position: place,
                repeated: false,
            }));
        }
        let acquire = acquire.clone();
        let wait = Wait {
            place,
            acquire,
            deadline,
        };
        self.waits.push(wait.clone());
        let owner = self.lease(wait.acquire.lease).unwrap().owner.clone();
        for it in &wait.acquire.locks {
            if hold_ms > 0 {
                self.put_delay(&it.lock, it.mode.limit(), clock + hold_ms, true);
            }
            self.tell(EventKind::Queued {
                lock: it.lock.clone(),
                lease: wait.acquire.lease,
                owner: owner.clone(),
                request: wait.acquire.request,
                mode: it.mode,
                queued_position: place,
                deadline: Timestamp(deadline),
            });
        }
        Ok(self.queued(&wait, false))
    }

    fn check_words(&self, acquire: &Acquire) -> Result<(), Refusal> {
        let settings = &self.settings;
        let (given, max) = (acquire.locks.len() as u64, settings.locks_per_lease_max);
        if given == 0 || given > max {
            return Err(Refusal::LockCount { given, max });
        }
        for pair in acquire.locks.windows(2) {
            if pair[0].lock == pair[1].lock {
                let lock = pair[0].lock.clone();
                return Err(Refusal::LockNamedTwice { lock });
            }
        }
        for it in &acquire.locks {
            fits(Field::LockName, it.lock.bytes(), settings.name_max_bytes)?;
            if let Mode::Permits { permits, limit } = it.mode
                && !(1..=limit).contains(&permits)
            {
                let lock = it.lock.clone();
                return Err(Refusal::PermitsOutOfBounds {
                    lock,
                    permits,
                    limit,
                });
            }
        }
        fits(
            Field::Owner,
            acquire.owner.bytes(),
            settings.owner_max_bytes,
        )?;
        if let Some(value) = &acquire.value {
            fits(Field::Value, value.bytes(), settings.value_max_bytes)?;
        }
        let (given_ms, max_ms) = (acquire.lock_delay_ms, settings.lock_delay_max_ms);
        if given_ms > max_ms {
            return Err(Refusal::LockDelayTooLong { given_ms, max_ms });
        }
        Ok(())
    }

    /// Why this lease cannot ask for this lock at all.
    fn clash(&self, id: LeaseId, wanted: &LockRequest) -> Option<Refusal> {
        let lock = wanted.lock.clone();
        if let Some(hold) = self.holds_of(id).iter().find(|it| it.lock == lock) {
            let token = hold.token;
            return Some(Refusal::AlreadyHeld { lock, token });
        }
        if let Some(wait) = self.queue(&lock).iter().find(|it| it.acquire.lease == id) {
            return Some(Refusal::AlreadyWaiting {
                lock,
                request: wait.acquire.request,
                queued_position: wait.place,
            });
        }
        let existing = self.limit(&lock)?;
        let wanted = wanted.mode.limit();
        (existing != wanted).then_some(Refusal::ModeMismatch {
            lock,
            existing,
            wanted,
        })
    }

    /// Why a new request cannot have this lock now.
    fn obstacle(&self, wanted: &LockRequest) -> Option<Refusal> {
        let (lock, queue) = (&wanted.lock, self.queue(&wanted.lock));
        let reason = if !self.has_room(lock, wanted.mode) {
            let lease = self.holders(lock)[0].lease;
            let owner = self.lease(lease).unwrap().owner.clone();
            LockHeldReason::Held { lease, owner }
        } else if let Some(delay) = self.delay(lock) {
            let remaining_ms = delay.until - self.clock;
            if delay.held_back {
                LockHeldReason::HeldBack { remaining_ms }
            } else {
                LockHeldReason::Delayed { remaining_ms }
            }
        } else if !queue.is_empty() {
            LockHeldReason::Queued
        } else {
            return None;
        };
        Some(Refusal::LockHeld {
            lock: lock.clone(),
            reason,
            queue_length: queue.len() as u64,
        })
    }

    fn refuse(&mut self, acquire: &Acquire, refusal: Refusal) -> Refusal {
        let decided = Decided {
            request: acquire.request,
            body: Some(acquire.body),
            tokens: Vec::new(),
            told: refusal.clone(),
        };
        if self.lease(acquire.lease).is_some() {
            self.decide(acquire.lease, decided);
        } else {
            self.bury(acquire.lease, LeaseEnd::Unused, None, Some(decided));
        }
        refusal
    }
}

/// The leases and locks that a command names.
fn named(command: &Command) -> (Vec<LeaseId>, Vec<LockName>) {
    match command {
        Command::OpenLease { lease, .. }
        | Command::Release { lease, .. }
        | Command::Cancel { lease, .. }
        | Command::Revoke { lease }
        | Command::Update { lease, .. }
        | Command::RevokeById { lease, .. } => (vec![*lease], Vec::new()),
        Command::ForceRelease { lock, lease, .. } => (vec![*lease], vec![lock.clone()]),
        Command::Renew { leases } => (leases.clone(), Vec::new()),
        Command::Acquire(acquire) => {
            let locks = acquire.locks.iter().map(|it| it.lock.clone());
            (vec![acquire.lease], locks.collect())
        }
        _ => (Vec::new(), Vec::new()),
    }
}

fn sorted(locks: &[LockRequest]) -> Vec<LockRequest> {
    let mut locks = locks.to_vec();
    locks.sort_by(|a, b| a.lock.cmp(&b.lock));
    locks
}

fn floor(given: Token) -> Result<u64, Refusal> {
    if given > Token::MAX {
        return Err(Refusal::TokenFloorTooHigh { given });
    }
    Ok(given.0)
}

fn at_most(limit: Limit, count: usize, max: u64) -> Result<(), Refusal> {
    if count as u64 > max {
        return Err(Refusal::LimitReached { limit, max });
    }
    Ok(())
}

fn fits(field: Field, bytes: usize, max_bytes: u64) -> Result<(), Refusal> {
    let bytes = bytes as u64;
    if bytes > max_bytes {
        return Err(Refusal::TooLong {
            field,
            bytes,
            max_bytes,
        });
    }
    Ok(())
}
