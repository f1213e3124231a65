//! The daemon's HTTP service: health, metrics, and an API for stores, snapshots and runs.
//!
//! [`crate::api`] has its types, and `openapi.json` describes it. [`super::admission`] says who sent a request,
//! and [`super::routes`] whether that allows it. Requests that read a repository run on threads of their own, so that
//! a slow repository does not delay the others.

use super::admission::{self, Admission};
use super::api_error::ApiError;
use super::app_state::AppState;
use super::audit::Audit;
use super::board::RunResult;
use super::caller::Caller;
use super::failover_http;
use super::metrics::{self, Overall};
use super::routes::{Access, Access::Needs, Gate, RouteRow, Routes};
use super::stranded_http;
use crate::api::OPENAPI;
use crate::api::change::{ChangeRow, Changes, ChangesQuery};
use crate::api::progress::ProgressFigures;
use crate::api::run::{HoldQuery, ResyncQuery, RunFailure};
use crate::api::snapshot::SnapshotSummary;
use crate::api::store::StoreStatus;
use crate::failover::peers::client::ASK_LIMIT;
use crate::failover::peers::error::AskError;
use crate::failover::peers::question::ASK_MAX_BYTES;
use crate::failover::peers::{ASK_PATH, VERSION_HEADER};
use crate::model::access::{Action, Identity, may};
use crate::model::diff::ChangeCounts;
use crate::model::id::StoreName;
use crate::model::role::Role;
use crate::model::snapshot_ref::Moment;
use crate::repository::diff::changes;
use crate::repository::error::RepositoryError;
use crate::support::failure::FailureKind;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json};
use axum::{Extension, Router};
use futures::Stream;
use std::convert::Infallible;
use std::time::Duration;

/// Default and maximum number of changes in one answer.
const CHANGES_MAX: usize = 1000;

