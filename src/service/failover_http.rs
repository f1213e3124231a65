//! The HTTP requests about a store's failover.
//!
//! A request only tells the agent what a person wants; its answer is the state a moment later. Whoever asked
//! follows the steps with further requests.

use super::agents::registry::Running;
use super::agents::status;
use super::api_error::ApiError;
use super::app_state::AppState;
use super::watching;
use crate::api::failover::{
    AttestQuery, FailoverQuery, FailoverStatus, PauseQuery, ResumeQuery, SwitchoverQuery,
};
use crate::api::history::HistoryRow;
use crate::failover::agent::terms::{Back, Terms};
use crate::failover::decide::view::Cause;
use crate::failover::peers::question::{Answer as PeerAnswer, Ask};
use crate::failover::told;
use crate::model::decision::Decision;
use crate::model::escape::is_steering;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName, WriterId};
use crate::model::member::{self, Member, shortened};
use crate::model::record::StoreState;
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use std::time::Duration;

/// Maximum time of an agent to answer.
const AGENT_LIMIT: Duration = Duration::from_secs(2);

type Asked<T> = Result<Query<T>, QueryRejection>;
type Answer = Result<Json<FailoverStatus>, ApiError>;

fn query<T>(asked: Asked<T>) -> Result<T, ApiError> {
    asked.map(|Query(query)| query).map_err(|error| ApiError::bad_request(error.body_text()))
}

/// Returns a text that the log can hold. What is too long is cut; `openapi.json` says what is refused.
pub(super) fn text(what: &str, given: Option<String>, default: &str) -> Result<String, ApiError> {
    let text = given.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    match text.chars().any(is_steering) {
        false => Ok(shortened(text)),
        true => Err(ApiError::bad_request(format!(
            "`{what}` has control characters, or such as hide or reorder text"
        ))),
    }
}

fn conflict(reason: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, reason)
}

impl AppState {
    pub(super) fn status(&self, store: &StoreName) -> FailoverStatus {
        let agents = self.daemon.agents();
        match agents.get(store) {
            Some(running) => {
                let config = self.daemon.host().config.store(store.as_str()).cloned();
                let replica = config.as_ref().and_then(|config| config.replica.as_ref());
                status::of(store, &running, replica, self.daemon.env().boot())
            }
            None => {
                let host = self.daemon.host();
                let is_member = host.config.store(store.as_str()).is_some_and(|s| s.member.is_some());
                let watching = self.daemon.watching();
                if let Some(watched) = watching.get(store) {
                    let why = "this host only watches the store".to_owned();
                    let watch = watching::status::of(&watched.words);
                    return FailoverStatus { watch, ..status::without_agent(store, host.writer(), why) };
                }
                let why = agents.why_missing(store).or_else(|| watching.why_missing(store));
                let why = why.unwrap_or_else(|| match is_member {
                    true => "the failover agent has not started yet".to_owned(),
                    false => "this host's configuration has no [store.member] for the store".to_owned(),
                });
                status::without_agent(store, host.writer(), why)
            }
        }
    }

    pub(super) fn running(&self, name: &str) -> Result<(StoreName, Running), ApiError> {
        let (store, _) = self.known(name)?;
        match self.daemon.agents().get(&store) {
            Some(running) => Ok((store, running)),
            None => {
                let why = self.status(&store).no_agent.unwrap_or_default();
                Err(conflict(format!("store '{store}' has no failover here: {why}")))
            }
        }
    }
}

pub(super) async fn status(State(site): State<AppState>, Path(name): Path<String>) -> Answer {
    let (store, _) = site.known(&name)?;
    Ok(Json(site.status(&store)))
}

