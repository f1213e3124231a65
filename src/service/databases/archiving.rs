//! The archive of a store's database, as this host keeps it: for the daemon, and for `understudy database archive`.

use super::here::DatabaseHere;
use crate::database::archive::{ArchiveReport, ArchiveSettings, Standing};
use crate::database::error::DatabaseError;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::model::plan::PlanName;
use crate::repository::store::Repository;
use crate::service::host::Host;
use crate::service::run::COMPRESSION_LEVEL;
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
