//! The form of a request from one member to another, and of its answer. Pure.
//!
//! Both are texts signed for a place (see `model::signed`): the store, the host that is to read it, and the
//! request's number. The kinds of text have different domains, so neither can be taken for the other.

use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, StoreName, WriterId};
use crate::model::signed::{SIGNED_MAX_BYTES, Signed, SignedPlace};
use crate::support::clock::UnixNanos;
use crate::support::signature::{PublicKey, SigningKey};
use serde::{Deserialize, Serialize};

const ASK_DOMAIN: &str = "understudy ask 1";
const ANSWER_DOMAIN: &str = "understudy answer 1";

/// Maximum size of a request, and of an answer.
pub const ASK_MAX_BYTES: usize = SIGNED_MAX_BYTES;

/// What a member asks of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// To open nothing for a while: the asker is the primary of this epoch.
    Promise { epoch: Epoch },
    /// To read the log now.
    Look,
    /// Whether it could serve.
    Ready,
    /// Whether its database acknowledges what it receives, and has received all up to a position.
    Received { position: GtidPosition },
    /// Whether it would become the primary if a person wanted it.
    WouldTakeOver,
    /// Of the primary, by a watcher: whether it serves. The watcher does not see customers served in this epoch, for
    /// these reasons.
    Serves { epoch: Epoch, failed: Vec<String> },
    /// Of a watcher: whether it has seen no customer served in this epoch for a while.
    SawNobodyServed { epoch: Epoch },
    /// To hand over to a member, because a person wants it.
    HandOver { to: WriterId, person: String },
    /// Whether it is handing over to a member, or about to.
    HandsOver { to: WriterId },
    /// To cancel a handover, because a person wants it.
    KeepServing { person: String },
    /// To become the primary though nobody handed over, because a person wants it.
    TakeOver {
        person: String,
        reason: String,
        /// The snapshot to begin with; none is the latest.
        at: Option<Sequence>,
    },
    /// To take a person's word that a former primary is down.
    Attest { host: WriterId, person: String },
}

impl Ask {
    /// Returns whether a member may ask it that only watches.
    pub fn is_for_watchers(&self) -> bool {
        matches!(self, Self::Serves { .. })
    }

    /// Returns the person who wants it; none if it does not matter how often it is asked.
    pub fn person(&self) -> Option<&str> {
        match self {
            Self::Promise { .. }
            | Self::Look
            | Self::Ready
            | Self::Received { .. }
            | Self::WouldTakeOver
            | Self::Serves { .. }
            | Self::SawNobodyServed { .. }
            | Self::HandsOver { .. } => None,
            Self::HandOver { person, .. }
            | Self::KeepServing { person }
            | Self::TakeOver { person, .. }
            | Self::Attest { person, .. } => Some(person),
        }
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It is done, or begun.
    Done,
    /// It is not done, for these reasons.
    Refused { reasons: Vec<String> },
}

/// What the asker signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The wall clock of the host that asks.
    pub at: UnixNanos,
    pub ask: Ask,
}

/// A request, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub store: StoreName,
    /// The host that is asked.
    pub asked: WriterId,
    /// A number that the asker drew for this request.
    pub nonce: u64,
    pub signed: Signed,
}

/// Where a request goes, and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressee {
    pub store: StoreName,
    pub asked: WriterId,
    pub nonce: u64,
}

fn place<'a>(
    domain: &'static str,
    store: &'a StoreName,
    reader: &'a WriterId,
    nonce: u64,
) -> SignedPlace<'a> {
    SignedPlace { domain, store: store.as_str(), host: reader, number: nonce }
}

impl Question {
    /// Signs a request of the member `me`.
    ///
    /// # Errors
    /// It has no JSON; that does not happen.
    pub fn sign(
        to: Addressee,
        said: &Asked,
        me: &WriterId,
        key: &SigningKey,
    ) -> Result<Self, serde_json::Error> {
        let Addressee { store, asked, nonce } = to;
        let signed = Signed::sign(said, me, key, &place(ASK_DOMAIN, &store, &asked, nonce))?;
        Ok(Self { store, asked, nonce, signed })
    }

