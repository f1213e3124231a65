//! Whether the daemon drills a failover by its plan. Pure but for what it looks at on this host.

use crate::database::drill::is_by_reference;
use crate::database::role_file;
use crate::service::config::StoreConfig;

/// Returns whether a drill proves something here, and disturbs nobody: a replica that would stand for as long as a whole
/// copy takes, or have customers wait, is drilled by a person only.
pub(crate) fn is_possible(config: &StoreConfig, is_primary: bool) -> bool {
    let site = &config.drill.site;
    let has_shop =
        !site.services.is_empty() || config.service.iter().any(|service| !service.start.is_empty());
    let shows = !config.probe.is_empty() || !site.command.is_empty();
    let is_root = rustix::process::geteuid().is_root();
    is_root && !is_primary && config.member.is_some() && has_shop && shows && may_copy(config)
}

fn may_copy(config: &StoreConfig) -> bool {
    let database = &config.database;
    let is_own = database.serve.is_some() && database.promote.is_empty();
    let (Some(root), Ok(Some(place)), true) = (&database.datadir, config.database_place(), is_own) else {
        return true;
    };
    let waits = role_file::read(&place).is_ok_and(|note| note.acks) && !database.drill.customers_wait;
    !waits && is_by_reference(root)
}
