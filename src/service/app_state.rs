//! The daemon, as the handlers of HTTP requests share it.
//!
//! Requests that read a repository run on threads of their own, so that a slow repository does not delay the
//! others.

use super::api_error::ApiError;
use super::config::StoreConfig;
use super::daemon::Daemon;
use crate::api::store::StoreStatus;
use crate::failover::peers::answer::Answerer;
use crate::model::id::StoreName;
use crate::support::lossy::Lossy;
use axum::response::Json;
use std::sync::Arc;
use tokio::sync::Semaphore;

#[derive(Clone)]
pub(super) struct AppState {
    pub daemon: Daemon,
    pub log: Lossy,
    /// Permits for requests that read repositories.
    pub places: Arc<Semaphore>,
    pub members: Arc<Members>,
}

/// What answers other members.
pub(super) struct Members {
    pub answerer: Answerer,
    /// Permits for their requests, which never wait for those that read repositories.
    pub places: Semaphore,
}

impl AppState {
    pub(super) fn known(&self, name: &str) -> Result<(StoreName, StoreConfig), ApiError> {
        let name_of = StoreName::parse(name).map_err(|_| ApiError::unknown_store(name))?;
        let config =
            self.daemon.host().config.store(name).cloned().ok_or_else(|| ApiError::unknown_store(name))?;
        Ok((name_of, config))
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
