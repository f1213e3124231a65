//! Repairs a store from what this host has: the replicated tree, and the objects that it holds as a standby.

use super::host::Host;
use crate::maintain::repair::{RepairReport, repair};
use crate::model::entry::Entry;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::standby::depot::Depot;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Ships again what the repository lost, from `source` (default: the configured tree) and from the standby
/// directory `standby` (default: the usual place).
pub(crate) fn repair_of_this_host(
    host: &Host,
    store: &Store,
    source: Option<&Path>,
    standby: Option<&Path>,
) -> Result<RepairReport, RepositoryError> {
    let name = store.name();
    let configured =
        host.config.store(name.as_str()).map(|s| s.path.clone()).filter(|p| !p.as_os_str().is_empty());
    let source = source.map(Path::to_owned).or(configured);
    let depot = host.standby(standby).ok().map(|dir| Depot::new(&dir, name));
    let provider = |entry: &Entry, offset: u64, length: usize| {
        let object = depot.as_ref().zip(entry.file()).map(|(depot, file)| depot.object(file.hash));
        let below = source.as_ref().map(|source| source.join(OsStr::from_bytes(entry.path.as_bytes())));
        // The path may hold another file by now; the chunk's hash decides.
        below.into_iter().chain(object).find_map(|path| read(&path, entry, offset, length))
    };
    repair(store, &host.writer(), &provider)
}

/// Reads a range of a file that still has the entry's size.
fn read(path: &Path, entry: &Entry, offset: u64, length: usize) -> Option<Vec<u8>> {
    let file = std::fs::File::open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.len() != entry.size_bytes() {
        return None;
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}
