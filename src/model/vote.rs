//! A watcher's vote about the primary: signed by itself, about one epoch and one state of the primary's lease.
//!
//! Pure. A vote says what a watcher saw while the lease stood at one number, so that any renewal makes every
//! earlier vote void. Votes are counted in the promotion that carries them.

use super::id::{Epoch, Incarnation, StoreName, WriterId};
use super::member::Member;
use crate::support::clock::UnixNanos;
use crate::support::signature::{PublicKey, Signature, SigningKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A vote, and the watcher that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    pub member: WriterId,
    /// The JSON of a [`Finding`], as it was signed.
    pub statement: String,
    pub signature: Signature,
}

/// What a watcher found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Time by the watcher's clock, to be shown.
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    /// The host that it was about.
    pub primary: WriterId,
    /// The process that held the lease, and the lease's number.
    pub incarnation: Incarnation,
    pub lease: u64,
    /// The probes that failed.
    pub failed: Vec<String>,
}

/// Appends a text's length and bytes to what is signed.
pub(crate) fn put_text(message: &mut Vec<u8>, text: &str) {
    message.extend_from_slice(&(text.len() as u64).to_le_bytes());
    message.extend_from_slice(text.as_bytes());
}

fn message(store: &StoreName, epoch: Epoch, member: &WriterId, statement: &str) -> Vec<u8> {
    let mut message = b"understudy vote 1".to_vec();
    put_text(&mut message, store.as_str());
    message.extend_from_slice(&epoch.0.to_le_bytes());
    put_text(&mut message, &member.0);
    put_text(&mut message, statement);
    message
}

impl Vote {
    /// Signs a vote in an epoch.
    ///
    /// # Errors
    /// The finding has no JSON; that does not happen.
    pub fn sign(
        finding: &Finding,
        member: &WriterId,
        key: &SigningKey,
        store: &StoreName,
        epoch: Epoch,
    ) -> Result<Self, serde_json::Error> {
        let statement = serde_json::to_string(finding)?;
        let signature = key.sign(&message(store, epoch, member, &statement));
        Ok(Self { member: member.clone(), statement, signature })
    }

    /// Returns what the watcher found; none unless the text has its one form and the watcher signed it.
    pub fn finding(&self, key: &PublicKey, store: &StoreName, epoch: Epoch) -> Option<Finding> {
        let finding: Finding = serde_json::from_str(&self.statement).ok()?;
        let is_plain = serde_json::to_string(&finding).ok()? == self.statement;
        let message = message(store, epoch, &self.member, &self.statement);
        (is_plain && key.has_signed(&message, &self.signature)).then_some(finding)
    }
}

/// Returns the votes that count about this number of the primary's lease: the largest part of them that is about one
/// process. What is signed by nobody who may vote, or is about something else, is left out.
pub fn counted(
    votes: Vec<Vote>,
    members: &[Member],
    store: &StoreName,
    epoch: Epoch,
    (primary, lease): (&WriterId, u64),
) -> Vec<Vote> {
    let mut of_process: BTreeMap<u64, BTreeMap<String, Vote>> = BTreeMap::new();
    for vote in votes {
        let voter = voters(members, primary).find(|member| member.name == vote.member);
        let finding = voter.and_then(|voter| vote.finding(&voter.key, store, epoch));
        let finding = finding.filter(|finding| finding.primary == *primary && finding.lease == lease);
        if let Some(finding) = finding {
            of_process.entry(finding.incarnation.0).or_default().insert(vote.member.0.clone(), vote);
        }
    }
    let most = of_process.into_values().max_by_key(BTreeMap::len);
    most.unwrap_or_default().into_values().collect()
}

/// Returns the members whose votes count about `primary`: those that may watch, without itself.
pub fn voters<'a>(members: &'a [Member], primary: &WriterId) -> impl Iterator<Item = &'a Member> {
    members.iter().filter(move |member| member.may_watch() && member.name != *primary)
}

/// Returns the number of votes that replace `primary`: more than half of those that may vote about it.
pub fn majority(members: &[Member], primary: &WriterId) -> usize {
    voters(members, primary).count() / 2 + 1
}

/// Returns whether the votes are enough to replace `primary` in this epoch: of more than half of the members
/// that may vote about it, all about one number of one lease.
///
/// Votes guard against failovers that nobody needs. That no two hosts serve does not depend on them: the new
/// primary waits for the lease all the same.
pub fn is_enough(
    votes: &[Vote],
    members: &[Member],
    store: &StoreName,
    epoch: Epoch,
    primary: &WriterId,
) -> bool {
    let mut names = BTreeSet::new();
    let mut lease = None;
    for vote in votes {
        let watcher = voters(members, primary).find(|member| member.name == vote.member);
        let finding = watcher.and_then(|watcher| vote.finding(&watcher.key, store, epoch));
        let Some(finding) = finding.filter(|finding| finding.primary == *primary) else { return false };
        let seen = (finding.incarnation, finding.lease);
        if *lease.get_or_insert(seen) != seen || !names.insert(&vote.member.0) {
            return false;
        }
    }
    names.len() >= majority(members, primary)
}
