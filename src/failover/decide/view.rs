//! What a host knows about one store, as far as failover is concerned.

use super::absence::Absence;
use super::log_view::{Event, LogView, Reign};
use super::timing::Timing;
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::support::clock::BootNanos;
use crate::support::mutant::{self, Mutant};
use std::collections::{BTreeMap, BTreeSet};

/// What a store's plan asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    pub timing: Timing,
    /// Whether the primary needs a lease to serve. Without one, nothing closes it but the log, and a candidate
    /// opens only with a proof that the primary is closed.
    pub has_lease: bool,
    /// Whether a host is promoted by votes only if the log's set of standbys has it. A store without a database, or
    /// with one whose commits wait for nobody, has no such set.
    pub needs_set: bool,
}

/// A number of a lease that this host created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// When the request was first sent. The validity counts from then.
    pub sent: BootNanos,
    /// When the first of the unbroken line of numbers was confirmed. Reads of the log that began later show
    /// every promotion that does not have to break this line.
    pub confirmed: BootNanos,
}

/// This host's own lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct OwnLease {
    /// The last number that exists; `None` until it was read.
    pub number: Option<u64>,
    pub held: Option<Held>,
    /// The number that was asked for and not answered yet, and when.
    pub asked: Option<(u64, BootNanos)>,
    /// Until when another process of this host's name may hold the lease.
    pub foreign_until: Option<BootNanos>,
}

/// The lease of another host, as it is seen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watched {
    pub number: u64,
    /// The last number that the other host may have created. Breaks of its lease, for whichever store, are no
    /// sign of its life.
    pub renewed: u64,
    /// When that was first seen here.
    pub since: BootNanos,
    pub broken: Option<Broken>,
}

/// A break of another host's lease by this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Broken {
    /// The epoch for which it was broken. Whatever the other host renews after that, it reads the log first.
    pub epoch: Epoch,
    /// When the last number that the other host created before was first seen here.
    pub since: BootNanos,
}

/// How it is known that a host is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proof {
    /// It says so.
    Statement,
    /// A command that stops it succeeded.
    Command,
    /// A person says so.
    Person,
    /// Its lease is broken, and ran out.
    Lease,
}

impl Proof {
    /// Returns how the proof came about, in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Statement => "it said so itself",
            Self::Command => "a command stopped it",
            Self::Person => "a person said so",
            Self::Lease => "its lease was broken, and ran out",
        }
    }
}

/// An append that was begun and whose result is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Appending {
    pub after: Sequence,
    pub event: Event,
}

/// The reason for a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The primary handed over.
    Handover,
    /// A person wants it, and takes the loss that was stated.
    Person,
    /// The watchers agree that the primary is dead.
    Watchers,
}

/// Where a host stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its agent has started again while its gate was open, as the process before it was told to; the log was not
    /// read yet. It changes nothing before that.
    Starting,
    /// It serves nothing. It begins here, and returns here whenever it may no longer serve.
    Fenced { is_closed: bool },
    /// Another host is the primary; it brings its own copy in line.
    Rejoining,
    /// Another host is the primary; it follows.
    Standby,
    /// It asks to be the primary.
    Promoting { cause: Cause },
    /// It is the primary by the log, and prepares to serve.
    TakingOver { epoch: Epoch, is_prepared: bool },
    /// It serves.
    Primary { epoch: Epoch, is_verified: bool },
    /// It is the primary, and prepares that another host becomes it: nothing is served any more. With
    /// `is_cancelled`, it was asked to go on as the primary.
    HandingOver { to: WriterId, since: BootNanos, is_cancelled: bool, drained: Option<Sequence> },
}

impl Phase {
    /// Returns whether a gate may be open, or hold requests that it answers later.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Primary { .. } | Self::HandingOver { .. })
    }
}

