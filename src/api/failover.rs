//! What a failover agent does, and what it is asked for.

use crate::model::id::{Sequence, StoreName, WriterId};
use serde::{Deserialize, Serialize};

/// State of a store's failover on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverStatus {
    pub store: StoreName,
    /// The host that answers.
    pub host: WriterId,
    /// Why the daemon runs no failover agent for the store; everything below is empty then.
    pub no_agent: Option<String>,
    /// What the host is: `starting`, `fenced`, `rejoining`, `standby`, `promoting`, `taking over`, `primary` or `handing
    /// over`.
    pub phase: String,
    pub epoch: u64,
    /// The primary by the log, as it was read last.
    pub primary: Option<WriterId>,
    /// The members that may serve.
    #[serde(default)]
    pub members: Vec<WriterId>,
    /// The host that a handover in progress is to.
    pub handover_to: Option<WriterId>,
    /// Whether the last promotion was carried out: the customers' address shows its epoch.
    pub completed: bool,
    /// Standbys whose databases have every transaction that a customer was told is done.
    #[serde(default)]
    pub synced: Vec<WriterId>,
    /// Whether automatic failover is paused.
    pub paused: bool,
    /// Whether the primary needs a lease.
    pub has_lease: bool,
    /// Former primaries that are not known to be closed; a new primary waits for them.
    #[serde(default)]
    pub waits_for: Vec<WriterId>,
    /// Reasons why this host would not become the primary if a person asked; empty if it would.
    #[serde(default)]
    pub why_not: Vec<String>,
    /// Reasons why it would not become the primary by itself.
    #[serde(default)]
    pub why_not_automatic: Vec<String>,
    /// Why the last request was refused.
    #[serde(default)]
    pub refused: Vec<String>,
    /// What fails now, and is tried again.
    #[serde(default)]
    pub failing: Vec<String>,
    /// What is seen of the primary from this host; none where it does not watch, as on the primary itself.
    #[serde(default)]
    pub watch: Option<WatchStatus>,
    /// Whether this host, a standby, would become the primary by itself: the worst items first. Empty on other hosts,
    /// and where only a person decides.
    #[serde(default)]
    pub ready: Vec<ReadyItem>,
    /// Age in seconds of the files here, which is what would be lost of them if this host took over now; none on other
    /// hosts, and where no snapshot is here.
    #[serde(default)]
    pub loss_files_seconds: Option<f64>,
    /// The same of the database: 0 where every transaction that a customer was told is done is here; none where it is
    /// not known.
    #[serde(default)]
    pub loss_database_seconds: Option<f64>,
    /// The read-only instance of this host; none if there is none.
    pub replica: Option<ReplicaStatus>,
    /// What the database names and the files lack, and the other way round, as it was compared after this host's
    /// promotion; none before, and where nothing says which rows name files.
    #[serde(default)]
    pub media: Option<MediaStatus>,
    /// What the host is doing, or did last.
    pub operation: String,
    #[serde(default)]
    pub steps: Vec<FailoverStep>,
}

/// One thing that an automatic failover depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyItem {
    pub item: String,
    /// `green`, `amber` for what deserves a look, or `red` for what holds automatic failover back.
    pub level: String,
    /// What is so.
    pub why: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}

/// What a watcher sees of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// `healthy`, `degraded`, `not ready`, `unreachable` or `dead`.
    pub verdict: String,
    /// What fails, for people.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// The read-only instance of a hot standby.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Where its files are.
    pub path: String,
    /// Where its services answer.
    pub address: Option<String>,
    /// The snapshot that it shows; none while this host does not stand by.
    pub snapshot: Option<Sequence>,
}

/// A comparison of what the database names with the files of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaStatus {
    pub snapshot: Sequence,
    /// When, in seconds since 1970.
    pub at: f64,
    /// Number of files that rows name.
    pub named: u64,
    /// Number of those that are not there.
    pub missing: u64,
    /// Number of files that no row names.
    pub unnamed: u64,
    /// Number of values that name no file of the store.
    pub refused: u64,
}

/// A store's failover in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverBrief {
    /// What this host is, as in [`FailoverStatus`].
    pub phase: String,
    pub epoch: u64,
    pub primary: Option<WriterId>,
    /// What fails now, and is tried again.
    #[serde(default)]
    pub failing: Vec<String>,
    /// Whether this host would become the primary by itself; none where that is not its part.
    #[serde(default)]
    pub ready: Option<bool>,
    /// What would be lost then, as in [`FailoverStatus`].
    #[serde(default)]
    pub loss_files_seconds: Option<f64>,
    #[serde(default)]
    pub loss_database_seconds: Option<f64>,
}

/// One step of an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailoverStep {
    pub step: String,
    pub detail: String,
    /// Seconds from the operation's begin to this step's.
    pub at_seconds: f64,
    /// Seconds that it took; none while it is being done.
    pub took_seconds: Option<f64>,
    /// Why its last attempt failed.
    pub failure: Option<String>,
}

/// Asks a host to become the primary, though the primary has not handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverQuery {
    /// The person who decides.
    pub person: Option<String>,
    pub reason: Option<String>,
    /// The snapshot to begin with; default: the latest.
    pub at: Option<u64>,
    /// The position that the database goes back to, with the files of that snapshot: it was restored on the host before.
    pub back_to: Option<String>,
    /// The name of that restore.
    pub restore: Option<String>,
    /// Number of transactions behind that position, as far as they are known: they are lost, or stranded.
    pub lost_transactions: Option<u64>,
    /// The host that takes over; default: the one that answers.
    pub to: Option<String>,
    /// Only say whether it would: nothing is done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks for a planned change of the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverQuery {
    pub person: Option<String>,
    /// The new primary; default: the only other member that may serve.
    pub to: Option<String>,
}

/// A person's word that a former primary is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestQuery {
    /// The host that is down.
    pub host: String,
    pub person: Option<String>,
    /// The host that takes over, and is told; default: the one that answers.
    pub to: Option<String>,
}

/// Resumes automatic failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeQuery {
    pub person: Option<String>,
}

/// Pauses automatic failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseQuery {
    pub person: Option<String>,
    pub reason: Option<String>,
}
