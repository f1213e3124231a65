//! A user's name for a snapshot: `acme`, `acme@latest`, `acme@42`, `acme@2026-11-23T10:00`.

use super::id::{IdError, Sequence, StoreName};
use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use thiserror::Error;

/// Choice of one of a store's snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Latest,
    At(Sequence),
    /// The newest snapshot whose scan began at or before this moment.
    AsOf(UnixNanos),
}

/// Reason why a text does not name a snapshot.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotRefError {
    #[error(transparent)]
    Store(#[from] IdError),
    #[error("'{0}' is not a snapshot: use STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)")]
    Moment(String),
}

impl Failure for SnapshotRefError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A store, and one of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRef {
    pub store: StoreName,
    pub moment: Moment,
}

impl SnapshotRef {
    pub fn parse(text: &str) -> Result<Self, SnapshotRefError> {
        let (store, moment) = text.split_once('@').unwrap_or((text, "latest"));
        Ok(Self { store: StoreName::parse(store)?, moment: Moment::parse(moment)? })
    }
}

impl Moment {
    /// Parses `latest`, a number, a date, or a time with or without seconds and zone; without a zone it is
    /// UTC.
    pub fn parse(text: &str) -> Result<Self, SnapshotRefError> {
        let wrong = || SnapshotRefError::Moment(text.to_owned());
        if text == "latest" {
            return Ok(Moment::Latest);
        }
        if let Ok(number) = text.parse() {
            return Ok(Moment::At(Sequence(number)));
        }
        let utc = DateTime::parse_from_rfc3339(text)
            .map(|t| t.naive_utc())
            .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f"))
            .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
            .or_else(|_| {
                // A date means the end of that day, and so its last snapshot.
                NaiveDate::parse_from_str(text, "%Y-%m-%d")
                    .map(|d| d.and_hms_opt(23, 59, 59).unwrap_or_default())
            })
            .map_err(|_| wrong())?;
        let ns = utc.and_utc().timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok());
        ns.map(|ns| Moment::AsOf(UnixNanos(ns))).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_name_a_snapshot() {
        let moment = |text| SnapshotRef::parse(text).map(|r| r.moment);
        assert_eq!(moment("acme"), Ok(Moment::Latest));
        assert_eq!(moment("acme@latest"), Ok(Moment::Latest));
        assert_eq!(moment("acme@42"), Ok(Moment::At(Sequence(42))));
        assert_eq!(moment("acme@1970-01-01T00:01"), Ok(Moment::AsOf(UnixNanos(60_000_000_000))));
        assert_eq!(moment("acme@1970-01-01T01:01:00+01:00"), Ok(Moment::AsOf(UnixNanos(60_000_000_000))));
        assert_eq!(moment("acme@1970-01-01"), Ok(Moment::AsOf(UnixNanos(86_399_000_000_000))));
        for bad in ["acme@", "acme@-1", "acme@yesterday", "@42", "a/b"] {
            assert!(SnapshotRef::parse(bad).is_err(), "{bad}");
        }
    }
}
