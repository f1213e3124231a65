//! `understudy database archive`.

use super::{Changes, Configured, OfStore};
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending};
use crate::database::archive::{ArchiveAround, ArchiveReport, ArchiveSettings, Standing, archive as run};
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::database::supervisor::take;
use crate::model::plan::PlanName;
use crate::model::role::Permission;
use crate::service::database::DatabaseMode;
use crate::service::run::COMPRESSION_LEVEL;
use crate::support::failure::FailureKind;
use std::time::Duration;

/// Maximum time for which something that is committed waits to be put, by the store's plan.
const STANDARD: Duration = Duration::from_secs(5);
const PRIVATE: Duration = Duration::from_secs(1);

pub(super) fn archive(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (context, store) = (&configured.context, &configured.store);
    configured.check_mode(DatabaseMode::archives, DatabaseMode::Archive)?;
    if store.role == Permission::Standby {
        let text = format!("store '{}' is only followed on this host; archive on its primary", store.name);
        return Err(UsageError(text).into());
    }
    let settings = ArchiveSettings {
        repository: configured.database_repository()?,
        store: store_name(&store.name)?,
        name: store.name.clone(),
        every: if store.plan == PlanName::Standard { STANDARD } else { PRIVATE },
        level: context.config.limits.compression_level.unwrap_or(COMPRESSION_LEVEL),
        client: configured.primary()?,
        dir: configured.state_dir("archive")?,
    };
    let _taken = take(&Place { dir: settings.dir.clone() })?;
    let standing = || match configured.log_says() {
        Ok(LogSays { primary: Some(primary), is_here: false, .. }) => {
            Ok(Standing::Other(primary.to_string()))
        }
        Ok(says) => Ok(Standing::Primary(says.epoch)),
        Err(error) if error.kind() == FailureKind::Unavailable => Err(DatabaseError::Log(error.to_string())),
        Err(error) => Err(DatabaseError::Held(error.to_string())),
    };
    let mut changes = Changes::new(global);
    let mut on_report = |report: &ArchiveReport| changes.tell(&settings.name, report, said(report));
    let mut around = ArchiveAround {
        env: context.env(),
        stop: &ending::is_asked,
        standing: &standing,
        on_report: &mut on_report,
        on_step: &crate::support::kill_point::reached,
    };
    run(&settings, &mut around)?;
    Ok(Exit::Done)
}

/// Describes what a person should know of a report, and what changes seldom.
fn said(report: &ArchiveReport) -> String {
    let state = match report.trouble {
        Some(trouble) => format!("archive {} ({})", report.state.name(), trouble.name()),
        None => format!("archive {}", report.state.name()),
    };
    match &report.error {
        Some(error) => format!("{state}: {error}"),
        None => format!("{state}, epoch {}", report.epoch.0),
    }
}
