//! A decision about a store, signed by one of its members for one place in the log.
//!
//! Pure. What is signed is the decision's text as it stands in the record, together with the place: so a
//! decision that is copied into another record, another log or another epoch is not signed there. A text has
//! one form: a reader that encodes what it read must get the same bytes, so that no two readers can
//! understand one text differently.

use super::gtid::GtidPosition;
use super::id::{ContentHash, Epoch, Incarnation, IndexId, PackId, Sequence, StoreName, WriterId};
use super::manifest_root::{ManifestRoot, ObjectRef};
use super::member::Member;
use super::vote::{Vote, put_text};
use crate::support::clock::UnixNanos;
use crate::support::signature::{PublicKey, Signature, SigningKey};
use serde::{Deserialize, Serialize};

/// A decision, and the member that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// The JSON of a [`Statement`], as it was signed.
    pub statement: String,
    pub member: WriterId,
    pub signature: Signature,
}

/// A decision, and when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Time by the maker's clock, to be shown: nothing else depends on it.
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    pub decision: Decision,
}

/// The content of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Decision {
    /// The members from now on. The first such decision founds the store: its maker becomes the primary.
    Members {
        members: Vec<Member>,
    },
    /// The maker becomes the primary of the next epoch.
    Promoted(Promoted),
    /// The primary has committed its last snapshot, and another member takes over. Until it has, or the
    /// primary cancels, no snapshot is admitted.
    Handover {
        to: WriterId,
        snapshot: Sequence,
        /// The last transaction of the primary's database.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<GtidPosition>,
        /// Why the primary hands over by itself; none if a person wants it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The primary goes on.
    Cancelled {
        handover: Sequence,
        reason: String,
    },
    /// A promotion was carried out.
    Completed {
        promotion: Sequence,
        steps: Vec<StepTime>,
        /// All that the new primary's database had applied when it stopped being a replica.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<GtidPosition>,
    },
    /// No promotion by votes until `Resumed`.
    Paused {
        person: String,
        reason: String,
    },
    Resumed {
        person: String,
    },
    /// The standbys whose acknowledgement the primary's database waits for before a customer is told that a
    /// transaction is done.
    Synced {
        standbys: Vec<WriterId>,
    },
    /// What only a former primary has.
    Stranded(Stranded),
    /// What was stranded was taken over or given up by a person.
    Settled {
        stranded: Sequence,
        taken: u64,
        dropped: u64,
        person: String,
    },
}

impl Decision {
    /// Returns the word for it in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Members { .. } => "members",
            Self::Promoted(_) => "promoted",
            Self::Handover { .. } => "handover",
            Self::Cancelled { .. } => "cancelled",
            Self::Completed { .. } => "completed",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Synced { .. } => "synced",
            Self::Stranded(_) => "stranded",
            Self::Settled { .. } => "settled",
        }
    }
}

/// A change of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promoted {
    pub primary: WriterId,
    /// The process that was promoted, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    pub cause: Cause,
    /// The snapshot that the new primary begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Sequence>,
    pub loss: Loss,
    pub reason: String,
}

/// The ground on which a host became the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Cause {
    /// The store got members.
    Founding,
    /// The former primary handed over in this record.
    Handover { handover: Sequence },
    /// A person decided it; `attested` if that person has said that the former primary is down.
    Forced { person: String, attested: bool },
    /// Enough watchers found the former primary dead.
    Automatic { votes: Vec<Vote> },
    /// The promotion of this record is taken back: its primary never opened.
    Rollback { promotion: Sequence },
}

impl Cause {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Founding => "founding",
            Self::Handover { .. } => "handover",
            Self::Forced { .. } => "forced",
            Self::Automatic { .. } => "automatic",
            Self::Rollback { .. } => "rollback",
        }
    }
}

/// The loss that was stated before a promotion; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Seconds since the start of the base's scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Number of files that changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Number of the database's transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
}

/// The time that a step of a promotion took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTime {
    pub step: String,
    pub ms: u64,
}

/// What only a former primary has: a tree like a snapshot's, which is never the latest one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stranded {
    /// The epoch in which the host was the primary.
    pub of_epoch: Epoch,
    /// The snapshot with which the tree was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Sequence>,
    pub manifest: ManifestRoot,
    pub new_packs: Vec<ObjectRef<PackId>>,
    pub new_index: Vec<ObjectRef<IndexId>>,
    /// Number of paths that only the former primary has.
    pub added: u64,
    /// Number of paths that differ.
    pub changed: u64,
    /// Number of paths that the former primary no longer had.
    pub removed: u64,
}

/// The place that a decision is signed for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub store: &'a StoreName,
    pub sequence: Sequence,
    pub previous: Option<ContentHash>,
    /// The epoch of the record.
    pub epoch: Epoch,
}

impl Place<'_> {
    fn message(&self, member: &WriterId, statement: &str) -> Vec<u8> {
        let mut message = Vec::with_capacity(256 + statement.len());
        message.extend_from_slice(b"understudy decision 1");
        put_text(&mut message, self.store.as_str());
        message.extend_from_slice(&self.sequence.0.to_le_bytes());
        message.extend_from_slice(&self.previous.map_or([0; 32], |hash| hash.0));
        message.extend_from_slice(&self.epoch.0.to_le_bytes());
        put_text(&mut message, &member.0);
        put_text(&mut message, statement);
        message
    }
}

