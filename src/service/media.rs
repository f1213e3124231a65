//! The comparison of what a store's database names with the files of a snapshot, on this host.
//!
//! What was found last is kept in a file of this host's, so that `why` and the daemon say it. It is a report, and
//! nothing waits for it.

use super::config::{StoreConfig, state_dir};
use super::databases::here::{DatabaseHere, no_place, settings};
use crate::api::failover::MediaStatus;
use crate::database::client::Client;
use crate::database::error::DatabaseError;
use crate::database::media::compare::{Comparison, Files, MediaReport, Tell};
use crate::model::id::{Epoch, Sequence, StoreName};
use crate::model::snapshot_ref::Moment;
use crate::repository::store::Store;
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::files;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What was found last, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MediaNote {
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    /// The epoch in which the database was asked.
    pub epoch: Epoch,
    pub report: MediaReport,
}

fn path(store: &StoreName) -> Option<PathBuf> {
    Some(state_dir().ok().flatten()?.join(format!("media-{store}.json")))
}

impl MediaNote {
    /// Reads the note of a store; none where nothing was compared.
    pub(crate) fn read(store: &StoreName) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path(store)?).ok()?).ok()
    }

    fn write(&self, store: &StoreName) {
        if let Some(path) = path(store) {
            // On a full disk the old one stays, whose time shows.
            let _ = files::replace(&path, &serde_json::to_vec(self).unwrap_or_default());
        }
    }
}

/// Returns what was found in an epoch.
pub(crate) fn of_epoch(store: &StoreName, epoch: Epoch) -> Option<MediaStatus> {
    let MediaNote { at, report, .. } = MediaNote::read(store).filter(|note| note.epoch == epoch)?;
    Some(MediaStatus {
        snapshot: report.snapshot,
        at: at.0 as f64 / 1e9,
        named: report.named,
        missing: report.missing.count,
        unnamed: report.unnamed.count,
        refused: report.refused.count,
    })
}

/// Compares what a store's database names with the files of a snapshot, and notes it.
///
/// # Errors
/// Nothing is configured that names files, or as for the comparison.
pub(crate) fn compare(
    config: &StoreConfig,
    files: &Store,
    moment: Moment,
    client: &Client,
    env: &Env,
    stop: &dyn Fn() -> bool,
    tell: &mut Tell,
) -> Result<MediaReport, DatabaseError> {
    let rules = config.database.media_rules().map_err(DatabaseError::Settings)?;
    if rules.is_empty() {
        return Err(DatabaseError::Settings(format!(
            "store '{}': nothing says which rows name files; set [[store.database.media]]",
            config.name
        )));
    }
    let dir = state_dir().map_err(settings)?.ok_or_else(no_place)?;
    let state = files.log().state()?;
    let (snapshot, record) = files.log().find(&state, moment)?;
    let manifest = &record.manifest;
    let files_of = Files { store: files, state: &state, snapshot, manifest };
    let comparison = Comparison { rules: &rules, files: files_of, client, dir: &dir, env, stop };
    let report = comparison.run(tell)?;
    MediaNote { at: env.wall(), epoch: state.epoch, report: report.clone() }.write(&config.name);
    Ok(report)
}

/// Compares after a promotion, which began with a snapshot, and says what was found in the log of the daemon. It is in
/// nobody's way: whatever fails here fails no promotion.
pub(crate) fn after_promotion(config: &StoreConfig, files: &Store, base: Sequence, env: &Env) {
    let (store, here) = (&config.name, DatabaseHere { store: config, env });
    let compared = here.any().and_then(|client| {
        compare(config, files, Moment::At(base), &client, env, &|| false, &mut |_, _| Ok(()))
    });
    match compared {
        Ok(report) => {
            let (missing, unnamed, refused) =
                (report.missing.count, report.unnamed.count, report.refused.count);
            match report.is_clean() {
                true => tracing::info!(%store, unnamed, "all media that the database names are there"),
                false => tracing::warn!(
                    %store, missing, unnamed, refused, first = ?report.missing.first.first(),
                    "the database names media that are not there; `understudy media {store}` lists them"
                ),
            }
        }
        Err(error) => tracing::warn!(%store, %error, "media were not compared with the database"),
    }
}
