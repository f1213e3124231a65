//! What the handlers of the panel share.

use super::days::Days;
use super::done::Done;
use super::handover::Served;
use super::hub::Hub;
use super::pause_ends::PauseEnds;
use super::sessions::Sessions;
use super::settings::{PanelSettings, Public};
use crate::service::app_state::AppState;
use crate::service::audit::Audit;
use crate::service::token::Token;
use crate::service::tokens::KnownTokens;
use std::net::IpAddr;
use std::sync::Arc;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct PanelState(Arc<Inner>);

pub(crate) struct Inner {
    pub(super) site: AppState,
    pub(super) settings: PanelSettings,
    pub(super) public: Public,
    /// The address that it listens at.
    pub(super) bound: Option<IpAddr>,
    pub(super) token: Option<Token>,
    pub(super) tokens: KnownTokens,
    pub(super) sessions: Sessions,
    pub(super) served: Served,
    pub(super) done: Done,
    pub(super) days: Days,
    pub(super) hub: Hub,
    pub(super) pauses: PauseEnds,
    pub(super) audit: Audit,
}

impl std::ops::Deref for PanelState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

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
