//! The control panel's service: its routes, who may enter, and the live pages. What the pages look like is in
//! [`crate::panel`].
//!
//! It answers at an address of its own, so that the API may stay on the socket. It does what the API does, by
//! the same functions: there are two ways to one truth.

pub(crate) use self::state::{PanelParts, PanelState};

use super::audit::Audit;
use super::routes::{Access, Access::Needs, Gate, RouteRow, Routes};
use crate::model::access::Action;
use axum::Router;
use axum::middleware::from_fn_with_state;

mod acts;
mod answer;
mod days;
mod done;
mod enter;
mod entry;
mod form;
mod handover;
mod hub;
mod live;
mod pages;
mod pause_ends;
mod pauses;
mod sessions;
pub(crate) mod settings;
mod state;
mod turned_away;

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