impl Decided {
    /// Signs a decision for one place.
    ///
    /// # Errors
    /// The statement has no JSON; that does not happen.
    pub(crate) fn sign(
        statement: &Statement,
        member: &WriterId,
        key: &SigningKey,
        place: &Place,
    ) -> Result<Self, serde_json::Error> {
        let statement = serde_json::to_string(statement)?;
        let signature = key.sign(&place.message(member, &statement));
        Ok(Self { statement, member: member.clone(), signature })
    }

    /// Returns whether the holder of `key` signed it for this place.
    pub(crate) fn is_signed(&self, key: &PublicKey, place: &Place) -> bool {
        key.has_signed(&place.message(&self.member, &self.statement), &self.signature)
    }

    /// Returns the decision; none unless its text has the one form.
    pub fn statement(&self) -> Option<Statement> {
        let statement: Statement = serde_json::from_str(&self.statement).ok()?;
        (serde_json::to_string(&statement).ok()? == self.statement).then_some(statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_one_form() {
        let read = |text: &str| {
            let signature = Signature([0; 64]);
            Decided { statement: text.into(), member: WriterId("a".into()), signature }.statement()
        };
        let good = r#"{"at_ns":7,"decision":{"kind":"handover","to":"b","snapshot":3}}"#;
        let to = WriterId("b".into());
        let decision = Decision::Handover { to, snapshot: Sequence(3), database: None, reason: None };
        assert_eq!(read(good), Some(Statement { at: UnixNanos(7), decision }));
        for bad in [
            r#" {"at_ns":7,"decision":{"kind":"handover","to":"b","snapshot":3}}"#,
            r#"{"at_ns":7, "decision":{"kind":"handover","to":"b","snapshot":3}}"#,
            r#"{"decision":{"kind":"handover","to":"b","snapshot":3},"at_ns":7}"#,
            r#"{"at_ns":7,"decision":{"kind":"handover","snapshot":3,"to":"b"}}"#,
            r#"{"at_ns":7,"decision":{"kind":"handover","to":"b","snapshot":3,"more":1}}"#,
            r#"{"at_ns":7,"decision":{"kind":"handover","to":"\u0062","snapshot":3}}"#,
            r#"{"at_ns":7,"decision":{"kind":"handover","to":"b","to":"c","snapshot":3}}"#,
            r#"{"at_ns":7.0,"decision":{"kind":"handover","to":"b","snapshot":3}}"#,
            r#"{"at_ns":7,"decision":{"kind":"surrender"}}"#,
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_decision_comes_back_from_its_text() {
        let host = || WriterId("b \"ü\u{1}".into());
        let root =
            ManifestRoot { page: super::super::id::ChunkId([7; 32]), height: 1, entries: 2, size_bytes: 3 };
        let loss = Loss { seconds: Some(7), files: None, transactions: Some(0) };
        let promoted = |cause| {
            let (base, incarnation) = (Some(Sequence(3)), Some(Incarnation(u64::MAX)));
            let reason = "it burns".to_owned();
            Decision::Promoted(Promoted {
                primary: host(),
                incarnation,
                cause,
                base,
                loss: loss.clone(),
                reason,
            })
        };
        let stranded = Stranded {
            of_epoch: Epoch(1),
            base: None,
            manifest: root,
            new_packs: vec![ObjectRef { id: PackId([1; 32]), size_bytes: 5 }],
            new_index: vec![ObjectRef { id: IndexId([1; 32]), size_bytes: 5 }],
            added: 1,
            changed: 2,
            removed: 3,
        };
        let person = || "ops@example.com".to_owned();
        let steps = vec![StepTime { step: "fence".into(), ms: 12 }];
        for decision in [
            promoted(Cause::Founding),
            promoted(Cause::Handover { handover: Sequence(4) }),
            promoted(Cause::Forced { person: person(), attested: true }),
            promoted(Cause::Automatic { votes: Vec::new() }),
            promoted(Cause::Rollback { promotion: Sequence(4) }),
            Decision::Members { members: Vec::new() },
            Decision::Handover { to: host(), snapshot: Sequence(3), database: None, reason: None },
            Decision::Cancelled { handover: Sequence(4), reason: person() },
            Decision::Completed {
                promotion: Sequence(4),
                steps,
                database: Some("1-11-4711".parse().unwrap()),
            },
            Decision::Paused { person: person(), reason: person() },
            Decision::Resumed { person: person() },
            Decision::Stranded(stranded),
            Decision::Settled { stranded: Sequence(9), taken: 1, dropped: 2, person: person() },
        ] {
            let text =
                serde_json::to_string(&Statement { at: UnixNanos(1), decision: decision.clone() }).unwrap();
            assert!(text.contains(&format!("\"kind\":\"{}\"", decision.name())), "{text}");
            let signature = Signature([0; 64]);
            let decided = Decided { statement: text, member: host(), signature };
            assert_eq!(decided.statement().map(|statement| statement.decision), Some(decision));
        }
    }
}
