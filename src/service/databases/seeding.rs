//! A seed of a store's database: copied from this host's server, and shipped as a store of its own; then only the
//! newest ones are kept. For the daemon, and for `understudy database seed`.
//!
//! What can race: two that make a seed on one host, which would fill its disk twice: the second finds the first
//! one's lock, whichever store it is of.

use super::here::{DatabaseHere, no_place, settings};
use crate::api::resync::ResyncReport;
use crate::database::check::{Weight, check};
use crate::database::client::Client;
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::seed::{SeedNote, back_up};
use crate::database::server::Server;
use crate::database::supervisor::take;
use crate::maintain::prune::{PruneError, PruneReport, PruneRequest, prune};
use crate::model::retention::Retention;
use crate::replicate::resync::Request;
use crate::repository::error::RepositoryError;
use crate::repository::store::{Repository, Store};
use crate::service::config::{StoreConfig, state_dir};
use crate::service::host::{Host, HostError};
use crate::service::run::{RunError, RunObserver, request, resync_between_hooks};
use crate::support::failure::{Failure, FailureKind};
use rustix::fd::OwnedFd;
use std::path::Path;

/// Takes the turn of making a seed on this host; it is another's again when the result is dropped.
///
/// # Errors
/// [`DatabaseError::Taken`] while another process makes one.
pub(crate) fn turn() -> Result<OwnedFd, DatabaseError> {
    let dir = state_dir().map_err(settings)?.ok_or_else(no_place)?;
    take(&Place { dir: dir.join("seeding") })
}

/// Copies the data of a server of this host that is fit for a replica.
///
/// # Errors
/// What it lacks, and those of the copy.
pub(crate) fn copy(
    here: DatabaseHere,
    client: &Client,
    directory: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<SeedNote, DatabaseError> {
    let name = &here.store.name;
    let findings = check(&Server::new(client.clone()).facts()?);
    let musts: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.weight == Weight::Must)
        .map(|finding| finding.what)
        .collect();
    if !musts.is_empty() {
        return Err(DatabaseError::Settings(format!(
            "store '{name}', {}: not fit for a replica ({}); what mends it: understudy database check {name}",
            client.address,
            musts.join(", ")
        )));
    }
    back_up(client, directory, stop)
}

/// Ships a copy; `store` is the store of the seeds, whose root is the copy's directory.
pub(crate) fn ship(
    host: &Host,
    repository: &Repository,
    store: &StoreConfig,
    seed: &SeedNote,
    accept: bool,
    watch: RunObserver,
) -> Result<ResyncReport, RunError> {
    let database_position = Some(seed.position.to_string());
    let request = Request { database_position, ..request(host, store, accept) };
    resync_between_hooks(repository, store, &request, watch)
}

/// Drops all but the newest seeds, with what was archived before the first that stays.
pub(crate) fn keep(seeds: &Store, count: u32, host: &Host) -> Result<PruneReport, PruneError> {
    let retention = Retention { last: count, hours: 0, days: 0, weeks: 0, months: 0, years: 0 };
    prune(seeds, &PruneRequest::new(retention, host.writer()), &|_| {})
}

/// The reason why a seed was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Prune(#[from] PruneError),
}

impl Failure for SeedError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Host(error) => error.kind(),
            Self::Database(error) => error.kind(),
            Self::Repository(error) => error.kind(),
            Self::Run(error) => error.kind(),
            Self::Prune(error) => error.kind(),
        }
    }
}
