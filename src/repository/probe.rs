//! The start-up probe refuses repositories that cannot be used safely.
//!
//! A backend that lets two creations of one key succeed cannot hold a log. An address that once led elsewhere
//! is no reason to begin a new repository.

use super::error::RepositoryError;
use super::object_key;
use super::objects::{Creation, Objects};
use object_store::PutPayload;

/// Creates an object twice.
///
/// The second creation must report that it exists, and the first content must remain.
pub(crate) async fn probe(objects: &Objects, location: &str, nonce: u64) -> Result<(), RepositoryError> {
    let key = object_key::probe(nonce);
    let (first, second) = (format!("first {nonce:x}"), format!("second {nonce:x}"));
    objects.create(&key, PutPayload::from(first.clone().into_bytes())).await?;
    let again = objects.create(&key, PutPayload::from(second.into_bytes())).await;
    let mut kept = objects.get(&key, 1 << 10).await;
    if !matches!(&kept, Ok(Some(kept)) if kept == first.as_bytes()) {
        // The transfer, not the backend, may have damaged it. Read it once more.
        kept = objects.get(&key, 1 << 10).await;
    }
    // A probe that stays is harmless, so a failure to delete it is ignored.
    let _ = objects.delete(&key).await;
    match (again, kept?) {
        (Ok(Creation::Existed), Some(kept)) if kept == first.as_bytes() => Ok(()),
        (Err(error), _) => Err(error),
        _ => Err(RepositoryError::TwoWin(location.to_owned())),
    }
}

/// Refuses an address that leads to nothing now, if it once led to a repository that still exists.
pub(crate) async fn refuse_former(
    objects: &Objects,
    former: &Objects,
    location: &str,
    address: &str,
) -> Result<(), RepositoryError> {
    // Leftovers of a probe are no repository.
    let holds = |names: Vec<String>| names.iter().any(|name| !name.starts_with('.'));
    if holds(objects.names(None).await?) || !holds(former.names(None).await?) {
        return Ok(());
    }
    Err(RepositoryError::Location {
        location: location.to_owned(),
        reason: format!(
            "there is no repository here. An earlier version of understudy put the repository of this address in another place, whose address is '{address}'"
        ),
    })
}