/// Returns what was decided about the members and the primary.
pub(super) async fn history(
    State(site): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<HistoryRow>>, ApiError> {
    let (name, config) = site.known(&name)?;
    site.blocking(move |daemon| {
        let history = daemon.repository(&config)?.store(&name).log().history()?;
        Ok(Json(history.iter().map(told::row).collect()))
    })
    .await
}

/// Has this host become the primary, or another member that it asks.
pub(super) async fn take_over(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<FailoverQuery>,
) -> Answer {
    let asked = query(asked)?;
    let back = back(&asked)?;
    let person = text("person", asked.person, "an operator")?;
    let reason = text("reason", asked.reason, "asked for by an operator")?;
    let at = asked.at.map(Sequence);
    let (store, running) = site.running(&name)?;
    if let Some(to) = elsewhere(&store, &running, asked.to)? {
        if back.is_some() {
            let why = format!("a database is restored on the host that takes over; ask '{to}' itself");
            return Err(ApiError::bad_request(why));
        }
        let take_over = Ask::TakeOver { person, reason, at };
        let ask = if asked.dry_run { Ask::WouldTakeOver } else { take_over };
        return at_member(&site, &store, running, to, ask).await;
    }
    if asked.dry_run {
        let me = running.parts.me.clone();
        return answer_of(&site, &store, &me, &running.agent.why_not());
    }
    let terms = Terms { person, reason, at, back, ..Terms::default() };
    running.parts.forget_refusal();
    running.agent.take_over(Cause::Person, terms);
    Ok(Json(site.status(&store)))
}

/// Returns what the database goes back to.
fn back(asked: &FailoverQuery) -> Result<Option<Back>, ApiError> {
    // What the description cannot say of a request is refused as what does not fit.
    let wrong = |how: &str| Err(ApiError::new(StatusCode::CONFLICT, how));
    match (&asked.back_to, &asked.restore, asked.at) {
        (None, None, _) => Ok(None),
        (Some(position), Some(id), Some(_)) => {
            let Ok(position) = position.parse::<GtidPosition>() else {
                return wrong("`back_to` is no position of a database");
            };
            if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return wrong("`restore` is no name of a restore");
            }
            let transactions = asked.lost_transactions.unwrap_or_default();
            Ok(Some(Back { position, transactions, id: id.clone() }))
        }
        _ => wrong("`back_to`, `restore` and `at` belong together"),
    }
}

/// Takes a person's word that a former primary is down.
pub(super) async fn attest(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<AttestQuery>,
) -> Answer {
    let asked = query(asked)?;
    let host = WriterId(asked.host);
    let person = text("person", asked.person, "an operator")?;
    let (store, running) = site.running(&name)?;
    if let Some(to) = elsewhere(&store, &running, asked.to)? {
        return at_member(&site, &store, running, to, Ask::Attest { host, person }).await;
    }
    let (agent, asked) = (running.agent.clone(), host.clone());
    match site.blocking(move |_| Ok(agent.attest(&asked, AGENT_LIMIT))).await? {
        Some(true) => Ok(Json(site.status(&store))),
        Some(false) => Err(conflict(format!(
            "store '{store}': this host does not wait for '{host}'; a word that it is down counts after the promotion"
        ))),
        None => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the failover agent does not answer")),
    }
}

/// Has this host, the primary, change the list of members: it counts on the promises of those who may replace it,
/// so it must know of a new one before the log does.
pub(super) async fn set_members(
    State(site): State<AppState>,
    Path(name): Path<String>,
    members: Result<Json<Vec<Member>>, JsonRejection>,
) -> Answer {
    let (store, running) = site.running(&name)?;
    let Json(members) = members.map_err(|error| ApiError::bad_request(error.body_text()))?;
    member::check(&members).map_err(|error| ApiError::bad_request(error.to_string()))?;
    running.parts.forget_refusal();
    running.agent.set_members(members);
    Ok(Json(site.status(&store)))
}

/// Has the primary hand over: this host, or another one that it asks.
pub(super) async fn hand_over(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<SwitchoverQuery>,
) -> Answer {
    let asked = query(asked)?;
    let person = text("person", asked.person, "an operator")?;
    let (store, running) = site.running(&name)?;
    let to = target(&store, &running, asked.to)?;
    let ask = Ask::HandOver { to: to.clone(), person };
    let here = move |running: &Running| match running.agent.try_hand_over(&to, AGENT_LIMIT) {
        Some(reasons) => reasons.iter().map(ToString::to_string).collect(),
        None => vec!["the failover agent does not answer".to_owned()],
    };
    at_primary(&site, &store, running, ask, here).await
}

fn primary_of(store: &StoreName, running: &Running) -> Result<WriterId, ApiError> {
    let primary = running.agent.view().log.primary.clone();
    primary.ok_or_else(|| conflict(format!("store '{store}' has no primary by the log")))
}

/// Says whether the primary is handing over, as it says itself.
pub(super) async fn hands_over(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<SwitchoverQuery>,
) -> Answer {
    let asked = query(asked)?;
    let (store, running) = site.running(&name)?;
    let to = target(&store, &running, asked.to)?;
    let primary = primary_of(&store, &running)?;
    let of = primary.clone();
    let answer = site
        .blocking(move |_| {
            if of == running.parts.me {
                return Ok(Ok(running.agent.why_not_handing_over(&to)));
            }
            Ok(reasons_of(&running, &of, Ask::HandsOver { to }))
        })
        .await?;
    match answer {
        Ok(reasons) => answer_of(&site, &store, &primary, &reasons),
        Err(how) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, how)),
    }
}

/// Cancels a handover.
pub(super) async fn cancel(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<ResumeQuery>,
) -> Answer {
    let person = text("person", query(asked)?.person, "an operator")?;
    let (store, running) = site.running(&name)?;
    let here = |running: &Running| {
        running.agent.keep_serving();
        Vec::new()
    };
    at_primary(&site, &store, running, Ask::KeepServing { person }, here).await
}

