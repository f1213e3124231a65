//! Positions in a database's history, as MariaDB counts it: global transaction ids.
//!
//! A transaction has a domain, the server that committed it first, and a number that grows within the domain.
//! A position names the last transaction of each domain. Pure; whatever text a server sends is a position or an
//! error.

use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Maximum length of a text that is shown in an error.
const SHOWN_MAX_CHARS: usize = 80;

/// Reason why a text is not a position.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GtidError {
    #[error("'{0}' is no transaction id of MariaDB's: DOMAIN-SERVER-NUMBER, such as 1-11-4711")]
    Text(String),
    #[error("'{0}' is a transaction id of MySQL's, which is not supported; only MariaDB is")]
    Mysql(String),
    #[error("domain {0} is named twice")]
    Twice(u32),
}

impl Failure for GtidError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// First domain of standbys, for what their servers write by themselves; a store's own domain lies below.
pub const STANDBY_DOMAINS: u32 = 900;

/// An independent sequence of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainId(pub u32);

impl DomainId {
    /// Returns whether a store's transactions are in it, and not what a standby writes by itself.
    pub fn is_store(self) -> bool {
        self.0 < STANDBY_DOMAINS
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A database server's number; no two servers of a store have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u32);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid {
    pub domain: DomainId,
    pub server: ServerId,
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.number)
    }
}

