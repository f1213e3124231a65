//! The moment to which a database is restored: a transaction, a time, or the end. Pure.
//!
//! History is a line, and a restore is a beginning of it. A time therefore means: all up to the first transaction
//! that was committed later. Times are the server's, to the second.

use crate::format::binlog_event::Ended;
use crate::model::gtid::{Gtid, GtidPosition};
use crate::model::snapshot_ref::Moment;
use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use std::fmt;
use thiserror::Error;

/// Reason why a text is no moment of a database.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "'{0}' is no moment of a database: use latest, a transaction such as 1-11-4711, or a time such as 2026-11-23T10:00 (UTC)"
)]
pub struct TargetError(String);

impl Failure for TargetError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A moment of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Latest,
    /// With this transaction.
    Gtid(Gtid),
    /// With the last transaction of each domain, where a server once was.
    Position(GtidPosition),
    /// With all that was committed up to then.
    Time(UnixNanos),
}

/// What a target says of the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    /// It is the last one.
    ApplyAndStop,
    Stop,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Gtid(gtid) => gtid.fmt(f),
            Self::Position(position) => position.fmt(f),
            Self::Time(time) => time.0.fmt(f),
        }
    }
}

impl Target {
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        // A date has the form of a transaction, whose domain no store has.
        if let Ok(gtid) = text.parse::<Gtid>()
            && gtid.domain.is_store()
        {
            return Ok(Self::Gtid(gtid));
        }
        match Moment::parse(text) {
            Ok(Moment::Latest) => Ok(Self::Latest),
            Ok(Moment::AsOf(time)) => Ok(Self::Time(time)),
            Ok(Moment::At(_)) | Err(_) => Err(TargetError(text.to_owned())),
        }
    }

    /// Returns the moment at which a server was at this position.
    pub fn at(position: &GtidPosition) -> Self {
        let mut gtids = position.gtids();
        match (gtids.next(), gtids.next()) {
            (Some(only), None) => Self::Gtid(only),
            _ => Self::Position(position.clone()),
        }
    }

    /// Returns whether a seed at this position is that moment.
    pub fn is_at(&self, position: &GtidPosition) -> bool {
        match self {
            Self::Gtid(gtid) => position.of(gtid.domain) == Some(*gtid),
            Self::Position(wanted) => wanted == position,
            Self::Latest | Self::Time(_) => false,
        }
    }

    /// Returns whether data at this position has what comes behind the target, or another transaction in its place.
    pub fn is_passed(&self, position: &GtidPosition) -> bool {
        match self {
            Self::Gtid(gtid) => {
                position.of(gtid.domain).is_some_and(|has| has.number >= gtid.number && has != *gtid)
            }
            Self::Position(wanted) => !wanted.covers(position) || wanted.has_other_history(position),
            Self::Latest | Self::Time(_) => false,
        }
    }

    /// Returns whether a seed at this position, which was whole at this time, may come before the target.
    pub fn may_follow(&self, position: &GtidPosition, whole: UnixNanos) -> bool {
        match self {
            Self::Latest => true,
            Self::Gtid(gtid) => position.of(gtid.domain).is_none_or(|last| last.number <= gtid.number),
            Self::Position(wanted) => wanted.covers(position),
            Self::Time(time) => whole <= *time,
        }
    }

    /// Judges the next transaction.
    pub fn judge(&self, ended: &Ended) -> Verdict {
        match self {
            Self::Latest => Verdict::Apply,
            Self::Gtid(gtid) if *gtid == ended.gtid => Verdict::ApplyAndStop,
            Self::Gtid(gtid) if gtid.domain == ended.gtid.domain && ended.gtid.number >= gtid.number => {
                Verdict::Stop
            }
            Self::Gtid(_) => Verdict::Apply,
            // The last one of a domain may not be the last one of all.
            Self::Position(wanted) => match wanted.of(ended.gtid.domain) {
                Some(last) if ended.gtid.number <= last.number => Verdict::Apply,
                _ => Verdict::Stop,
            },
            Self::Time(time) if u64::from(ended.committed_s) * 1_000_000_000 > time.0 => Verdict::Stop,
            Self::Time(_) => Verdict::Apply,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_and_a_date_is_no_transaction() {
        assert_eq!(Target::parse("latest"), Ok(Target::Latest));
        assert_eq!(Target::parse("1-11-42"), Ok(Target::Gtid("1-11-42".parse().unwrap())));
        let day = Target::parse("2026-11-30").unwrap();
        assert!(matches!(day, Target::Time(_)), "{day:?}");
        assert!(matches!(Target::parse("2026-11-30T12:00:05Z"), Ok(Target::Time(_))));
        for wrong in ["", "7", "yesterday", "1-11", "950-1-1"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_restore_ends_with_the_transaction_or_before_the_first_that_is_later() {
        let ended = |text: &str, committed_s| Ended { gtid: text.parse().unwrap(), committed_s };
        let gtid = Target::Gtid("1-11-5".parse().unwrap());
        assert_eq!(gtid.judge(&ended("1-11-4", 9)), Verdict::Apply);
        assert_eq!(gtid.judge(&ended("7-11-9", 9)), Verdict::Apply);
        assert_eq!(gtid.judge(&ended("1-11-5", 9)), Verdict::ApplyAndStop);
        assert_eq!(gtid.judge(&ended("1-12-5", 9)), Verdict::Stop);
        let both = Target::at(&"1-11-5,7-3-2".parse().unwrap());
        assert_eq!(both.judge(&ended("7-3-2", 9)), Verdict::Apply);
        assert_eq!(both.judge(&ended("1-11-5", 9)), Verdict::Apply);
        assert_eq!(both.judge(&ended("1-11-6", 9)), Verdict::Stop);
        assert_eq!(both.judge(&ended("8-3-1", 9)), Verdict::Stop);
        assert_eq!(Target::at(&"1-11-5".parse().unwrap()), gtid);
        let time = Target::Time(UnixNanos(10_500_000_000));
        assert_eq!(time.judge(&ended("1-11-4", 10)), Verdict::Apply);
        assert_eq!(time.judge(&ended("1-11-5", 11)), Verdict::Stop);
        let at = |text: &str| text.parse::<GtidPosition>().unwrap();
        assert!(
            gtid.may_follow(&at("1-11-5"), UnixNanos(0)) && !gtid.may_follow(&at("1-11-6"), UnixNanos(0))
        );
        assert!(
            time.may_follow(&at("1-11-6"), UnixNanos(10)) && !time.may_follow(&at("1-1-1"), UnixNanos::MAX)
        );
    }
}