    /// Returns the text that is sent.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the request in a text; none if there is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= ASK_MAX_BYTES).then(|| serde_json::from_slice(bytes).ok())?
    }

    /// Returns the member that this request says it is of.
    pub fn asker(&self) -> &WriterId {
        &self.signed.member
    }

    /// Returns what the holder of `key` asks; none if it does not.
    pub fn said(&self, key: &PublicKey) -> Option<Asked> {
        self.signed.said(key, &place(ASK_DOMAIN, &self.store, &self.asked, self.nonce))
    }
}

impl Answer {
    /// Returns the text of this answer, signed by the host that was asked.
    ///
    /// # Errors
    /// It has no JSON; that does not happen.
    pub fn encode(&self, question: &Question, key: &SigningKey) -> Result<Vec<u8>, serde_json::Error> {
        let place = place(ANSWER_DOMAIN, &question.store, question.asker(), question.nonce);
        Ok(Signed::sign(self, &question.asked, key, &place)?.encode())
    }

    /// Returns what the host that was asked answered to this very request; none if it did not.
    pub fn read(bytes: &[u8], question: &Question, key: &PublicKey) -> Option<Self> {
        let signed = Signed::parse(bytes).filter(|signed| signed.member == question.asked)?;
        signed.said(key, &place(ANSWER_DOMAIN, &question.store, question.asker(), question.nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> WriterId {
        WriterId(name.into())
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::of(&[seed; 32])
    }

    fn question(nonce: u64, ask: Ask) -> Question {
        let store = StoreName::parse("shop").unwrap();
        let said = Asked { at: UnixNanos(5), ask };
        Question::sign(Addressee { store, asked: host("b"), nonce }, &said, &host("a"), &key(1)).unwrap()
    }

    #[test]
    fn a_request_counts_only_for_its_store_host_and_number() {
        let ask = Ask::Promise { epoch: Epoch(3) };
        let sent = question(7, ask.clone());
        let read = Question::parse(&sent.encode()).unwrap();
        assert_eq!(read.said(&key(1).public()), Some(Asked { at: UnixNanos(5), ask }));
        assert_eq!(read.said(&key(2).public()), None);
        let other = |change: &dyn Fn(&mut Question)| {
            let mut other = sent.clone();
            change(&mut other);
            assert_eq!(other.said(&key(1).public()), None, "{other:?}");
        };
        other(&|question| question.store = StoreName::parse("blog").unwrap());
        other(&|question| question.asked = host("c"));
        other(&|question| question.nonce = 8);
        other(&|question| question.signed.member = host("c"));
        other(&|question| question.signed.statement = question.signed.statement.replace('3', "4"));
        let mut long = sent.encode();
        long.resize(ASK_MAX_BYTES + 1, b' ');
        assert_eq!((Question::parse(&long), Question::parse(b"{}")), (None, None));
    }

    #[test]
    fn an_answer_counts_only_for_its_question_and_from_the_host_that_was_asked() {
        let sent = question(7, Ask::Look);
        let answer = Answer::Refused { reasons: vec!["no".into()] };
        let bytes = answer.encode(&sent, &key(2)).unwrap();
        assert_eq!(Answer::read(&bytes, &sent, &key(2).public()), Some(answer));
        assert_eq!(Answer::read(&bytes, &sent, &key(3).public()), None);
        assert_eq!(Answer::read(&bytes, &question(8, Ask::Look), &key(2).public()), None);
        let mut elsewhere = sent.clone();
        elsewhere.signed.member = host("c");
        assert_eq!(Answer::read(&bytes, &elsewhere, &key(2).public()), None);
        // A request is no answer, also if the two hosts' names change places.
        let turned = Question { asked: host("a"), ..question(7, Ask::Look) };
        let own = serde_json::to_vec(&sent.signed).unwrap();
        assert_eq!(Answer::read(&own, &turned, &key(1).public()), None);
    }
}
