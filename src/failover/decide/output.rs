//! What a host has to do.

use super::log_view::Event;
use super::reason::Reason;
use super::view::Until;
use crate::model::id::{Epoch, Sequence, WriterId};
use std::collections::BTreeSet;

/// One thing to do. All of them may be done again without harm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    ReadLog,
    /// Read this host's last number.
    ReadOwnNumber,
    /// Create this number of this host's lease.
    Renew {
        number: u64,
    },
    /// Read another host's last number, and its statement that it is closed.
    Look {
        host: WriterId,
    },
    /// Create this number of another host's lease.
    Break {
        host: WriterId,
        number: u64,
        epoch: Epoch,
    },
    AskPromise {
        of: WriterId,
        epoch: Epoch,
    },
    /// Promise that this host opens nothing for `ttl`.
    Promise {
        to: WriterId,
    },
    /// Ask another host to read the log now. It reads it anyway; this saves time.
    AskLook {
        of: WriterId,
    },
    /// Append this record after that one, and no other.
    Append {
        after: Sequence,
        event: Event,
    },
    /// Serve, at most until then.
    Serve {
        epoch: Epoch,
        until: Until,
    },
    /// Let new requests wait, and end those in flight.
    Hold {
        until: Until,
    },
    /// Shut the gate, stop the services, and verify it.
    Close,
    /// State that this host is closed at this position.
    State {
        at: Sequence,
    },
    /// Make files, database and services ready.
    Prepare {
        epoch: Epoch,
    },
    /// Bring the own copy in line with that of the primary of `epoch`. What only this host has is kept first.
    Rejoin {
        epoch: Epoch,
    },
    /// Fetch what a handover names.
    Apply {
        handover: Sequence,
    },
    /// Stop acknowledging the primary's transactions.
    StopAcks,
    StartAcks,
    /// The database waits for these standbys from now on.
    WaitFor {
        standbys: BTreeSet<WriterId>,
    },
    /// What was asked for is not done, for these reasons.
    Refused {
        reasons: Vec<Reason>,
    },
}
