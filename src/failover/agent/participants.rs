//! The parts of a host that the agent directs, and what it reports.

use super::terms::Back;
use crate::failover::decide::reason::Reason;
use crate::failover::decide::view::{Until, View};
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::model::record::StoreState;
use std::collections::BTreeSet;

/// The mode of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    Open,
    /// New requests wait; those in flight finish.
    Hold,
    Closed,
}

/// What a gate is to do, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateOrder {
    pub epoch: Epoch,
    pub mode: GateMode,
    pub until: Until,
}

/// What became of a gate's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateOutcome {
    Done,
    /// The gate does not do it now; it is told again.
    Failed(String),
    /// The gate closed and fenced by itself: everything has to be made ready again.
    Fenced(String),
}

/// What is seen of the standbys' databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standbys {
    /// The standby that the primary's database waits for, though nobody here knows; an earlier process asked for it.
    pub waits_for: Option<WriterId>,
    /// Whether each acknowledges, and has all that it must have.
    pub seen: Vec<(WriterId, bool)>,
}

/// The parts of a host that take part in a failover. Every method may be called again without harm, from
/// different threads, and returns within a limit of its own. An error is a text for people: what was asked for
/// is asked for again.
pub trait Participants: Send + Sync {
    /// Tells the gate. It answers at once.
    fn gate(&self, order: GateOrder) -> GateOutcome;

    /// Shuts the gate, stops the services, and returns only after all of it was seen closed.
    fn close(&self, epoch: Epoch) -> Result<(), String>;

    /// Looks, before this host becomes the primary, whether it could serve at all. It answers at once.
    fn may_serve(&self) -> Result<(), String> {
        Ok(())
    }

    /// Notes what this host goes back to, if it becomes the primary as it was asked to just now; none if nothing.
    fn goes_back(&self, _at: Option<Sequence>, _back: Option<&Back>) -> Result<(), String> {
        Ok(())
    }

    /// Makes files, database and services ready. Gives up when `stop` says so.
    fn prepare(&self, epoch: Epoch, stop: &dyn Fn() -> bool) -> Result<(), String>;

    /// Ships what is new while the store is served, and waits until `to` has it: so the last snapshot of a
    /// handover is small. Gives up when `stop` says so.
    fn catch_up(&self, _to: &WriterId, _stop: &dyn Fn() -> bool) -> Result<(), String> {
        Ok(())
    }

    /// Waits until requests in flight have ended, and commits the last snapshot. Gives up when `stop` says so.
    fn drain(&self, epoch: Epoch, stop: &dyn Fn() -> bool) -> Result<Sequence, String>;

    /// Fetches the snapshot and the transactions of a handover.
    fn apply(&self, handover: Sequence) -> Result<(), String>;

    /// Returns the position of the database that [`Self::drain`] ended at, or that [`Self::prepare`] began with;
    /// none without a database that says so.
    fn position(&self) -> Option<GtidPosition> {
        None
    }

    /// Brings the own copy in line with that of the primary of `epoch`.
    fn rejoin(&self, epoch: Epoch) -> Result<(), String>;

    /// Sends the customers here, and returns after their address shows the epoch.
    fn show(&self, epoch: Epoch) -> Result<(), String>;

    /// Starts what acts without customers.
    fn start_last(&self, epoch: Epoch, stop: &dyn Fn() -> bool) -> Result<(), String>;

    /// Returns after this host's database acknowledges nothing any more.
    fn stop_acks(&self) -> Result<(), String>;

    /// Has this host's database acknowledge what it receives, where the log wants it to.
    fn start_acks(&self) -> Result<(), String>;

    /// Has the primary's database wait for these standbys, or for nobody.
    fn wait_for(&self, standbys: &BTreeSet<WriterId>) -> Result<(), String>;

    /// Looks at the standbys' databases, on the primary; `waits_for` are those that its own is known to wait for.
    fn standbys(&self, _waits_for: &BTreeSet<WriterId>) -> Standbys {
        Standbys::default()
    }

    /// Returns why this host's database does not acknowledge, or has not received all up to a position; none if
    /// it does and has.
    fn has_received(&self, _position: &GtidPosition) -> Result<(), String> {
        Err("understudy does not run its database".into())
    }

    /// Hears that this host's phase, or what the log says of the primary, has changed; `state` is the log as it
    /// was read last. It answers at once.
    fn changed(&self, _view: &View, _state: &StoreState) {}

    /// Hears, while this host stands by, that the log has new records. It answers at once.
    fn log_grew(&self) {}

    /// Keeps a person's word, given at this position of the log, that a host is down.
    fn attested(&self, _host: &WriterId, _at: Sequence) {}

    /// Stops another host by a command. Returns whether it is down for sure; false where no command can do that.
    fn stop_host(&self, _host: &WriterId) -> Result<bool, String> {
        Ok(false)
    }

    /// Tells the other members that the log has news for them. It answers at once.
    fn tell_others(&self) {}

    /// Asks another host for a promise; returns whether it gave one.
    fn ask_promise(&self, of: &WriterId, epoch: Epoch) -> bool;

    /// Asks another host to read the log now. Without an answer, it reads it a little later.
    fn ask_look(&self, of: &WriterId);

    fn report(&self, report: Report);
}

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// What was asked for is not done, for these reasons.
    Refused(Vec<Reason>),
    /// Something failed, and is tried again.
    Failed { what: &'static str, how: String },
    /// What may have failed before was done.
    Works { what: &'static str },
    /// The log would not admit this decision, so it was not appended.
    NotAppended { decision: &'static str, how: String },
}