/// Returns the host that a handover is to.
fn target(store: &StoreName, running: &Running, given: Option<String>) -> Result<WriterId, ApiError> {
    let view = running.agent.view();
    if let Some(to) = given {
        return Ok(WriterId(to));
    }
    let mut others = view.log.serving.iter().filter(|host| Some(*host) != view.log.primary.as_ref());
    match (others.next(), others.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(conflict(format!("store '{store}' has no other member that may serve"))),
        _ => Err(ApiError::bad_request("several members may serve the store; name one with `to`")),
    }
}

/// Returns the member that is to take over, if it is not this host.
fn elsewhere(
    store: &StoreName,
    running: &Running,
    given: Option<String>,
) -> Result<Option<WriterId>, ApiError> {
    let Some(to) = given.map(WriterId).filter(|to| *to != running.parts.me) else { return Ok(None) };
    match running.agent.view().log.serving.contains(&to) {
        true => Ok(Some(to)),
        false => {
            Err(ApiError::bad_request(format!("store '{store}': '{to}' is no member that may serve it")))
        }
    }
}

/// Asks another member; who asks hears why it does not.
async fn at_member(
    site: &AppState,
    store: &StoreName,
    running: Running,
    member: WriterId,
    ask: Ask,
) -> Answer {
    let asked = member.clone();
    let reasons = site.blocking(move |_| Ok(ask_member(&running, &asked, ask))).await?;
    answer_of(site, store, &member, &reasons)
}

/// Asks another member; returns why it does not.
fn ask_member(running: &Running, member: &WriterId, ask: Ask) -> Vec<String> {
    let asked = reasons_of(running, member, ask);
    asked.unwrap_or_else(|how| vec![format!("{how}; ask there, or see `understudy why`")])
}

/// Asks another member; returns the reasons for which it does not, or why it gives no answer.
fn reasons_of(running: &Running, member: &WriterId, ask: Ask) -> Result<Vec<String>, String> {
    running.parts.peers.ask_for_person(member, ask).map(|answer| match answer {
        PeerAnswer::Done => Vec::new(),
        PeerAnswer::Refused { reasons } => reasons,
    })
}

fn answer_of(site: &AppState, store: &StoreName, host: &WriterId, reasons: &[String]) -> Answer {
    match reasons.first() {
        None => Ok(Json(site.status(store))),
        Some(reason) => Err(conflict(format!("store '{store}': '{host}' does not: {reason}"))),
    }
}

/// Does something on the primary: here, or by asking it. What is done here returns the reasons for which it is
/// not.
async fn at_primary(
    site: &AppState,
    store: &StoreName,
    running: Running,
    ask: Ask,
    here: impl FnOnce(&Running) -> Vec<String> + Send + 'static,
) -> Answer {
    running.parts.forget_refusal();
    let primary = primary_of(store, &running)?;
    let asked = primary.clone();
    let reasons = site
        .blocking(move |_| {
            Ok(match asked == running.parts.me {
                true => here(&running),
                false => ask_member(&running, &asked, ask),
            })
        })
        .await?;
    answer_of(site, store, &primary, &reasons)
}

pub(super) async fn pause(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<PauseQuery>,
) -> Answer {
    let asked = query(asked)?;
    let person = text("person", asked.person, "an operator")?;
    let reason = text("reason", asked.reason, "asked for by an operator")?;
    decided(site, name, Decision::Paused { person, reason }).await
}

pub(super) async fn resume(
    State(site): State<AppState>,
    Path(name): Path<String>,
    asked: Asked<ResumeQuery>,
) -> Answer {
    let person = text("person", query(asked)?.person, "an operator")?;
    decided(site, name, Decision::Resumed { person }).await
}

async fn decided(site: AppState, name: String, decision: Decision) -> Answer {
    let (store, _) = site.running(&name)?;
    decide(&site, &store, decision).await?;
    Ok(Json(site.status(&store)))
}

/// Appends a decision that concerns nobody's serving, and returns its record.
pub(super) async fn decide(
    site: &AppState,
    store: &StoreName,
    decision: Decision,
) -> Result<Sequence, ApiError> {
    let (_, running) = site.running(store.as_str())?;
    site.blocking(move |_| {
        let parts = &running.parts;
        let maker = Maker { name: &parts.me, key: &parts.key };
        let mut state = StoreState::default();
        parts.store.log().refresh(&mut state)?;
        let next = |_: &StoreState| Ok::<_, RepositoryError>(Some(decision.clone()));
        parts.store.log().decide(&mut state, maker, next)?;
        Ok(state.head.map_or(Sequence(0), |(sequence, _)| sequence))
    })
    .await
}