impl FromStr for Gtid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let wrong = || GtidError::Text(text.chars().take(SHOWN_MAX_CHARS).collect());
        // `parse` would take a sign.
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        let [domain, server, number] = parts[..] else { return Err(wrong()) };
        if ![domain, server, number].into_iter().all(digits) {
            return Err(wrong());
        }
        Ok(Self {
            domain: DomainId(domain.parse().map_err(|_| wrong())?),
            server: ServerId(server.parse().map_err(|_| wrong())?),
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

/// The last transaction of each domain; none at the very beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidPosition(BTreeMap<DomainId, (ServerId, u64)>);

impl GtidPosition {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the last transactions, one a domain.
    pub fn gtids(&self) -> impl Iterator<Item = Gtid> {
        self.0.iter().map(|(domain, (server, number))| Gtid {
            domain: *domain,
            server: *server,
            number: *number,
        })
    }

    /// Returns the last transaction of a domain.
    pub fn of(&self, domain: DomainId) -> Option<Gtid> {
        let (server, number) = *self.0.get(&domain)?;
        Some(Gtid { domain, server, number })
    }

    /// Returns whether all of the other position's transactions are in this one's past, or are its last.
    ///
    /// Only numbers are compared: that is right within one history. Where two servers wrote on from a common
    /// transaction, both count on from the same number, and [`Self::has_other_history`] may tell.
    pub fn covers(&self, other: &Self) -> bool {
        other.gtids().all(|theirs| self.of(theirs.domain).is_some_and(|ours| ours.number >= theirs.number))
    }

    /// Returns whether the two name different transactions by the same number, so that one of the servers has
    /// what the other never had.
    pub fn has_other_history(&self, other: &Self) -> bool {
        other.gtids().any(|theirs| {
            self.of(theirs.domain)
                .is_some_and(|ours| ours.number == theirs.number && ours.server != theirs.server)
        })
    }

    /// Returns how many transactions of the other position are not in this one.
    pub fn behind(&self, other: &Self) -> u64 {
        let missing =
            |theirs: Gtid| theirs.number.saturating_sub(self.of(theirs.domain).map_or(0, |ours| ours.number));
        other.gtids().map(missing).fold(0, u64::saturating_add)
    }

    /// Moves on by a transaction. One of a standby's own domain belongs to no position.
    ///
    /// # Errors
    /// The last transaction of the domain, which this one does not follow.
    pub fn advance(&mut self, gtid: Gtid) -> Result<(), Gtid> {
        if !gtid.domain.is_store() {
            return Ok(());
        }
        if let Some(last) = self.of(gtid.domain)
            && gtid.number <= last.number
        {
            return Err(last);
        }
        self.0.insert(gtid.domain, (gtid.server, gtid.number));
        Ok(())
    }

    /// Returns this position without what standbys wrote by themselves, such as the emptying of MEMORY tables.
    pub fn of_store(&self) -> Self {
        self.filtered(DomainId::is_store)
    }

    /// Returns this position without the domains for which `keep` returns false.
    pub fn filtered(&self, keep: impl Fn(DomainId) -> bool) -> Self {
        Self(self.0.iter().filter(|(domain, _)| keep(**domain)).map(|(k, v)| (*k, *v)).collect())
    }
}

impl FromIterator<Gtid> for GtidPosition {
    /// Collects transactions; of a domain's, the one with the highest number counts.
    fn from_iter<I: IntoIterator<Item = Gtid>>(gtids: I) -> Self {
        let mut position = Self::default();
        for gtid in gtids {
            let last = position.0.entry(gtid.domain).or_insert((gtid.server, gtid.number));
            if gtid.number > last.1 {
                *last = (gtid.server, gtid.number);
            }
        }
        position
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, gtid) in self.gtids().enumerate() {
            write!(f, "{}{gtid}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for GtidPosition {
    type Err = GtidError;

    /// Parses transactions, separated by commas; blanks and line ends around them are left out.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut position = Self::default();
        if text.trim().is_empty() {
            return Ok(position);
        }
        for part in text.split(',').map(str::trim) {
            if part.contains(':') {
                return Err(GtidError::Mysql(part.chars().take(SHOWN_MAX_CHARS).collect()));
            }
            let gtid: Gtid = part.parse()?;
            if position.0.insert(gtid.domain, (gtid.server, gtid.number)).is_some() {
                return Err(GtidError::Twice(gtid.domain.0));
            }
        }
        Ok(position)
    }
}

impl Serialize for GtidPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GtidPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(text: &str) -> GtidPosition {
        text.parse().unwrap()
    }

    #[test]
    fn a_position_is_read_and_written() {
        let read = position(" 7-11-3,\n1-2-9 ");
        assert_eq!(read.to_string(), "1-2-9,7-11-3");
        assert_eq!(read.of(DomainId(7)).unwrap().server, ServerId(11));
        assert!(position("").is_empty() && position("").to_string().is_empty());
        let wrong = |text: &str| text.parse::<GtidPosition>().unwrap_err();
        for text in ["1-2", "1-2-3-4", "1-+2-3", "1-2-", ",", "1-2-3,", "4294967296-1-1", "a-b-c", "-1-2-3"] {
            assert!(matches!(wrong(text), GtidError::Text(_)), "{text}");
        }
        assert_eq!(wrong("1-2-3,1-9-4"), GtidError::Twice(1));
        let mysql = "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5";
        assert!(wrong(mysql).to_string().contains("MySQL"));
    }

    #[test]
    fn the_same_number_of_another_server_is_another_history() {
        let (one, two) = (position("1-1-72169"), position("1-11-72169"));
        assert!(one.covers(&two) && one.has_other_history(&two));
        assert!(!one.has_other_history(&position("1-11-72168")));
        assert_eq!(position("1-1-5").behind(&position("1-1-8,2-1-3")), 6);
        assert_eq!(position("1-1-5,900-3-1").filtered(|domain| domain.0 < 900), position("1-1-5"));
    }

    #[test]
    fn a_position_moves_on_by_what_follows_it_and_not_by_what_a_standby_wrote() {
        let gtid = |text: &str| text.parse::<Gtid>().unwrap();
        let mut at = position("1-11-5");
        assert_eq!(at.advance(gtid("1-12-6")), Ok(()));
        assert_eq!(at.advance(gtid("7-11-1")), Ok(()));
        assert_eq!(at.advance(gtid("900-3-1")), Ok(()));
        assert_eq!(at.to_string(), "1-12-6,7-11-1");
        assert_eq!(at.advance(gtid("1-11-6")), Err(gtid("1-12-6")));
        assert_eq!(position("1-11-5,900-3-1").of_store(), position("1-11-5"));
    }

    fn gtids() -> impl Strategy<Value = GtidPosition> {
        let gtid = (0u32..4, any::<u32>(), any::<u64>()).prop_map(|(domain, server, number)| Gtid {
            domain: DomainId(domain),
            server: ServerId(server),
            number,
        });
        prop::collection::vec(gtid, 0..6).prop_map(|gtids| gtids.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(position in gtids()) {
            prop_assert_eq!(position.to_string().parse::<GtidPosition>().unwrap(), position);
        }

        #[test]
        fn covering_is_an_order_and_means_to_be_behind_by_nothing(
            one in gtids(), two in gtids(), three in gtids()
        ) {
            prop_assert!(one.covers(&one) && one.covers(&GtidPosition::default()));
            prop_assert!(!(one.covers(&two) && two.covers(&three)) || one.covers(&three));
            // Number 0 is no transaction.
            let two = two.gtids().filter(|gtid| gtid.number > 0).collect();
            prop_assert_eq!(one.covers(&two), one.behind(&two) == 0);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(position) = text.parse::<GtidPosition>() {
                prop_assert_eq!(position.to_string().parse::<GtidPosition>().unwrap(), position);
            }
        }
    }
}
