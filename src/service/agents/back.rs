//! What a store goes back to on this host: the note that a person's request leaves, until its promotion is carried out.
//!
//! Each request for a promotion replaces the note, and one that goes back to nothing removes it. It counts for a
//! promotion that a person forced, that begins with the same snapshot and is not completed: so what was asked for
//! once and refused has no effect later.

use crate::database::restored::{GoBack, Restored, aside_dir, restored_dir};
use crate::failover::agent::terms::Back;
use crate::model::authority::LastPromotion;
use crate::model::decision::Cause;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName};
use crate::service::config::{StoreConfig, state_dir};
use crate::support::durable;
use crate::support::env::Env;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    snapshot: Sequence,
    position: GtidPosition,
    /// The name of the restored database.
    id: String,
}

fn path(store: &StoreName) -> Result<PathBuf, String> {
    let dir = state_dir().map_err(|error| error.to_string())?;
    let dir = dir.ok_or("no place for this process's files; set XDG_STATE_HOME or HOME")?;
    Ok(dir.join(format!("goes-back-{store}.json")))
}

/// Notes what a promotion that was asked for goes back to.
///
/// # Errors
/// There is no such restored database, or the note cannot be written: the promotion must not be begun.
pub(crate) fn note(
    env: &Env,
    config: &StoreConfig,
    at: Option<Sequence>,
    back: Option<&Back>,
) -> Result<(), String> {
    let path = path(&config.name)?;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let Some(Back { position, id, .. }) = back else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    };
    let snapshot = at.ok_or("it does not say which snapshot it goes back to")?;
    let (restored, _) = dirs(config, snapshot, id)?;
    let mark = Restored::read(&restored).map_err(|error| error.to_string())?;
    if !mark.is_some_and(|mark| mark.id == *id && mark.position == *position) {
        return Err(format!("{}: no database restored to {position} is in it", restored.display()));
    }
    let note = Note { snapshot, position: position.clone(), id: id.clone() };
    let text = serde_json::to_vec(&note).map_err(|error| error.to_string())?;
    durable::replace(env, &path, 0o600, &text).map_err(failed)
}

fn dirs(config: &StoreConfig, snapshot: Sequence, id: &str) -> Result<(PathBuf, PathBuf), String> {
    let root = config.database.datadir.as_ref().ok_or("[store.database] has no `datadir`")?;
    Ok((restored_dir(root, snapshot.0), aside_dir(root, id)))
}

/// Returns what takes the place of the replica's data in a promotion.
///
/// # Errors
/// The note cannot be read.
pub(crate) fn wanted(
    config: &StoreConfig,
    promotion: Option<&LastPromotion>,
) -> Result<Option<GoBack>, String> {
    let path = path(&config.name)?;
    let note: Note = match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let is_it = |last: &&LastPromotion| {
        matches!(last.cause, Cause::Forced { .. }) && last.base == Some(note.snapshot) && !last.completed
    };
    if promotion.filter(is_it).is_none() {
        return Ok(None);
    }
    let (restored, aside) = dirs(config, note.snapshot, &note.id)?;
    Ok(Some(GoBack { id: note.id, position: note.position, restored, aside }))
}
