//! A store's database on one host: its server, its archive and its seeds, as its daemon knows them.

use crate::model::id::Sequence;
use serde::{Deserialize, Serialize};

/// The database of a store on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// This host's server; none where understudy runs none here.
    pub server: Option<DatabaseServer>,
    /// The archive; none where this host archives nothing.
    pub archive: Option<DatabaseArchive>,
    /// The seeds; none before the daemon's first look at them, and without a daemon.
    pub seeds: Option<DatabaseSeeds>,
    /// The drills; none where this host has no replica.
    pub drill: Option<DatabaseDrill>,
}

impl DatabaseStatus {
    /// Returns the status without errors, whose words may name hosts, and without positions.
    pub(super) fn for_customer(self) -> Self {
        let server = self.server.map(|server| DatabaseServer {
            applied: None,
            resident_bytes: None,
            trouble: None,
            meaning: None,
            mend: None,
            error: None,
            ..server
        });
        let archive = self.archive.map(|archive| DatabaseArchive {
            position: None,
            trouble: None,
            error: None,
            ..archive
        });
        let seeds = self.seeds.map(|seeds| DatabaseSeeds { error: None, ..seeds });
        let drill = self.drill.map(|drill| DatabaseDrill {
            position: None,
            fault: drill.fault.map(|_| "the last drill failed".to_owned()),
            hindrance: None,
            ..drill
        });
        Self { server, archive, seeds, drill }
    }
}

/// A server, as its supervisor saw it last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseServer {
    /// `down`, `following`, `waiting`, `broken`, `serving` or `fenced`; `down` where nobody supervises it.
    pub state: String,
    /// Whether its supervisor runs.
    pub supervised: bool,
    /// Age of what the supervisor said last; none if none ever ran here.
    pub report_age_seconds: Option<f64>,
    /// How far a replica is behind; none where that is unknown, and of a server that follows nobody.
    pub lag_seconds: Option<f64>,
    /// Number of the primary's transactions that are not applied.
    pub behind: Option<u64>,
    /// All up to here is applied.
    pub applied: Option<String>,
    pub epoch: u64,
    /// Memory that the server holds.
    pub resident_bytes: Option<u64>,
    /// What is wrong, as one word, what it means, and what mends it.
    pub trouble: Option<String>,
    pub meaning: Option<String>,
    pub mend: Option<String>,
    /// The error in the server's words.
    pub error: Option<String>,
}

/// The archiver of a database's binary log, as it saw it last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseArchive {
    /// `following`, `waiting`, `broken` or `down`; `down` where nobody archives.
    pub state: String,
    /// Whether an archiver runs.
    pub running: bool,
    /// Age of what an archiver said last; none if none ever ran here.
    pub report_age_seconds: Option<f64>,
    /// Age of what is committed and not yet in the archive.
    pub lag_seconds: Option<f64>,
    /// All up to here is in the archive.
    pub position: Option<String>,
    pub epoch: u64,
    /// The last segment.
    pub number: Option<u64>,
    pub trouble: Option<String>,
    pub error: Option<String>,
}

/// The seeds of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseSeeds {
    /// The newest seed; none where there is none.
    pub snapshot: Option<Sequence>,
    /// Time since the newest seed's copy was scanned.
    pub age_seconds: Option<f64>,
    /// Whether this host's daemon makes one now.
    pub running: bool,
    /// Number of failures of this host's daemon since its last success.
    pub failures: u32,
    /// The last failure.
    pub error: Option<String>,
}

/// The drills of a replica on one host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseDrill {
    /// When the last one that came to its end began, in seconds since 1970; none if there was none.
    pub last: Option<f64>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// The position of its copy.
    pub position: Option<String>,
    /// What it found wrong.
    pub fault: Option<String>,
    /// When a drill last found the data sound, in seconds since 1970.
    pub proven: Option<f64>,
    /// Why there was no drill since.
    pub hindrance: Option<String>,
    /// Whether this host's daemon drills now.
    pub running: bool,
}
