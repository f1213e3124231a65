//! What happens to a host.

use super::log_view::LogView;
use super::view::{Cause, Proof};
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::support::clock::BootNanos;
use std::collections::BTreeSet;

/// The answer to the request for this host's next number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseReply {
    Created,
    /// Another host took it, to be the primary of this store.
    Broken,
    /// Another process with this host's name took it.
    Rival,
    /// It is not known whether it was created.
    Unknown,
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Won,
    /// Another record has this number.
    Lost,
    /// It is not known which record has this number, if any.
    Unknown,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The log was read; the read began at `asked`.
    Log { log: LogView, asked: BootNanos },
    /// This host's last number was read. `is_mine`: this process, or one of this machine that is known to
    /// have ended, created it, or it is another host's.
    OwnNumber { number: u64, is_mine: bool },
    /// The request for `number` was answered.
    Lease { number: u64, reply: LeaseReply },
    /// Another host's last number, and the position at which it last stated to be closed. Those after `renewed`
    /// are breaks by others.
    Seen { host: WriterId, number: u64, renewed: u64, closed_at: Option<Sequence> },
    /// The attempt to break a lease was answered.
    Break { host: WriterId, number: u64, renewed: u64, epoch: Epoch, is_won: bool },
    /// A candidate promised; the request was sent at `sent`.
    Promised { from: WriterId, sent: BootNanos },
    /// The primary `by` of `epoch` asks for a promise.
    PromiseAsked { by: WriterId, epoch: Epoch },
    /// It is known that `host` is closed at this position of the log. A person's word and a command's success
    /// count if they are given after this host's promotion.
    KnownClosed { host: WriterId, at: Sequence, proof: Proof },
    /// The statement of this host that it is closed was stored.
    Stated { at: Sequence },
    /// The append after `after` was answered.
    Appended { after: Sequence, outcome: Outcome },
    /// The gate is shut, the services are stopped, and this was verified.
    Closed,
    /// Files, database and services are ready.
    Prepared { epoch: Epoch },
    /// The customers' address shows the epoch.
    Verified { epoch: Epoch },
    /// Requests in flight have ended, and the last snapshot is this one.
    Drained { snapshot: Sequence },
    /// The snapshot and the transactions of a handover are here.
    Applied { handover: Sequence },
    /// The copy here is in line with that of the primary of `epoch`.
    Rejoined { epoch: Epoch },
    /// This host should be the primary.
    TakeOver { cause: Cause },
    /// Another host should be the primary, without loss.
    HandOver { to: WriterId },
    /// A handover should be cancelled.
    KeepServing,
    /// Another host says that the log has news.
    LookNow,
    /// These members should be the ones that may serve.
    SetMembers { serving: BTreeSet<WriterId> },
    /// This host's database no longer acknowledges the primary's transactions.
    AcksStopped,
    /// A standby's database acknowledges, or does not.
    Standby { host: WriterId, is_connected: bool },
    /// The database waits for these standbys from now on.
    WaitsFor { standbys: BTreeSet<WriterId> },
}