/// The database of a store on this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct DatabaseView {
    /// Whether this host acknowledges the primary's transactions.
    pub acknowledges: bool,
    /// The standbys whose acknowledgement a commit waits for; empty if it waits for nobody.
    pub waits_for: BTreeSet<WriterId>,
    /// Standbys that do not acknowledge, and since when.
    pub gone: BTreeMap<WriterId, BootNanos>,
    /// Standbys that are connected and have everything.
    pub caught_up: BTreeSet<WriterId>,
    /// Standbys that were in the set and left it.
    pub absent: BTreeMap<WriterId, Absence>,
    /// Those that had everything after the database began to wait for them: from then on, they have what any
    /// customer was told.
    pub confirmed: BTreeSet<WriterId>,
}

/// What a host knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub me: WriterId,
    pub rules: Rules,
    pub started: BootNanos,
    pub log: LogView,
    /// When the read began that `log` is from; `None` until it was read.
    pub log_asked: Option<BootNanos>,
    pub lease: OwnLease,
    /// When each candidate's promise was asked for.
    pub promised_to_me: BTreeMap<WriterId, BootNanos>,
    /// When this host last promised.
    pub promised_by_me: Option<BootNanos>,
    pub watched: BTreeMap<WriterId, Watched>,
    /// The latest position of the log at which each host is known to be closed.
    pub proofs: BTreeMap<WriterId, (Sequence, Proof)>,
    pub appending: Option<Appending>,
    /// The epoch with whose primary the own copy was last in line.
    pub joined: Option<Epoch>,
    /// The handover whose files and database this host has.
    pub applied: Option<Sequence>,
    pub database: DatabaseView,
    /// The moment of the last look at the log, at leases, and at promises.
    pub looked: Option<BootNanos>,
    /// When another host last said that the log has news.
    pub told_to_look: Option<BootNanos>,
    /// How often others have said so without a pause.
    pub told_often: u8,
    /// The position at which this host last stated that it is closed.
    pub stated: Option<Sequence>,
    pub phase: Phase,
}

/// Until when a host may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Until {
    Never,
    Time(BootNanos),
    /// As long as the log says so.
    Forever,
}

impl Until {
    pub fn is_after(self, now: BootNanos) -> bool {
        match self {
            Self::Never => false,
            Self::Time(until) => now < until,
            Self::Forever => true,
        }
    }
}

impl View {
    /// Returns the view of a host that has just started.
    pub fn new(me: WriterId, rules: Rules, now: BootNanos) -> Self {
        Self {
            me,
            rules,
            started: now,
            log: LogView::default(),
            log_asked: None,
            lease: OwnLease::default(),
            promised_to_me: BTreeMap::new(),
            promised_by_me: None,
            watched: BTreeMap::new(),
            proofs: BTreeMap::new(),
            appending: None,
            joined: None,
            applied: None,
            database: DatabaseView::default(),
            looked: None,
            told_to_look: None,
            told_often: 0,
            stated: None,
            phase: Phase::Fenced { is_closed: false },
        }
    }

    /// Returns the view of a host whose agent has started again while its gate is open.
    pub fn starting(me: WriterId, rules: Rules, now: BootNanos) -> Self {
        Self { phase: Phase::Starting, ..Self::new(me, rules, now) }
    }

    /// Returns whether the log names this host as the primary.
    pub fn is_primary(&self) -> bool {
        self.log.primary.as_ref() == Some(&self.me)
    }

    /// Returns the other hosts that may be promoted. One that this host is about to admit counts already.
    pub fn candidates(&self) -> impl Iterator<Item = &WriterId> {
        let admitted = match self.appending.as_ref().map(|appending| &appending.event) {
            Some(Event::Members { serving }) => Some(serving),
            _ => None,
        };
        let hosts: BTreeSet<_> = self.log.serving.iter().chain(admitted.into_iter().flatten()).collect();
        hosts.into_iter().filter(|host| **host != self.me)
    }

    /// Returns until when this host may serve, if the log names it.
    ///
    /// Its lease or the promises of all candidates suffice. Without candidates nobody can be promoted.
    pub fn may_serve_until(&self) -> Until {
        if !self.rules.has_lease {
            return Until::Forever;
        }
        let late = if mutant::is(Mutant::LateFence) { 2 } else { 1 };
        let valid_for = self.rules.timing.valid_for * late;
        let by_lease = match self.lease.held {
            Some(held) => Until::Time(held.sent.plus(valid_for)),
            None => Until::Never,
        };
        let by_promise = |host| match self.promised_to_me.get(host) {
            Some(sent) => Until::Time(sent.plus(valid_for)),
            None => Until::Never,
        };
        let by_promises = self.candidates().map(by_promise).min().unwrap_or(Until::Forever);
        by_lease.max(by_promises)
    }

