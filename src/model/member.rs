//! The members of a store: the hosts that may decide about it, each with the key that it signs with.
//!
//! Pure. A list is checked as a whole before it counts: names and keys differ, so that a signature is one
//! member's, and everything that people will read is short and harmless to show.

use super::escape;
use super::id::WriterId;
use crate::support::failure::{Failure, FailureKind};
use crate::support::signature::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use thiserror::Error;

/// Maximum number of a store's members.
pub(crate) const MEMBERS_MAX: usize = 32;
/// Maximum length of a name, an address, a zone, a person, a reason.
pub(crate) const TEXT_MAX_BYTES: usize = 200;

/// An activity that a member is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// To be the primary, and to decide.
    Serve,
    /// To vote about whether the primary is alive.
    Watch,
}

impl May {
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Watch => "watch",
        }
    }
}

/// A host that may decide about a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub name: WriterId,
    pub key: PublicKey,
    /// Where the host's daemon answers other members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where an edge, or another member's gate, reaches the host's gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customers: Option<String>,
    /// Where standbys reach the server of the host's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Hosts of one zone may fail together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    pub may: BTreeSet<May>,
}

impl Member {
    pub fn may_serve(&self) -> bool {
        self.may.contains(&May::Serve)
    }

    pub fn may_watch(&self) -> bool {
        self.may.contains(&May::Watch)
    }

    /// Returns why a list cannot have this member.
    fn check(&self) -> Result<(), MembersError> {
        let told = [&self.address, &self.customers, &self.database, &self.zone];
        let texts = told.into_iter().map(Option::as_ref).chain([Some(&self.name.0)]);
        match texts.flatten().all(|text| is_text(text)) {
            false => Err(MembersError::Text(self.name.clone())),
            true if self.may.is_empty() => Err(MembersError::Idle(self.name.clone())),
            true => Ok(()),
        }
    }
}

#[cfg(test)]
impl Member {
    /// Returns a member without addresses and zone, for tests.
    pub(crate) fn sample(name: &str, key: PublicKey, may: &[May]) -> Self {
        let (name, may) = (WriterId(name.into()), may.iter().copied().collect());
        Self { name, key, address: None, customers: None, database: None, zone: None, may }
    }
}

/// Returns whether a text can be shown in a line as it is: 1 to 200 bytes, none of which steers a terminal.
pub(crate) fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX_BYTES && !text.chars().any(escape::is_steering)
}

/// Returns a text that a person wrote, short enough for a record.
pub(crate) fn shortened(mut text: String) -> String {
    const CUT: char = '…';
    if text.len() > TEXT_MAX_BYTES {
        text.truncate(text.floor_char_boundary(TEXT_MAX_BYTES - CUT.len_utf8()));
        text.push(CUT);
    }
    text
}

/// Reason why a list of members cannot be in force.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MembersError {
    #[error("a store has 1 to {MEMBERS_MAX} members, and this list has {0}")]
    Count(usize),
    #[error(
        "member '{0}': its name, addresses and zone must each have 1 to {TEXT_MAX_BYTES} bytes, without control characters"
    )]
    Text(WriterId),
    #[error("member '{0}' may neither serve nor watch")]
    Idle(WriterId),
    #[error("member '{0}' is listed twice, or has another member's key")]
    Twice(WriterId),
}

impl Failure for MembersError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// Checks a whole list.
pub(crate) fn check(members: &[Member]) -> Result<(), MembersError> {
    if members.is_empty() || members.len() > MEMBERS_MAX {
        return Err(MembersError::Count(members.len()));
    }
    for (at, member) in members.iter().enumerate() {
        member.check()?;
        let is_same = |other: &Member| other.name == member.name || other.key == member.key;
        if members[..at].iter().any(is_same) {
            return Err(MembersError::Twice(member.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, key: u8) -> Member {
        Member::sample(name, PublicKey([key; 32]), &[May::Serve])
    }

    #[test]
    fn a_list_has_different_names_and_keys_and_texts_that_can_be_shown() {
        let good = [member("a", 1), member("b", 2)];
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&[]), Err(MembersError::Count(0)));
        let many: Vec<_> = (0..33).map(|n| member(&n.to_string(), n)).collect();
        assert_eq!((check(&many), check(&many[1..])), (Err(MembersError::Count(33)), Ok(())));
        let twice = |other| check(&[member("a", 1), other]);
        assert!(matches!(twice(member("a", 2)), Err(MembersError::Twice(_))));
        assert!(matches!(twice(member("b", 1)), Err(MembersError::Twice(_))));
        for name in ["", "a\u{202e}b", "a\nb", &"a".repeat(201)] {
            assert!(matches!(check(&[member(name, 1)]), Err(MembersError::Text(_))), "{name:?}");
        }
        let zone = Some("\u{1b}[2J".to_owned());
        assert!(matches!(check(&[Member { zone, ..member("a", 1) }]), Err(MembersError::Text(_))));
        let idle = Member { may: BTreeSet::new(), ..member("a", 1) };
        assert!(matches!(check(&[idle]), Err(MembersError::Idle(_))));
    }
}
