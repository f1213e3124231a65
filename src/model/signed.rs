//! A text that a member signed for one place outside the log: a lease's number, or a statement.
//!
//! Pure. The signature covers the place as well as the text, so a text that is copied to another place is not
//! signed there. A text has one form: a reader that encodes what it read must get the same bytes.

use super::id::WriterId;
use super::vote::put_text;
use crate::support::signature::{PublicKey, Signature, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Maximum size of such an object.
pub(crate) const SIGNED_MAX_BYTES: usize = 4 << 10;

/// A text, and the member that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The JSON of what is said, as it was signed.
    pub statement: String,
    pub member: WriterId,
    pub signature: Signature,
}

/// The place that a text is signed for: what kind it is, whose it is, and its number.
#[derive(Clone, Copy, Debug)]
pub struct SignedPlace<'a> {
    pub domain: &'static str,
    /// The store, where the object belongs to one.
    pub store: &'a str,
    pub host: &'a WriterId,
    pub number: u64,
}

impl SignedPlace<'_> {
    fn message(&self, member: &WriterId, statement: &str) -> Vec<u8> {
        let mut message = Vec::with_capacity(256 + statement.len());
        for text in [self.domain, self.store, &self.host.0] {
            put_text(&mut message, text);
        }
        message.extend_from_slice(&self.number.to_le_bytes());
        put_text(&mut message, &member.0);
        put_text(&mut message, statement);
        message
    }
}

impl Signed {
    /// Signs what is said for one place.
    ///
    /// # Errors
    /// It has no JSON; that does not happen.
    pub fn sign(
        said: &impl Serialize,
        member: &WriterId,
        key: &SigningKey,
        place: &SignedPlace,
    ) -> Result<Self, serde_json::Error> {
        let statement = serde_json::to_string(said)?;
        let signature = key.sign(&place.message(member, &statement));
        Ok(Self { statement, member: member.clone(), signature })
    }

    /// Returns the text of the object; `parse` reads it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns what an object says; none if it is none of these objects.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SIGNED_MAX_BYTES).then(|| serde_json::from_slice(bytes).ok())?
    }

    /// Returns what the holder of `key` said at this place; none if it did not, or not in the one form.
    pub(crate) fn said<T: Serialize + DeserializeOwned>(
        &self,
        key: &PublicKey,
        place: &SignedPlace,
    ) -> Option<T> {
        if !key.has_signed(&place.message(&self.member, &self.statement), &self.signature) {
            return None;
        }
        let said: T = serde_json::from_str(&self.statement).ok()?;
        (serde_json::to_string(&said).ok()? == self.statement).then_some(said)
    }
}
