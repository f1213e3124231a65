//! The HTTP requests about what only former primaries have.

use super::agents::registry::Running;
use super::api_error::ApiError;
use super::app_state::AppState;
use super::daemon::Daemon;
use super::failover_http::text;
use super::stranded::{self, SettleError, Settlement, transient};
use crate::api::stranded::{
    StrandedDropQuery, StrandedDropped, StrandedPaths, StrandedPathsQuery, StrandedTake, StrandedTaken,
    StrandedTree,
};
use crate::failover::stranded::chosen::Choice;
use crate::failover::stranded::error::StrandedError;
use crate::failover::stranded::list;
use crate::failover::stranded::tree::StrandedView;
use crate::model::id::Sequence;
use crate::model::record::StoreState;
use crate::model::tree_path::TreePath;
use crate::repository::decide::Maker;
use crate::support::progress::Progress;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;

/// Maximum number of paths in an answer.
const PATHS_MAX: usize = 10_000;
/// Default of the number of paths in an answer.
const PATHS_DEFAULT: usize = 1000;

type Place = Result<Path<(String, u64)>, PathRejection>;

fn place(place: Place) -> Result<(String, Sequence), ApiError> {
    let Path((store, record)) = place.map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok((store, Sequence(record)))
}

/// Decides about a tree as the member that this daemon is.
fn settle<T>(
    daemon: &Daemon,
    running: &Running,
    person: &str,
    act: impl FnOnce(&Settlement, &mut StoreState) -> Result<T, SettleError>,
) -> Result<T, ApiError> {
    let (parts, host) = (&running.parts, daemon.host());
    let maker = Maker { name: &parts.me, key: &parts.key };
    let settlement = Settlement { host: &host, store: &parts.store, maker, person };
    let mut state = parts.store.log().state()?;
    act(&settlement, &mut state).map_err(|error| match error {
        // The request was well-formed, and this host is not the one to ask.
        SettleError::NoTree(_) | SettleError::Stranded(StrandedError::NotPrimary { .. }) => {
            ApiError::new(StatusCode::CONFLICT, error.to_string())
        }
        error => error.into(),
    })
}

/// Returns the trees of former primaries that no person has settled.
pub(super) async fn trees(
    State(site): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<StrandedTree>>, ApiError> {
    let (name, config) = site.known(&name)?;
    site.blocking(move |daemon| {
        let store = daemon.repository(&config)?.store(&name);
        let transient = transient(&daemon.host(), &name)?;
        Ok(Json(list::list(&store, &store.log().state()?, &transient)?))
    })
    .await
}

/// Returns some of the paths of a tree.
pub(super) async fn paths(
    State(site): State<AppState>,
    at: Place,
    asked: Result<Query<StrandedPathsQuery>, QueryRejection>,
) -> Result<Json<StrandedPaths>, ApiError> {
    let (name, record) = place(at)?;
    let Query(StrandedPathsQuery { from, limit }) =
        asked.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let limit = limit.unwrap_or(PATHS_DEFAULT);
    if !(1..=PATHS_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` must be 1 to {PATHS_MAX}")));
    }
    let (name, config) = site.known(&name)?;
    site.blocking(move |daemon| {
        let store = daemon.repository(&config)?.store(&name);
        let view = StrandedView::open(&store, &store.log().state()?, record)?;
        let transient = transient(&daemon.host(), &name)?;
        Ok(Json(list::paths(&view, &transient, from, limit)?))
    })
    .await
}

/// Adds files of a tree to the tree in use, which this host serves.
pub(super) async fn take(
    State(site): State<AppState>,
    at: Place,
    asked: Result<Json<StrandedTake>, JsonRejection>,
) -> Result<Json<StrandedTaken>, ApiError> {
    let (name, record) = place(at)?;
    let Json(StrandedTake { new, paths, person }) =
        asked.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let person = text("person", person, "an operator")?;
    let (_, running) = site.running(&name)?;
    let choice = Choice { new, paths: paths.iter().map(|path| tree_path(path)).collect::<Result<_, _>>()? };
    site.blocking(move |daemon| {
        let take = |settlement: &Settlement, state: &mut StoreState| {
            settlement.take(state, record, choice, None, &Progress::default())
        };
        let (_, report, settled) = settle(daemon, &running, &person, take)?;
        let (files, shortfalls) = (&report.report, &report.report.warnings);
        Ok(Json(StrandedTaken {
            chosen: report.chosen,
            remaining: report.remaining,
            files_written: files.files_written,
            files_kept: files.files_kept,
            renamed: shortfalls.renamed,
            missing: shortfalls.damaged.saturating_add(shortfalls.missing),
            settled,
        }))
    })
    .await
}

/// Gives a tree up.
pub(super) async fn give_up(
    State(site): State<AppState>,
    at: Place,
    asked: Result<Query<StrandedDropQuery>, QueryRejection>,
) -> Result<Json<StrandedDropped>, ApiError> {
    let (name, record) = place(at)?;
    let Query(StrandedDropQuery { paths, person }) =
        asked.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let person = text("person", person, "an operator")?;
    let (_, running) = site.running(&name)?;
    site.blocking(move |daemon| {
        let give_up =
            |settlement: &Settlement, state: &mut StoreState| settlement.give_up(state, record, paths);
        let settled = settle(daemon, &running, &person, give_up)?;
        Ok(Json(StrandedDropped { dropped: paths, settled }))
    })
    .await
}

fn tree_path(given: &str) -> Result<TreePath, ApiError> {
    match stranded::path(given.as_bytes()) {
        Some(Ok(path)) => Ok(path),
        Some(Err(error)) => Err(ApiError::bad_request(error.to_string())),
        None => Err(ApiError::bad_request("a path is empty; `.` is everything")),
    }
}
