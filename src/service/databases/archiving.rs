//! The archive of a store's database, as this host keeps it: for the daemon, and for `understudy database archive`.

use super::here::DatabaseHere;
use crate::database::archive::{ArchiveAround, ArchiveReport, ArchiveSettings, Standing, archive};
use crate::database::decide::State;
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::database::supervisor::take;
use crate::model::plan::PlanName;
use crate::repository::store::Repository;
use crate::service::agents::around::Daemon;
use crate::service::config::StoreConfig;
use crate::service::host::Host;
use crate::service::run::COMPRESSION_LEVEL;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Maximum time for which something that is committed waits to be put, by the store's plan.
const STANDARD: Duration = Duration::from_secs(5);
const PRIVATE: Duration = Duration::from_secs(1);

/// Returns the archive of a store's database; `repository` is where its seeds are.
pub(crate) fn settings(
    host: &Host,
    here: DatabaseHere,
    repository: Repository,
) -> Result<ArchiveSettings, DatabaseError> {
    let store = here.store;
    Ok(ArchiveSettings {
        repository,
        store: store_name(&store.name)?,
        name: store.name.clone(),
        every: if store.plan == PlanName::Standard { STANDARD } else { PRIVATE },
        level: host.config.limits.compression_level.unwrap_or(COMPRESSION_LEVEL),
        client: here.server()?,
        dir: here.archive_dir()?,
    })
}

/// Returns whether a host may archive, by what its store's log says.
pub(crate) fn standing(says: LogSays) -> Standing {
    match says {
        LogSays { primary: Some(primary), is_here: false, .. } => Standing::Other(primary.to_string()),
        says => Standing::Primary(says.epoch),
    }
}

/// Describes what a person should know of a report, and what changes seldom.
pub(crate) fn said(report: &ArchiveReport) -> String {
    let state = match report.trouble {
        Some(trouble) => format!("archive {} ({})", report.state.name(), trouble.name()),
        None => format!("archive {}", report.state.name()),
    };
    match &report.error {
        Some(error) => format!("{state}: {error}"),
        None => format!("{state}, epoch {}", report.epoch.0),
    }
}

/// How an archiver ended.
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// Another host, or another process of this one, archives.
    Elsewhere,
}

/// Archives a store's database until `stop`, if this host is its primary.
pub(crate) fn archive_here(
    daemon: &Daemon,
    store: &StoreConfig,
    env: &Env,
    stop: &AtomicBool,
) -> Result<Ended, DatabaseError> {
    let host = daemon.host();
    let here = DatabaseHere { store, env };
    let repository = || {
        daemon.repository(store).map_err(|error| match error.kind() {
            FailureKind::Unavailable => DatabaseError::Log(error.to_string()),
            _ => DatabaseError::Settings(error.to_string()),
        })
    };
    let says = || -> Result<LogSays, DatabaseError> {
        let state = repository()?.store(&store.name).log().state()?;
        Ok(here.log_says(&state, &host.writer()))
    };
    if !here.is_primary(&says()?) {
        return Ok(Ended::Elsewhere);
    }
    let archive_settings = settings(&host, here, repository()?)?;
    let _taken = match take(&Place { dir: archive_settings.dir.clone() }) {
        Err(DatabaseError::Taken(_)) => return Ok(Ended::Elsewhere),
        taken => taken?,
    };
    let stands = || says().map(standing);
    let mut told = String::new();
    let mut on_report = |report: &ArchiveReport| {
        let now = said(report);
        if now != told {
            match report.state {
                State::Broken => tracing::error!(store = %store.name, "{now}"),
                State::Waiting => tracing::warn!(store = %store.name, "{now}"),
                _ => tracing::info!(store = %store.name, "{now}"),
            }
            told = now;
        }
    };
    let stops = || stop.load(Ordering::SeqCst);
    let mut around = ArchiveAround {
        env,
        stop: &stops,
        standing: &stands,
        on_report: &mut on_report,
        on_step: &crate::support::kill_point::reached,
    };
    match archive(&archive_settings, &mut around) {
        Ok(()) => Ok(Ended::Stopped),
        Err(DatabaseError::Fenced(_)) => Ok(Ended::Elsewhere),
        Err(error) => Err(error),
    }
}
