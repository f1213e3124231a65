//! What the last drills of a database found, kept beside the supervisor's files: for `status`, and for whoever drills
//! next.

use super::drill::Drilled;
use super::error::DatabaseError;
use super::minimal::Place;
use crate::model::gtid::GtidPosition;
use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use crate::support::files;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A drill that came to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastDrill {
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    pub seconds: f64,
    pub position: GtidPosition,
    /// What it found wrong, in words; none if the data is sound.
    pub fault: Option<String>,
}

/// What the last drills found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillNote {
    pub last: Option<LastDrill>,
    /// When a drill last found the data sound.
    #[serde(rename = "proven_ns")]
    pub proven: Option<UnixNanos>,
    /// Why there was no drill since the last one that came to its end.
    pub hindrance: Option<String>,
    /// The positions at which drills found the data sound; the latest last.
    #[serde(default)]
    pub positions: Vec<ProvenAt>,
}

/// A position at which a drill found the data sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProvenAt {
    pub position: GtidPosition,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

/// Maximum number of positions that a note keeps.
const POSITIONS_MAX: usize = 64;

fn path(place: &Place) -> PathBuf {
    place.dir.join("drilled.json")
}

impl DrillNote {
    /// Reads the note; an empty one where there is none.
    pub fn read(place: &Place) -> Self {
        let read = std::fs::read(path(place)).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Notes how a drill ended, that began at a time.
    pub fn write(place: &Place, at: UnixNanos, ended: &Result<Drilled, DatabaseError>) {
        let note = Self::read(place).with(at, ended);
        // On a full disk the old one stays, whose age shows.
        let _ = files::replace(&path(place), &serde_json::to_vec(&note).unwrap_or_default());
    }

    /// Returns when the data was last found sound at this position.
    pub fn proven_at(&self, position: &GtidPosition) -> Option<UnixNanos> {
        self.positions.iter().rfind(|proven| proven.position == *position).map(|proven| proven.at)
    }

    /// Returns this note after a drill. Pure.
    fn with(self, at: UnixNanos, ended: &Result<Drilled, DatabaseError>) -> Self {
        match ended {
            Ok(drilled) => {
                let told = drilled.faults.iter().map(|fault| format!("{}: {}", fault.what, fault.reason));
                let fault = Some(told.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty());
                let proven = if fault.is_none() { Some(at) } else { self.proven };
                let position = drilled.position.clone();
                let is_of_replica = drilled.seed.is_none();
                let mut positions = self.positions.clone();
                if fault.is_none() {
                    positions.retain(|other| other.position != position);
                    positions.push(ProvenAt { position: position.clone(), at });
                    positions.drain(..positions.len().saturating_sub(POSITIONS_MAX));
                }
                if !is_of_replica {
                    return Self { positions, ..self };
                }
                let last = LastDrill { at, seconds: drilled.seconds.all, position, fault };
                Self { last: Some(last), proven, hindrance: None, positions }
            }
            // It says nothing about anything.
            Err(error) if error.kind() == FailureKind::Stopped => self,
            Err(error) => Self { hindrance: Some(error.to_string()), ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::drill_fault::Fault;
    use std::time::Duration;

    #[test]
    fn a_note_says_when_the_data_was_proven_what_was_wrong_since_and_why_it_was_not_looked_at() {
        let at = |seconds| UnixNanos::EPOCH.plus(Duration::from_secs(seconds));
        let sound = Ok(Drilled { position: "1-11-7".parse().unwrap(), ..Drilled::default() });
        let fault = Fault { what: "shop.orders".into(), reason: "corrupt".into() };
        let unsound = Ok(Drilled { faults: vec![fault], ..Drilled::default() });
        let held = Err(DatabaseError::Held("customers wait".into()));
        let one = DrillNote::default().with(at(1), &sound);
        assert_eq!((one.proven, one.last.as_ref().unwrap().fault.clone()), (Some(at(1)), None));
        let two = one.with(at(2), &held);
        assert_eq!(
            (two.last.as_ref().unwrap().at, two.hindrance.as_deref()),
            (at(1), Some("customers wait"))
        );
        let three = two.clone().with(at(3), &Err(DatabaseError::Stopped));
        assert_eq!(three, two);
        let four = three.with(at(4), &unsound);
        assert_eq!(four.proven, Some(at(1)));
        assert_eq!(four.last.as_ref().unwrap().fault.as_deref(), Some("shop.orders: corrupt"));
        assert_eq!(four.hindrance, None);
        assert_eq!(four.proven_at(&"1-11-7".parse().unwrap()), Some(at(1)));
        assert_eq!(four.proven_at(&"1-11-8".parse().unwrap()), None);
    }
}
