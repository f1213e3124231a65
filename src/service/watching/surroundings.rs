//! Looks at what this host, a standby, has to offer: room, memory, the accounts of its database, and where the
//! repository is.
//!
//! What can race: nothing. Each figure is of one moment, and is looked at again a few minutes later.

use crate::database::check::may_write_read_only;
use crate::database::customers::MEMORY_MIB;
use crate::database::decide::State;
use crate::database::desk::local;
use crate::database::report::Report;
use crate::database::server::Server;
use crate::failover::watch::surroundings::{Disk, Memory, Surroundings};
use crate::service::agents::parts::HostParts;
use crate::service::config::StoreConfig;
use crate::service::host::Host;
use crate::support::memory;
use std::path::Path;

/// Looks once. What the other hosts have told is not part of it.
pub(super) fn look(parts: &HostParts, config: &StoreConfig, host: &Host) -> Surroundings {
    let location = parts.store.repository().location();
    let standby = host.standby(None).ok();
    let mut disks: Vec<Disk> =
        [Some(config.path.as_path()), standby.as_deref()].into_iter().flatten().filter_map(disk).collect();
    disks.dedup_by(|one, other| {
        one.size_bytes == other.size_bytes && one.available_bytes == other.available_bytes
    });
    let (memory, writers) = database(parts, config);
    Surroundings {
        others: Vec::new(),
        disks,
        memory,
        writers,
        repository_directory: location.starts_with('/').then(|| location.to_owned()),
    }
}

/// Returns the filesystem of a path, or of what is above it where the path is not there yet.
fn disk(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|path| path.exists()).filter(|path| !path.as_os_str().is_empty())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(Disk {
        path: there.display().to_string(),
        size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        available_inodes: (found.f_files > 0).then_some(found.f_favail),
    })
}

/// Returns the memory that the database needs, and the accounts that may write past `read_only`.
fn database(parts: &HostParts, config: &StoreConfig) -> (Option<Memory>, Option<Vec<String>>) {
    let Some(serve) = &config.database.serve else { return (None, None) };
    let Some(place) = config.database_place().ok().flatten() else { return (None, None) };
    let report = Report::read(&place).filter(|report| report.is_fresh(parts.store.env().wall()));
    let has_mib = report.as_ref().and_then(|report| report.resident_bytes).unwrap_or(0) >> 20;
    let wanted_mib = u64::from(serve.memory_mib.unwrap_or(MEMORY_MIB));
    let memory = memory::available_mib()
        .map(|available| Memory { wanted_mib, available_mib: available.saturating_add(has_mib) });
    let follows = report.is_some_and(|report| report.state == State::Following);
    let facts = follows.then(|| Server::new(local(&place, parts.store.env())).facts().ok()).flatten();
    (memory, facts.map(|facts| may_write_read_only(&facts)))
}
