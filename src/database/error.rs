//! What goes wrong with a database server, and what each of it means.

use crate::format::binlog_event::EventError;
use crate::format::binlog_segment::ChainError;
use crate::repository::error::RepositoryError;
use crate::restore::error::RestoreError;
use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What is wrong with a server, or with its replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// The account, or a privilege of it, is refused.
    Refused,
    /// The replica has transactions that the primary never had.
    Diverged,
    /// The primary no longer has the binary logs that the replica needs next.
    Gone,
    /// A row is missing, is there already, or a transaction is out of order: somebody wrote to the replica.
    Conflict,
    /// What was received cannot be read.
    Corrupt,
    /// A disk is full.
    Full,
    /// The server does not answer.
    Unreachable,
    /// A statement failed for another reason.
    Failed,
    /// The server ends each time it is started.
    Crashing,
}

impl Trouble {
    /// Returns what an error of the server means, by its number and its text.
    pub fn of(code: u32, text: &str) -> Self {
        let says = |words: &str| text.contains(words);
        match code {
            _ if says("errno: 28") || says("error 28") || says("No space left") => Self::Full,
            1044 | 1045 | 1130 | 1142 | 1227 | 1698 => Self::Refused,
            1236 if says("diverged") || says("is not in the master's binlog") => Self::Diverged,
            1236 => Self::Gone,
            1032 | 1062 | 1950 => Self::Conflict,
            1594 | 1595 | 1743 => Self::Corrupt,
            1021 | 1114 => Self::Full,
            1040 | 1158..=1161 | 1203 | 2000..=2099 => Self::Unreachable,
            _ => Self::Failed,
        }
    }

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Diverged => "diverged",
            Self::Gone => "gone",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Crashing => "crashing",
        }
    }

    /// Returns what it means for the store's replica.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Refused => "the primary's server refuses our account, or a privilege that it needs",
            Self::Diverged => {
                "the replica has transactions that the primary never had; nothing is applied until a person decides"
            }
            Self::Gone => "the primary has deleted the binary logs from where the replica stands",
            Self::Conflict => {
                "a row is missing here, or is here already: somebody wrote to the replica. Nothing was skipped"
            }
            Self::Corrupt => "what was received cannot be read; it is fetched anew by itself, three times",
            Self::Full => {
                "the disk is nearly full; replication stands still and goes on by itself when there is room"
            }
            Self::Unreachable => "the server does not answer; it is tried again by itself",
            Self::Failed => "a statement of the primary fails on the replica",
            Self::Crashing => {
                "the server ends each time it is started; its own words say why. It is started again by itself"
            }
        }
    }

    /// Returns the command, or the act, that mends it.
    pub fn mend(self, store: &str) -> String {
        match self {
            Self::Refused => format!("on the primary: understudy database check {store}"),
            Self::Diverged => format!(
                "look at them: understudy database stranded {store}; then, with the supervisor stopped: understudy database rejoin {store} --flashback, or --reseed"
            ),
            Self::Gone | Self::Conflict | Self::Failed => {
                format!(
                    "on the primary: understudy database seed {store}; then here: understudy database run {store} --reseed"
                )
            }
            Self::Corrupt => {
                format!("nothing, at first; if it stays: understudy database run {store} --reseed")
            }
            Self::Full => "make room on the disk of the replica's datadir".to_owned(),
            Self::Unreachable => {
                "look whether the primary's server runs, and whether this host reaches it".to_owned()
            }
            Self::Crashing => format!(
                "what its words ask for; if its data is damaged: where this host is the primary, have a standby take over (there: understudy failover {store}); then on the primary: understudy database seed {store}; then here, with the supervisor stopped: understudy database rejoin {store} --reseed"
            ),
        }
    }
}

