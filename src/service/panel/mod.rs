//! The control panel's service: its routes, who may enter, and the live pages. What the pages look like is in
//! [`crate::panel`].
//!
//! It answers at an address of its own, so that the API may stay on the socket. It does what the API does, by
//! the same functions: there are two ways to one truth.

use self::days::Days;
use self::done::Done;
use self::handover::Served;
use self::live::Hub;
use self::pauses::PauseEnds;
use self::sessions::Sessions;
use self::settings::{PanelSettings, Public};
use super::app_state::AppState;
use super::audit::Audit;
use super::routes::{Access, Access::Needs, Gate, RouteRow, Routes};
use super::token::Token;
use super::tokens::KnownTokens;
use crate::model::access::Action;
use crate::panel::frame::Frame;
use crate::panel::refusal::refusal;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use maud::Markup;
use std::net::IpAddr;
use std::sync::Arc;

mod acts;
mod days;
mod done;
mod enter;
mod entry;
mod form;
mod handover;
mod live;
mod pages;
mod pauses;
mod sessions;
pub(crate) mod settings;
mod turned_away;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct PanelState(Arc<Inner>);

pub(crate) struct Inner {
    site: AppState,
    settings: PanelSettings,
    public: Public,
    /// The address that it listens at.
    bound: Option<IpAddr>,
    token: Option<Token>,
    tokens: KnownTokens,
    sessions: Sessions,
    served: Served,
    done: Done,
    days: Days,
    hub: Hub,
    pauses: PauseEnds,
    audit: Audit,
}

impl std::ops::Deref for PanelState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The panel's name, for answers that know nothing else.
#[derive(Clone)]
struct Skin(String);

/// What a panel is made of.
pub(crate) struct PanelParts {
    pub site: AppState,
    pub settings: PanelSettings,
    pub bound: Option<IpAddr>,
    pub token: Option<Token>,
    pub tokens: KnownTokens,
    pub audit: Audit,
}

impl PanelState {
    /// Returns the state of a panel that answers at `listen`.
    ///
    /// # Errors
    /// The reason why the settings cannot be used.
    pub(crate) fn new(parts: PanelParts, listen: &str) -> Result<Self, String> {
        let PanelParts { site, settings, bound, token, tokens, audit } = parts;
        let public = settings.public(listen)?;
        let env = site.daemon.env().clone();
        let sessions = Sessions::new(&env, tokens.clone());
        let (hub, pauses) = (Hub::new(&env), PauseEnds::new(&env));
        let (served, done, days) = (Served::default(), Done::default(), Days::default());
        Ok(Self(Arc::new(Inner {
            site,
            settings,
            public,
            bound,
            token,
            tokens,
            sessions,
            served,
            done,
            days,
            hub,
            pauses,
            audit,
        })))
    }
}

impl PanelState {
    /// Returns where browsers reach the panel.
    pub(crate) fn url(&self) -> &str {
        &self.public.origin
    }
}

/// Returns the panel's routes: methods, paths, and what each needs.
pub fn table() -> Vec<RouteRow> {
    routes(Gate::json(Audit::none())).rows
}

fn routes(gate: Gate) -> Routes<PanelState> {
    let (resync, hold, pause) = (Needs(Action::Resync), Needs(Action::Hold), Needs(Action::Pause));
    Routes::new(gate)
        .get("/healthz", Access::Open, || async { "ok\n" })
        .get("/assets/{hash}/{name}", Access::Open, pages::asset)
        .get("/login", Access::Open, enter::show)
        .post("/login", Access::Open, enter::login)
        .post("/handover", Access::Open, enter::handover)
        .post("/logout", Access::Known, enter::logout)
        .get("/", Needs(Action::ListStores), pages::fleet)
        .get("/events", Needs(Action::ListStores), live::fleet)
        .get("/stores/{store}", Needs(Action::SeeStore), pages::store)
        .get("/stores/{store}/events", Needs(Action::SeeStore), live::store)
        .post("/stores/{store}/resync", resync, acts::resync)
        .post("/stores/{store}/hold", hold, acts::hold)
        .post("/stores/{store}/release", hold, acts::release)
        .post("/stores/{store}/pause", pause, acts::pause)
        .post("/stores/{store}/resume", pause, acts::resume)
        .get("/audit", Needs(Action::SeeAudit), pages::audit)
}

/// Returns the panel, and has its live pages and the ends of pauses kept. Called within a runtime.
pub(crate) fn router(state: &PanelState) -> Router {
    live::keep(state.clone());
    pauses::keep(state.clone());
    let gate = Gate { audit: state.audit.clone(), refuse: turned_away::answer };
    routes(gate)
        .into_router()
        .fallback(turned_away::no_page)
        .method_not_allowed_fallback(turned_away::no_page)
        .layer(from_fn_with_state(state.clone(), entry::admit))
        .with_state(state.clone())
}

fn html(page: Markup) -> Html<String> {
    Html(page.into_string())
}

/// Returns a page that says why there is none.
fn refused(name: &str, status: StatusCode, title: &str, why: &str) -> Response {
    let frame = Frame { name, identity: None, key: "" };
    (status, html(refusal(&frame, title, why))).into_response()
}
