//! `understudy database archive`.

use super::{Changes, Configured, OfStore};
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending};
use crate::database::archive::{ArchiveAround, ArchiveReport, archive as run};
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::supervisor::take;
use crate::model::role::Permission;
use crate::service::database::DatabaseMode;
use crate::service::databases::archiving::{self, said};
use crate::support::failure::FailureKind;

pub(super) fn archive(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (context, store) = (&configured.context, &configured.store);
    configured.check_mode(DatabaseMode::archives, DatabaseMode::Archive)?;
    if store.role == Permission::Standby {
        let text = format!("store '{}' is only followed on this host; archive on its primary", store.name);
        return Err(UsageError(text).into());
    }
    let repository = configured.database_repository()?;
    let settings = archiving::settings(context.host(), configured.here(), repository)?;
    let _taken = take(&Place { dir: settings.dir.clone() })?;
    let standing = || match configured.log_says() {
        Ok(says) => Ok(archiving::standing(says)),
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
