//! The start-up probe: a backend that lets two creations of one key win cannot hold a log, and an address that once led
//! elsewhere is no reason to begin anew.

use super::error::RepositoryError;
use super::object_key;
use super::objects::{Creation, Objects};
use object_store::PutPayload;

/// Creates an object twice; the second must be told that it exists, and the first must remain.
pub async fn probe(objects: &Objects, location: &str, nonce: u64) -> Result<(), RepositoryError> {
    let key = object_key::probe(nonce);
    let (first, second) = (format!("first {nonce:x}"), format!("second {nonce:x}"));
    objects.create(&key, PutPayload::from(first.clone().into_bytes())).await?;
    let again = objects.create(&key, PutPayload::from(second.into_bytes())).await;
    let mut kept = objects.get(&key, 1 << 10).await;
    if !matches!(&kept, Ok(Some(kept)) if kept == first.as_bytes()) {
        // The transfer, not the backend, may be at fault: one more look.
        kept = objects.get(&key, 1 << 10).await;
    }
    // What the probe leaves behind harms nobody: a failure to delete it is not an error.
    let _ = objects.delete(&key).await;
    match (again, kept?) {
        (Ok(Creation::Existed), Some(kept)) if kept == first.as_bytes() => Ok(()),
        (Err(error), _) => Err(error),
        _ => Err(RepositoryError::TwoWin(location.to_owned())),
    }
}

/// Refuses an address that leads to nothing now, and once led to a repository that is there.
pub async fn refuse_former(
    objects: &Objects,
    former: &Objects,
    location: &str,
    address: &str,
) -> Result<(), RepositoryError> {
    // What a probe left is no repository.
    let holds = |names: Vec<String>| names.iter().any(|name| !name.starts_with('.'));
    if holds(objects.list_top().await?) || !holds(former.list_top().await?) {
        return Ok(());
    }
    Err(RepositoryError::Location {
        location: location.to_owned(),
        reason: format!(
            "is empty. An earlier understudy put the repository of this address at another place, and did not say so; that place has a repository, and its address is '{address}'"
        ),
    })
}
