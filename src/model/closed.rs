//! A host's statement that it is closed: it serves nothing, and the log had this record when it said so.
//!
//! Pure. It names the record by number and hash, so a statement about another log of the same name, or about
//! a log that was replaced, is none about this one.

use super::id::{ContentHash, Sequence, StoreName, WriterId};
use super::member::Member;
use super::signed::{Signed, SignedPlace};
use crate::support::signature::SigningKey;
use serde::{Deserialize, Serialize};

const DOMAIN: &str = "understudy closed 1";

/// What a statement says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    /// Hash of the log's last record when the host was closed.
    pub record: ContentHash,
}

fn place<'a>(store: &'a StoreName, host: &'a WriterId, at: Sequence) -> SignedPlace<'a> {
    SignedPlace { domain: DOMAIN, store: store.as_str(), host, number: at.0 }
}

impl Closed {
    /// Signs the statement of `host`.
    ///
    /// # Errors
    /// It has no JSON; that does not happen.
    pub fn sign(
        &self,
        store: &StoreName,
        host: &WriterId,
        at: Sequence,
        key: &SigningKey,
    ) -> Result<Signed, serde_json::Error> {
        Signed::sign(self, host, key, &place(store, host, at))
    }

    /// Returns what `host` stated at `at`; none if it did not.
    pub fn read(
        bytes: &[u8],
        store: &StoreName,
        host: &WriterId,
        at: Sequence,
        members: &[Member],
    ) -> Option<Self> {
        let signed = Signed::parse(bytes).filter(|signed| signed.member == *host)?;
        let member = members.iter().find(|member| member.name == *host && member.may_serve())?;
        signed.said(&member.key, &place(store, host, at))
    }
}