    /// Returns how it is known that the host of `reign` is closed; `None` if it is not.
    pub fn proof(&self, reign: &Reign, now: BootNanos) -> Option<Proof> {
        // A host that states it serves again only after a record of its own. One that others stopped reads the
        // log when it starts again: it must have been down after the promotion.
        let mine = self.log.reigns.iter().find(|reign| reign.host == self.me).map(|mine| mine.since);
        if let Some((at, proof)) = self.proofs.get(&reign.host)
            && (*proof == Proof::Statement || Some(*at) >= mine)
            && *at >= reign.since
        {
            return Some(*proof);
        }
        (self.rules.has_lease && self.has_run_out(&reign.host, now)).then_some(Proof::Lease)
    }

    /// Returns whether the lease of `host` and this host's promises cannot let it serve any more.
    ///
    /// A host that starts has forgotten its promises. It also has forgotten which numbers it saw, so it waits
    /// for `ttl` after its start in any case.
    fn has_run_out(&self, host: &WriterId, now: BootNanos) -> bool {
        let ttl = self.rules.timing.ttl;
        let Some(watched) = self.watched.get(host) else { return false };
        let is_old = |moment: BootNanos| now >= moment.plus(ttl);
        let broken = watched.broken.filter(|broken| broken.epoch == self.log.epoch);
        let since = match broken {
            Some(broken) => broken.since,
            None if mutant::is(Mutant::NoBreak) => watched.since,
            None => return false,
        };
        is_old(since) && self.promised_by_me.is_none_or(is_old)
    }

    /// Returns the reigns of other hosts that are not known to be closed.
    pub fn open_reigns(&self, now: BootNanos) -> impl Iterator<Item = &Reign> {
        self.log.reigns.iter().filter(move |reign| reign.host != self.me && self.proof(reign, now).is_none())
    }

    /// Returns whether a handover that began at `since` is over unless the other host was promoted: it was
    /// cancelled, or its time has passed.
    pub(super) fn gives_up(&self, since: BootNanos, is_cancelled: bool, now: BootNanos) -> bool {
        is_cancelled || now >= since.plus(self.rules.timing.hand_over_within)
    }

    /// Returns whether the log has to be read at this look.
    ///
    /// Whoever opens, closes, promotes or appends reads it at each look, and so does everybody after a read
    /// that failed, and a standby whose primary's lease stands still.
    pub(super) fn must_read_log(&self, now: BootNanos) -> bool {
        let Some(asked) = self.log_asked else { return true };
        let is_told = self.told_to_look.is_some_and(|told| asked <= told);
        !self.is_quiet(now) || is_told || now >= asked.plus(self.rules.timing.look_quiet)
    }

    /// Returns whether nothing is under way here, and nothing that is seen here asks for a decision.
    fn is_quiet(&self, now: BootNanos) -> bool {
        let is_alive = |seen: &Watched| now < seen.since.plus(self.rules.timing.valid_for);
        let is_steady = match &self.phase {
            Phase::Standby if self.rules.has_lease => {
                self.log.primary.as_ref().and_then(|primary| self.watched.get(primary)).is_some_and(is_alive)
            }
            Phase::Standby => true,
            Phase::Primary { is_verified, .. } => *is_verified && self.log.is_completed,
            _ => false,
        };
        is_steady && self.appending.is_none() && self.log.handover.is_none()
    }

    /// Returns whether `log` shows every promotion that does not have to break this host's lease.
    pub fn has_read_log_since_lease(&self) -> bool {
        let Some(asked) = self.log_asked else { return false };
        match (self.rules.has_lease, self.lease.held) {
            (false, _) => asked >= self.started,
            (true, Some(held)) => asked > held.confirmed,
            (true, None) => false,
        }
    }
}
