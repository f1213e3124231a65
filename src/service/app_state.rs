//! The daemon, as the handlers of HTTP requests share it.
//!
//! Requests that read a repository run on threads of their own, so that a slow repository does not delay the
//! others.

use super::api_error::ApiError;
use super::board::RunRequest;
use super::config::StoreConfig;
use super::daemon::Daemon;
use super::scheduler::JobId;
use crate::api::store::StoreStatus;
use crate::failover::peers::answer::Answerer;
use crate::model::access::{Action, Identity, may};
use crate::model::id::StoreName;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::lossy::Lossy;
use axum::http::StatusCode;
use axum::response::Json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Maximum number of requests that read repositories at the same time; others wait.
const QUESTIONS_MAX: usize = 4;
/// Maximum number of members' requests that are answered at the same time; others wait.
const MEMBERS_MAX: usize = 16;
/// Time between two runs that a store's customer asks for.
const CUSTOMER_ASKS_EVERY: Duration = Duration::from_mins(5);

#[derive(Clone)]
pub(crate) struct AppState {
    pub(super) daemon: Daemon,
    pub(super) log: Lossy,
    /// Permits for requests that read repositories.
    pub(super) places: Arc<Semaphore>,
    pub(super) members: Arc<Members>,
    asks: Asks,
}

/// When each store's customer last asked for a run, by the machine's clock.
#[derive(Clone, Default)]
pub(super) struct Asks(Arc<Mutex<HashMap<StoreName, BootNanos>>>);

impl Asks {
    /// Returns whether a customer may ask for a run now, and notes that one did.
    fn take(&self, store: &StoreName, now: BootNanos) -> bool {
        let mut asks = lock(&self.0);
        asks.retain(|_, last| now.since(*last) < CUSTOMER_ASKS_EVERY);
        let is_free = !asks.contains_key(store);
        if is_free {
            asks.insert(store.clone(), now);
        }
        is_free
    }
}

/// What answers other members.
pub(super) struct Members {
    pub answerer: Answerer,
    /// Permits for their requests, which never wait for those that read repositories.
    pub places: Semaphore,
}

impl AppState {
    /// Returns what the handlers of all listeners share.
    pub(crate) fn new(daemon: Daemon, log: Lossy) -> Self {
        let answerer = Answerer::new(daemon.env().wall());
        let members = Arc::new(Members { answerer, places: Semaphore::new(MEMBERS_MAX) });
        let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Self { daemon, log, places, members, asks: Asks::default() }
    }

    pub(crate) fn env(&self) -> &Env {
        self.daemon.env()
    }

    pub(super) fn known(&self, name: &str) -> Result<(StoreName, StoreConfig), ApiError> {
        let name_of = StoreName::parse(name).map_err(|_| ApiError::unknown_store(name))?;
        let config =
            self.daemon.host().config.store(name).cloned().ok_or_else(|| ApiError::unknown_store(name))?;
        Ok((name_of, config))
    }

    /// Asks for a run, or joins the one under way.
    pub(super) fn ask_run(
        &self,
        identity: &Identity,
        name: &StoreName,
        accept: bool,
    ) -> Result<(JobId, u64), ApiError> {
        let is_operator = may(identity, Action::Hold, Some(name));
        if accept && !is_operator {
            let text = "your role does not allow it: let a held run through";
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        }
        if !is_operator && !self.asks.take(name, self.daemon.now().boot) {
            let text = format!(
                "a resync of store '{name}' was asked for within the last {} minutes; it is on its way",
                CUSTOMER_ASKS_EVERY.as_secs() / 60
            );
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, text));
        }
        let asked = self.daemon.board().ask(name, accept);
        match asked {
            RunRequest::Run(id, number) => {
                self.daemon.wake();
                Ok((id, number))
            }
            RunRequest::Held(reason) if is_operator => {
                let text = format!("store '{name}' is held ({reason}); release it first");
                Err(ApiError::new(StatusCode::CONFLICT, text))
            }
            RunRequest::Held(_) => {
                let text = format!("store '{name}' is held; whoever runs it releases it");
                Err(ApiError::new(StatusCode::CONFLICT, text))
            }
            RunRequest::Unknown => Err(ApiError::unknown_store(name.as_str())),
        }
    }

    /// Holds a store.
    pub(super) fn hold(
        &self,
        name: &StoreName,
        reason: Option<String>,
    ) -> Result<Json<StoreStatus>, ApiError> {
        let reason =
            reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "by an operator".to_owned());
        self.daemon.board().hold(name, reason);
        self.changed(name)
    }

    /// Releases a store.
    pub(super) fn release(&self, name: &StoreName) -> Result<Json<StoreStatus>, ApiError> {
        let now = self.daemon.now();
        self.daemon.board().release(name, now);
        self.changed(name)
    }

    pub(super) fn changed(&self, name: &StoreName) -> Result<Json<StoreStatus>, ApiError> {
        self.daemon.wake();
        self.daemon.status_of(name).map(Json).ok_or_else(|| ApiError::unknown_store(name.as_str()))
    }

    /// Runs a function that reads a repository on a thread of its own, up to [`QUESTIONS_MAX`] at a time; it
    /// may block, which the runtime's threads must not.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Daemon) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _place = self.places.acquire().await.map_err(ApiError::internal)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let daemon = self.daemon.clone();
        std::thread::spawn(move || sender.send(work(&daemon)).is_ok());
        receiver.await.map_err(ApiError::internal)?
    }
}