/// Interval at which a stream checks the progress of its run.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Returns all routes, guarded by the admission.
pub(crate) fn router(state: AppState, admission: Admission, gate: Gate) -> Router {
    routes(gate)
        .into_router()
        .fallback(|Extension(caller), uri| unanswered(caller, uri, StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(|Extension(caller), uri| {
            unanswered(caller, uri, StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .layer(axum::middleware::from_fn_with_state(admission, admission::admit))
        .with_state(state)
}

/// Answers what has no route; who is not known does not learn that. At the members' path nobody is known.
async fn unanswered(caller: Caller, uri: Uri, status: StatusCode, what: &'static str) -> ApiError {
    match caller.identity {
        Err(error) if uri.path() != ASK_PATH => error,
        _ => ApiError::new(status, format!("{what}; see /api/v1/openapi.json")),
    }
}

/// Returns the API's routes: methods, paths, and what each needs.
pub fn table() -> Vec<RouteRow> {
    routes(Gate::json(Audit::none())).rows
}

fn routes(gate: Gate) -> Routes<AppState> {
    let routes = Routes::new(gate)
        .get("/healthz", Access::Open, || async { "ok\n" })
        .get("/readyz", Access::Open, ready)
        .get("/metrics", Access::Open, figures)
        .get("/api/v1/openapi.json", Access::Known, description)
        .get("/api/v1/stores", Needs(Action::ListStores), stores)
        .get("/api/v1/stores/{store}", Needs(Action::SeeStore), store)
        .get("/api/v1/stores/{store}/snapshots", Needs(Action::SeeSnapshots), snapshots)
        .get("/api/v1/stores/{store}/changes", Needs(Action::SeePaths), changes_between)
        .post("/api/v1/stores/{store}/resync", Needs(Action::Resync), resync)
        .post("/api/v1/stores/{store}/hold", Needs(Action::Hold), hold)
        .post("/api/v1/stores/{store}/release", Needs(Action::Hold), release)
        .post("/api/v1/stores/{store}/database/seed", Needs(Action::SeedDatabase), seed_database)
        .post(ASK_PATH, Access::Signed, asked);
    stranded(failover(routes))
}

fn failover(routes: Routes<AppState>) -> Routes<AppState> {
    use failover_http as http;
    routes
        .get("/api/v1/stores/{store}/history", Needs(Action::SeeInside), http::history)
        .get("/api/v1/stores/{store}/failover", Needs(Action::SeeInside), http::status)
        .post("/api/v1/stores/{store}/failover", Needs(Action::FailOver), http::take_over)
        .post("/api/v1/stores/{store}/failover/attest", Needs(Action::FailOver), http::attest)
        .post("/api/v1/stores/{store}/members", Needs(Action::SetMembers), http::set_members)
        .get("/api/v1/stores/{store}/switchover", Needs(Action::SeeInside), http::hands_over)
        .post("/api/v1/stores/{store}/switchover", Needs(Action::FailOver), http::hand_over)
        .post("/api/v1/stores/{store}/switchover/cancel", Needs(Action::FailOver), http::cancel)
        .post("/api/v1/stores/{store}/pause", Needs(Action::Pause), http::pause)
        .post("/api/v1/stores/{store}/resume", Needs(Action::Pause), http::resume)
}

fn stranded(routes: Routes<AppState>) -> Routes<AppState> {
    let settle = Needs(Action::SettleStranded);
    routes
        .get("/api/v1/stores/{store}/stranded", Needs(Action::SeeInside), stranded_http::trees)
        .get("/api/v1/stores/{store}/stranded/{record}", Needs(Action::SeePaths), stranded_http::paths)
        .post("/api/v1/stores/{store}/stranded/{record}/take", settle, stranded_http::take)
        .post("/api/v1/stores/{store}/stranded/{record}/drop", settle, stranded_http::give_up)
}

async fn ready(State(site): State<AppState>) -> Result<&'static str, ApiError> {
    match site.daemon.board().is_stopping() {
        true => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is shutting down")),
        false => Ok("ready\n"),
    }
}

async fn figures(State(site): State<AppState>) -> impl IntoResponse {
    let (statuses, notified) = (site.daemon.statuses(), site.daemon.notified());
    let overall = {
        let board = site.daemon.board();
        let log_lines_lost = site.log.lost();
        Overall { queued: board.queued(), running: board.running(), log_lines_lost }
    };
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, metrics::text(&statuses, &notified, overall))
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn stores(
    State(site): State<AppState>,
    Extension(identity): Extension<Identity>,
) -> Json<Vec<StoreStatus>> {
    let all = site.daemon.statuses().into_iter();
    let seen = all.filter(|status| may(&identity, Action::SeeStore, Some(&status.store)));
    Json(seen.map(|status| shown(&identity, status)).collect())
}

/// Returns a status as this caller sees it.
fn shown(identity: &Identity, status: StoreStatus) -> StoreStatus {
    match may(identity, Action::SeeInside, Some(&status.store)) {
        true => status,
        false => status.for_customer(),
    }
}

async fn store(
    State(site): State<AppState>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Json<StoreStatus>, ApiError> {
    let (name, _) = site.known(&name)?;
    let status = site.daemon.status_of(&name).ok_or_else(|| ApiError::unknown_store(name.as_str()))?;
    Ok(Json(shown(&identity, status)))
}

async fn snapshots(
    State(site): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<SnapshotSummary>>, ApiError> {
    let (name, config) = site.known(&name)?;
    site.blocking(move |daemon| {
        let state = daemon.repository(&config)?.store(&name).log().state()?;
        Ok(Json(
            state
                .snapshots
                .iter()
                .map(|(sequence, record)| SnapshotSummary::new(*sequence, record))
                .collect(),
        ))
    })
    .await
}

async fn changes_between(
    State(site): State<AppState>,
    Path(name): Path<String>,
    query: Result<Query<ChangesQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Changes>, ApiError> {
    let bad = |reason: String| ApiError::bad_request(reason);
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let (name, config) = site.known(&name)?;
    let moment = |text: &str| Moment::parse(text).map_err(|error| bad(error.to_string()));
    let (from, to) = (moment(&query.from)?, moment(query.to.as_deref().unwrap_or("latest"))?);
    let limit = query.limit.unwrap_or(CHANGES_MAX).min(CHANGES_MAX);
    site.blocking(move |daemon| {
        let store = daemon.repository(&config)?.store(&name);
        let state = store.log().state()?;
        let ((from, old), (to, new)) = (store.log().find(&state, from)?, store.log().find(&state, to)?);
        let mut found = Changes { from, to, counts: ChangeCounts::default(), changes: Vec::new() };
        changes(&store, &state, &old, &new, |change, entry| {
            found.counts.count(Some(change));
            if found.changes.len() < limit {
                found.changes.push(ChangeRow::new(change, entry));
            }
            Ok::<_, RepositoryError>(())
        })?;
        Ok(Json(found))
    })
    .await
}

async fn resync(
    State(site): State<AppState>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    query: Result<Query<ResyncQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let (name, _) = site.known(&name)?;
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let (id, number) = site.ask_run(&identity, &name, query.accept)?;
    // No thread waits for the run: the runtime has few, and local repositories need them.
    let watching = (site.daemon, None::<ProgressFigures>, false);
    let events = futures::stream::unfold(watching, move |(daemon, last, is_over)| async move {
        if is_over {
            return None;
        }
        loop {
            let ((ended, progress), is_stopping) = {
                let board = daemon.board();
                (board.follow_run(id, number), board.is_stopping())
            };
            if let Some(ended) = ended {
                return Some((Ok(last_event(&ended)), (daemon, last, true)));
            }
            if is_stopping {
                let event = failed(FailureKind::Stopped, "the daemon is shutting down");
                return Some((Ok(event), (daemon, last, true)));
            }
            if progress.is_some() && progress != last {
                let event = Event::default().event("progress").json_data(progress);
                let event = event.unwrap_or_else(|_| Event::default().event("progress").data("{}"));
                return Some((Ok(event), (daemon, progress, false)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Returns the event that reports how a run ended.
fn last_event(ended: &RunResult) -> Event {
    match &ended.result {
        Ok(report) => {
            let event = Event::default().event("done").json_data(report);
            event.unwrap_or_else(|error| failed(FailureKind::Failed, &error.to_string()))
        }
        Err(failure) => failed(failure.outcome, &failure.error),
    }
}

fn failed(outcome: FailureKind, error: &str) -> Event {
    let event = Event::default().event("failed");
    let failure = RunFailure { outcome, error: error.to_owned() };
    // A struct of texts can always be written as JSON.
    event.json_data(failure).unwrap_or_else(|_| Event::default().event("failed").data("{}"))
}

async fn hold(
    State(site): State<AppState>,
    Path(name): Path<String>,
    query: Result<Query<HoldQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<StoreStatus>, ApiError> {
    let (name, _) = site.known(&name)?;
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    site.hold(&name, query.reason)
}

async fn release(
    State(site): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<StoreStatus>, ApiError> {
    let (name, _) = site.known(&name)?;
    site.release(&name)
}

async fn seed_database(
    State(site): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<StoreStatus>, ApiError> {
    let (name, _) = site.known(&name)?;
    let status = site.daemon.status_of(&name).ok_or_else(|| ApiError::unknown_store(name.as_str()))?;
    let conflict = |text: String| Err(ApiError::new(StatusCode::CONFLICT, text));
    if status.database.is_none() {
        return conflict(format!("store '{name}' has no database in this host's configuration"));
    }
    if status.log_role != Role::Primary {
        return conflict(format!("store '{name}': this host is not its primary; ask there for a seed"));
    }
    site.daemon.ask_seed(&name);
    site.changed(&name)
}

/// Answers another member. Its signature admits it.
async fn asked(State(site): State<AppState>, body: Body) -> Result<impl IntoResponse, ApiError> {
    let too_large = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, AskError::TooLarge.to_string());
    let read = tokio::time::timeout(ASK_LIMIT, axum::body::to_bytes(body, ASK_MAX_BYTES)).await;
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time");
    let text = read.map_err(late)?.map_err(|_| too_large())?;
    let _place = site.members.places.acquire().await.map_err(ApiError::internal)?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (daemon, members) = (site.daemon.clone(), site.members.clone());
    // The agent answers on a thread of its own, and this one waits for it.
    std::thread::spawn(move || {
        let agents = |store: &StoreName| daemon.asked_agent(store);
        sender.send(members.answerer.answer(&text, agents, daemon.now().wall)).is_ok()
    });
    let answer = receiver.await.map_err(ApiError::internal)?.map_err(refused)?;
    let headers =
        [(header::CONTENT_TYPE.as_str(), "application/json"), (VERSION_HEADER, env!("CARGO_PKG_VERSION"))];
    Ok((headers, answer))
}

/// Returns the answer to a member's request that was refused.
fn refused(error: AskError) -> ApiError {
    let status = match error {
        AskError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        AskError::Person => StatusCode::BAD_REQUEST,
        AskError::Unreadable | AskError::Stranger => StatusCode::FORBIDDEN,
        AskError::AnotherHost { .. } => StatusCode::MISDIRECTED_REQUEST,
        AskError::NotNew | AskError::Again => StatusCode::CONFLICT,
        AskError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        AskError::NoAgent => StatusCode::SERVICE_UNAVAILABLE,
    };
    ApiError::new(status, error.to_string())
}
