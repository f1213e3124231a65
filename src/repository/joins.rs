//! The answers of hosts that were invited to become members: small objects that exist until they are read.
//!
//! Whoever can write to the bucket can put or exchange such an object; its reader checks the proof in it.

use super::error::RepositoryError;
use super::object_key;
use super::parts::Notes;
use crate::format::join::{JoinToken, Joining};
use crate::format::seal::SealContext;

impl Notes<'_> {
    /// Puts the answer to an invitation.
    pub(crate) fn put_joining(&self, token: &JoinToken, joining: &Joining) -> Result<(), RepositoryError> {
        self.store.keyrings().admit_writer()?;
        let place = token.place();
        let at = object_key::join(self.store.name(), place);
        self.put(&at, SealContext::Join(&place.to_string()), joining)
    }

    /// Returns the answer to an invitation, if there is one that its reader can accept.
    pub(crate) fn joining(&self, token: &JoinToken) -> Result<Option<Joining>, RepositoryError> {
        let place = token.place();
        let at = object_key::join(self.store.name(), place);
        let joining = self.one(&at, SealContext::Join(&place.to_string()))?;
        Ok(joining.filter(|joining| token.is_proven(joining)))
    }

    /// Returns whether there is an answer, whatever it is.
    pub(crate) fn has_joining(&self, token: &JoinToken) -> Result<bool, RepositoryError> {
        let at = object_key::join(self.store.name(), token.place());
        Ok(self.store.wait(self.store.objects().head(&at))?.is_some())
    }

    pub(crate) fn delete_joining(&self, token: &JoinToken) -> Result<(), RepositoryError> {
        let at = object_key::join(self.store.name(), token.place());
        self.store.wait(self.store.objects().delete(&at))
    }
}
