//! The note of a rejoin that was begun: while it is there, no supervisor starts the server, and the same command goes
//! on where it was killed.

use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::note;
use crate::model::gtid::GtidPosition;
use crate::support::durable;
use crate::support::env::Env;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const MODE: u32 = 0o600;

/// How a server comes to follow again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The stranded transactions are undone, row by row.
    Flashback,
    /// The newest seed takes the data's place.
    Reseed,
}

impl How {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flashback => "flashback",
            Self::Reseed => "reseed",
        }
    }
}

/// A rejoin that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoin {
    /// What no other rejoin has.
    pub id: String,
    pub how: How,
    /// None where it was not found in the binary logs.
    pub branch: Option<GtidPosition>,
    /// The directory in which the stranded transactions are kept; none where there were none.
    pub kept: Option<PathBuf>,
    /// The server's last transaction when they were kept.
    pub end: GtidPosition,
    /// Whether the server's history begins at the branch by now.
    #[serde(default)]
    pub is_rewound: bool,
}

fn path(place: &Place) -> PathBuf {
    place.dir.join("rejoin.json")
}

impl Rejoin {
    /// Reads the note; none where no rejoin was begun.
    ///
    /// # Errors
    /// It cannot be read: then nobody knows what the data is.
    pub fn read(place: &Place) -> Result<Option<Self>, DatabaseError> {
        note::read(path(place))
    }

    /// Writes the note; it is on the disk then.
    ///
    /// # Errors
    /// It was not written: nothing was begun.
    pub fn write(&self, place: &Place, env: &Env) -> Result<(), DatabaseError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        durable::replace(env, &path(place), MODE, &text)
            .map_err(|source| DatabaseError::File { path: path(place), source })
    }

    /// Removes the note.
    ///
    /// # Errors
    /// It is still there; the same command removes it.
    pub fn end(place: &Place) -> Result<(), DatabaseError> {
        let removed = match std::fs::remove_file(path(place)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let sync = |dir: &Path| std::fs::File::open(dir).and_then(|dir| dir.sync_all());
        removed
            .and_then(|()| sync(&place.dir))
            .map_err(|source| DatabaseError::File { path: path(place), source })
    }

    /// Refuses to go on while a rejoin is underway.
    ///
    /// # Errors
    /// [`DatabaseError::Held`] with the command that ends it.
    pub fn refuse(place: &Place, store: &str) -> Result<(), DatabaseError> {
        match Self::read(place)? {
            None => Ok(()),
            Some(begun) => Err(DatabaseError::Held(format!(
                "a rejoin of '{store}' was begun on this host and not ended; end it: understudy database rejoin {store} --{}",
                begun.how.name()
            ))),
        }
    }
}
