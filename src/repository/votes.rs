//! The votes of watchers: `STORE/votes/<host>/<20 digits>/<watcher>`, the number of that host's lease which the
//! vote is about. Signed by the watcher's member key.
//!
//! Anybody who can write to the repository can put anything there, so a vote counts only by its signature (see
//! `model::vote`). What stands at a watcher's place and is not its vote is replaced by it. A watcher deletes its
//! own earlier votes as far as that is allowed; whoever cannot delete leaves a few small objects an incident.

use super::error::RepositoryError;
use super::object_key;
use super::objects::Creation;
use super::parts::Notes;
use crate::model::id::WriterId;
use crate::model::signed::SIGNED_MAX_BYTES;
use crate::model::vote::Vote;
use crate::support::failure::{Failure, FailureKind};
use object_store::PutPayload;
use object_store::path::Path;

/// Maximum number of votes about one number that are read.
const READ_MAX: usize = 64;

impl Notes<'_> {
    /// Puts a watcher's vote about a number of the lease of `host`.
    pub fn put_vote(&self, host: &WriterId, lease: u64, vote: &Vote) -> Result<(), RepositoryError> {
        let key = object_key::vote(self.store.name(), host, lease, &vote.member);
        // A vote is texts and numbers: it always has a JSON.
        let bytes = serde_json::to_vec(vote).unwrap_or_default();
        let objects = self.store.objects();
        self.store.wait(async {
            if objects.create(&key, PutPayload::from(bytes.clone())).await? == Creation::Existed {
                objects.overwrite(&key, PutPayload::from(bytes)).await?;
            }
            let listed = objects.list(Some(&object_key::votes_prefix(self.store.name(), host)), None).await?;
            let is_earlier = |key: &Path| {
                object_key::parse_vote(key)
                    .is_some_and(|(number, watcher)| number < lease && watcher == vote.member)
            };
            for old in listed.iter().filter(|object| is_earlier(&object.location)) {
                if let Err(error) = objects.delete(&old.location).await {
                    // It counts for nothing, and the next vote tries it again.
                    tracing::debug!(%error, "an earlier vote stays");
                    break;
                }
            }
            Ok(())
        })
    }

    /// Returns what stands at the places of votes about a number of the lease of `host`; nothing of it is judged.
    pub fn votes(&self, host: &WriterId, lease: u64) -> Result<Vec<Vote>, RepositoryError> {
        let prefix = object_key::votes_about(self.store.name(), host, lease);
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let mut votes = Vec::new();
        for object in listed.iter().take(READ_MAX) {
            let get = self.store.objects().get(&object.location, SIGNED_MAX_BYTES as u64);
            let bytes = match self.store.wait(get) {
                Ok(bytes) => bytes.unwrap_or_default(),
                Err(error) if error.kind() == FailureKind::Damaged => continue,
                Err(error) => return Err(error),
            };
            votes.extend(serde_json::from_slice::<Vote>(&bytes));
        }
        Ok(votes)
    }
}