/// The reason why something with a database failed.
#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("{server}: {text} (error {code})")]
    Server { server: String, code: u32, text: String },
    #[error("{server}: no answer within {} s", limit.as_secs())]
    Late { server: String, limit: Duration },
    #[error("{server}: the answer is not understood: {text}")]
    Answer { server: String, text: String },
    #[error("{program}: {source}; it comes with Debian's package {package}")]
    Program { program: String, package: &'static str, source: io::Error },
    #[error("{program} failed: {text}")]
    Tool { program: String, text: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {text}", path.display())]
    Content { path: PathBuf, text: String },
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Held(String),
    #[error("the store's log cannot be read, so that nobody knows whether this host stands by: {0}")]
    Log(String),
    #[error("{}: another process runs this already", .0.display())]
    Taken(PathBuf),
    #[error("the server ended: {0}")]
    Start(String),
    #[error("{}: no supervisor of the database answers; start `understudy database run`", .0.display())]
    NoSupervisor(PathBuf),
    #[error("{0}")]
    Fenced(String),
    #[error("{reason}")]
    Refused { kind: FailureKind, reason: String },
    #[error("stopped: this process is shutting down")]
    Stopped,
    /// There is no seed yet.
    #[error("{0}")]
    Unseeded(String),
    /// The server no longer has the binary logs that come next.
    #[error("{0}")]
    Gone(String),
    /// The archive has transactions that the server does not have.
    #[error("{0}")]
    Diverged(String),
    #[error("{}: {source}", path.display())]
    Binlog { path: PathBuf, source: EventError },
    /// A segment of the archive does not fit.
    #[error("{key}: {source}")]
    Segment { key: String, source: ChainError },
    #[error("{key}: {text}")]
    Archive { key: String, text: String },
    /// What is wanted is not in the archive.
    #[error("{0}")]
    Missing(String),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl DatabaseError {
    /// Returns what is wrong with the server, where that is the reason.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Server { code, text, .. } => Some(Trouble::of(*code, text)),
            Self::Late { .. } => Some(Trouble::Unreachable),
            Self::Gone(_) => Some(Trouble::Gone),
            Self::Diverged(_) => Some(Trouble::Diverged),
            Self::Start(text) => Some(Trouble::of(0, text)).filter(|trouble| *trouble == Trouble::Full),
            _ => None,
        }
    }
}

impl Failure for DatabaseError {
    fn kind(&self) -> FailureKind {
        match (self, self.trouble()) {
            (_, Some(Trouble::Unreachable)) | (Self::Log(_), _) => FailureKind::Unavailable,
            (_, Some(Trouble::Refused)) | (Self::Settings(_) | Self::Program { .. } | Self::Taken(_), _) => {
                FailureKind::Usage
            }
            (_, Some(Trouble::Diverged | Trouble::Gone | Trouble::Conflict)) | (Self::Held(_), _) => {
                FailureKind::Held
            }
            (Self::Stopped, _) => FailureKind::Stopped,
            (Self::Fenced(_), _) => FailureKind::Fenced,
            (Self::NoSupervisor(_) | Self::Unseeded(_), _) => FailureKind::Unavailable,
            (Self::Refused { kind, .. }, _) => *kind,
            (Self::Binlog { source: EventError::Encrypted, .. }, _) => FailureKind::Usage,
            (Self::Binlog { source, .. }, _) => source.kind(),
            (Self::Repository(error), _) => error.kind(),
            (Self::Restore(error), _) => error.kind(),
            (Self::Segment { .. } | Self::Archive { .. }, _) => FailureKind::Damaged,
            (Self::Missing(_), _) => FailureKind::Missing,
            _ => FailureKind::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of MariaDB 10.11.
    #[test]
    fn each_number_of_the_server_has_its_kind() {
        let diverged = "Error: connecting slave requested to start from GTID 1-1-5, which is not in the master's binlog. Since the master's binlog contains GTIDs with higher sequence numbers, it probably means that the slave has diverged due to executing extra erroneous transactions";
        let gone = "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and required binlog files have been purged.";
        for (code, text, wanted) in [
            (1236, diverged, Trouble::Diverged),
            (1236, gone, Trouble::Gone),
            (1032, "Can't find record in 't'", Trouble::Conflict),
            (1950, "out-of-order", Trouble::Conflict),
            (1594, "Relay log read failure", Trouble::Corrupt),
            (1030, "Got error 28 \"No space left on device\"", Trouble::Full),
            (1045, "Access denied", Trouble::Refused),
            (2003, "Can't connect", Trouble::Unreachable),
            (1677, "Column 0 cannot be converted", Trouble::Failed),
        ] {
            assert_eq!(Trouble::of(code, text), wanted, "{code}");
        }
    }
}
