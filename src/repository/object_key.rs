//! Builds and parses the keys of objects. No other module does.

use crate::model::id::{ContentHash, Epoch, IndexId, PackId, Sequence, StoreName, WriterId};
use object_store::path::Path;

/// Returns the prefix of all records of a store.
pub(crate) fn log_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "log"])
}

pub(crate) fn record(store: &StoreName, sequence: Sequence) -> Path {
    Path::from_iter([store.as_str(), "log", &format!("{:020}", sequence.0)])
}

/// Returns the number in a record's key; `None` for any other key.
pub(crate) fn parse_record(key: &Path) -> Option<Sequence> {
    let name = key.filename()?;
    (name.len() == 20).then(|| name.parse().ok().map(Sequence))?
}

pub(crate) fn pack_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "packs"])
}

pub(crate) fn pack(store: &StoreName, id: PackId) -> Path {
    let name = id.to_string();
    Path::from_iter([store.as_str(), "packs", &name[..2], &name])
}

pub(crate) fn index_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "index"])
}

pub fn index(store: &StoreName, id: IndexId) -> Path {
    Path::from_iter([store.as_str(), "index", &id.to_string()])
}

pub(crate) fn parse_index(key: &Path) -> Option<IndexId> {
    IndexId::parse(key.filename()?).ok()
}

pub(crate) fn parse_pack(key: &Path) -> Option<PackId> {
    PackId::parse(key.filename()?).ok()
}

pub(crate) fn standby_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "standbys"])
}

/// Returns the key of a standby's report.
pub fn standby(store: &StoreName, host: &WriterId) -> Path {
    Path::from_iter([store.as_str(), "standbys", &host.0])
}

/// Returns the host whose note a key is. Characters that a key cannot have are escaped in it.
pub(crate) fn host_of(note: &Path) -> String {
    let escaped = note.filename().unwrap_or_default();
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the prefix of all objects of a store.
pub(crate) fn all(store: &StoreName) -> Path {
    Path::from_iter([store.as_str()])
}

/// Returns the prefix of the objects that probes and pruners create and delete.
pub(crate) fn probes() -> Path {
    Path::from_iter([".probe"])
}

/// Returns the key of a probe.
pub(crate) fn probe(nonce: u64) -> Path {
    Path::from_iter([".probe", &format!("{nonce:016x}")])
}

pub(crate) fn keyring_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "keys"])
}

pub(crate) fn keyring(store: &StoreName, sequence: u32) -> Path {
    Path::from_iter([store.as_str(), "keys", &format!("{sequence:010}")])
}

pub(crate) fn parse_keyring(key: &Path) -> Option<u32> {
    let name = key.filename()?;
    (name.len() == 10).then(|| name.parse().ok())?
}

pub(crate) fn checkpoint_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "checkpoints"])
}

/// Returns the key of a checkpoint: the fold of a log's records up to `sequence`.
pub(crate) fn checkpoint(store: &StoreName, sequence: Sequence) -> Path {
    Path::from_iter([store.as_str(), "checkpoints", &format!("{:020}", sequence.0)])
}

pub(crate) fn upkeep_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "upkeep"])
}

/// Returns the key of a host's note about the store's upkeep.
pub fn upkeep(store: &StoreName, host: &WriterId) -> Path {
    Path::from_iter([store.as_str(), "upkeep", &host.0])
}

pub(crate) fn binlog_prefix(store: &StoreName) -> Path {
    Path::from_iter([store.as_str(), "binlog"])
}

pub(crate) fn epoch_prefix(store: &StoreName, epoch: Epoch) -> Path {
    Path::from_iter([store.as_str(), "binlog", &format!("{:020}", epoch.0)])
}

/// Returns the epoch that a folder's name is.
pub(crate) fn parse_epoch(name: &str) -> Option<Epoch> {
    (name.len() == 20).then(|| name.parse().ok().map(Epoch))?
}

/// Returns the key of a segment of the database's archive.
pub fn segment(store: &StoreName, epoch: Epoch, number: u64) -> Path {
    Path::from_iter([store.as_str(), "binlog", &format!("{:020}", epoch.0), &format!("{number:020}")])
}

/// Returns the key of the answer to an invitation.
pub(crate) fn join(store: &StoreName, place: ContentHash) -> Path {
    Path::from_iter([store.as_str(), "joins", &place.to_string()])
}

/// Returns the prefix of the numbers of a host's lease. No store's name begins with a dot.
pub(crate) fn lease_prefix(host: &WriterId) -> Path {
    Path::from_iter([".leases", &host.0])
}

/// Returns the key of a number of a host's lease.
pub fn lease(host: &WriterId, number: u64) -> Path {
    Path::from_iter([".leases", &host.0, &format!("{number:020}")])
}

/// Returns the number of a lease that a key is; `None` for any other key.
pub(crate) fn parse_lease(key: &Path) -> Option<u64> {
    parse_record(key).map(|number| number.0)
}

pub(crate) fn statement_prefix(store: &StoreName, host: &WriterId) -> Path {
    Path::from_iter([store.as_str(), "statements", &host.0])
}

/// Returns the key of a host's statement that it is closed, with this record of the log as the last one.
pub fn statement(store: &StoreName, host: &WriterId, at: Sequence) -> Path {
    Path::from_iter([store.as_str(), "statements", &host.0, &format!("{:020}", at.0)])
}

pub(crate) fn votes_prefix(store: &StoreName, host: &WriterId) -> Path {
    Path::from_iter([store.as_str(), "votes", &host.0])
}

/// Returns the prefix of the votes about a number of a host's lease.
pub(crate) fn votes_about(store: &StoreName, host: &WriterId, lease: u64) -> Path {
    Path::from_iter([store.as_str(), "votes", &host.0, &format!("{lease:020}")])
}

/// Returns the key of a watcher's vote about a number of a host's lease.
pub fn vote(store: &StoreName, host: &WriterId, lease: u64, watcher: &WriterId) -> Path {
    Path::from_iter([store.as_str(), "votes", &host.0, &format!("{lease:020}"), &watcher.0])
}

/// Returns the number of the lease and the watcher of a vote that a key is; none for any other key.
pub(crate) fn parse_vote(key: &Path) -> Option<(u64, WriterId)> {
    let parts: Vec<_> = key.parts().collect();
    let number = parts.iter().rev().nth(1)?;
    let number = (number.as_ref().len() == 20).then(|| number.as_ref().parse().ok())??;
    Some((number, WriterId(host_of(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_again_in_the_key_of_its_note_whatever_it_is_called() {
        let store = StoreName::parse("acme").unwrap();
        for host in ["web-1", "büro", "web#1", "a b?", "100%", "%41", "..", "x/y"] {
            assert_eq!(host_of(&standby(&store, &WriterId(host.into()))), host, "{host}");
        }
    }
}
