//! The pages: each is made of what the daemon knows now, for who asks.

use super::answer::{html, refused};
use super::done::FormKey;
use super::sessions::SessionKey;
use super::state::PanelState;
use super::turned_away;
use crate::api::store::StoreStatus;
use crate::model::access::{Action, Identity, may};
use crate::model::plan::PlanName;
use crate::panel::assets::Asset;
use crate::panel::audit::{AuditRow, audit as audit_page};
use crate::panel::fleet::{Filter, fleet as fleet_page};
use crate::panel::frame::Frame;
use crate::panel::need::Need;
use crate::panel::sentence::Reader;
use crate::panel::store::{Outcome, View, reader, store as store_page};
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

/// Which stores are asked for.
#[derive(Clone, Default, Deserialize)]
pub(super) struct FleetQuery {
    #[serde(default)]
    need: String,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    q: String,
    /// The version of what the browser shows, for a live page.
    pub since: Option<String>,
}

impl FleetQuery {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            need: Need::parse(&self.need),
            plan: PlanName::ALL.into_iter().find(|plan| plan.name() == self.plan),
            search: self.q.chars().take(64).collect(),
        }
    }
}

#[derive(Default, Deserialize)]
pub(super) struct StoreQuery {
    /// The form that brought the browser here.
    #[serde(default)]
    did: String,
}

/// Returns a key for the forms of a page.
pub(super) fn form_key(state: &PanelState) -> String {
    format!("{:016x}", state.site.daemon.env().nonce())
}

/// Returns the stores that somebody may see.
pub(super) fn seen(identity: &Identity, statuses: Vec<StoreStatus>) -> Vec<StoreStatus> {
    let is_seen = |status: &StoreStatus| may(identity, Action::SeeStore, Some(&status.store));
    statuses.into_iter().filter(is_seen).collect()
}

/// Returns as whom somebody reads about all stores.
pub(super) fn reader_of_all(identity: &Identity) -> Reader {
    if may(identity, Action::SeeInside, None) { Reader::Operator } else { Reader::Customer }
}

pub(super) async fn fleet(
    State(state): State<PanelState>,
    Extension(identity): Extension<Identity>,
    query: Result<Query<FleetQuery>, QueryRejection>,
) -> Response {
    let filter = query.map(|Query(query)| query.filter()).unwrap_or_default();
    let since = state.hub.version();
    let statuses = seen(&identity, state.site.daemon.statuses());
    let now = state.site.daemon.env().wall();
    let key = form_key(&state);
    let frame = Frame { name: state.settings.name(), identity: Some(&identity), key: &key };
    html(fleet_page(&frame, &statuses, &filter, reader_of_all(&identity), &since, now)).into_response()
}

pub(super) async fn store(
    State(state): State<PanelState>,
    Extension(identity): Extension<Identity>,
    session: Option<Extension<SessionKey>>,
    Path(name): Path<String>,
    query: Result<Query<StoreQuery>, QueryRejection>,
) -> Response {
    let site = &state.site;
    let since = state.hub.version();
    let found = site.known(&name).ok().and_then(|(name, _)| site.daemon.status_of(&name));
    let Some(status) = found else { return turned_away::no_store(state.settings.name()) };
    let failover = site.status(&status.store);
    let reader = reader(&identity, &status);
    let timeline = state.days.get(site, &status, reader).await;
    let did = query.map(|Query(query)| query.did).unwrap_or_default();
    let form = session.and_then(|Extension(session)| FormKey::new(session, &did));
    let told = form.and_then(|form| state.done.told(&form));
    let outcome = told.as_ref().map(|told| Outcome { tone: told.tone, text: &told.text });
    let key = form_key(&state);
    let frame = Frame { name: state.settings.name(), identity: Some(&identity), key: &key };
    let view = View {
        status: &status,
        failover: &failover,
        timeline: timeline.as_ref(),
        pause_ends: state.pauses.end_of(&status.store),
        now: site.daemon.env().wall(),
    };
    html(store_page(&frame, &view, &identity, outcome.as_ref(), &since)).into_response()
}

pub(super) async fn asset(
    State(state): State<PanelState>,
    Path((hash, name)): Path<(String, String)>,
) -> Response {
    match Asset::find(&hash, &name) {
        Some(asset) => {
            let kept = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
            ([(header::CONTENT_TYPE, asset.kind), kept], asset.bytes).into_response()
        }
        None => refused(
            state.settings.name(),
            StatusCode::NOT_FOUND,
            "No such page",
            "There is nothing at this address.",
        ),
    }
}

/// Shows the last lines of the audit.
pub(super) async fn audit(
    State(state): State<PanelState>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let file = state.audit.clone();
    let read = state
        .site
        .blocking(move |_| file.last().map_err(crate::service::api_error::ApiError::internal))
        .await;
    let key = form_key(&state);
    let frame = Frame { name: state.settings.name(), identity: Some(&identity), key: &key };
    let now = state.site.daemon.env().wall();
    match read {
        Ok(lines) => {
            let rows: Vec<AuditRow> =
                lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
            html(audit_page(&frame, &rows, now)).into_response()
        }
        Err(error) => refused(
            state.settings.name(),
            error.status,
            "No audit",
            "The audit could not be read; the log says why.",
        ),
    }
}
