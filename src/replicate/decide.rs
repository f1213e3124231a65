//! Decides what to do with an entry that the walk found, from its `statx` and the last manifest. Pure.

use crate::model::entry::{Entry, Kind};
use crate::model::reread;
use crate::source::stat::Stat;
use crate::support::clock::UnixNanos;
use std::time::Duration;

/// The rule by which files are read again although nothing hints at a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reread {
    pub period: Duration,
    pub last_scan: UnixNanos,
    pub this_scan: UnixNanos,
}

/// The treatment of an entry that the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Size, mtime, ctime and inode are those of the last manifest, so its entry stays.
    Keep,
    Read,
    /// Like `Keep`, but the file's turn to be read again has come.
    ReadAgain,
    /// Like `Keep`, but the attributes could not be read last time.
    ReadAttributes,
}

/// Decides about one entry.
pub fn decide(stat: &Stat, old: Option<&Entry>, reread: &Reread) -> Decision {
    let Some(old) = old else { return Decision::Read };
    let same_bytes = match &old.kind {
        Kind::File(file) => file.size_bytes == stat.size_bytes && !file.torn,
        _ => true,
    };
    let same = stat.is_a(&old.kind)
        && same_bytes
        && old.mtime == stat.mtime
        && (old.mode, old.uid, old.gid) == (stat.mode, stat.uid, stat.gid)
        && (stat.is_directory() || old.hardlink.is_some() == (stat.links > 1));
    if !same {
        return Decision::Read;
    }
    let is_due = stat.is_file()
        && stat.size_bytes > 0
        && reread::is_due(old.path.as_bytes(), reread.period, reread.last_scan, reread.this_scan);
    let lacks_attributes = old.fingerprint == stat.fingerprint.attributes_unread();
    match (old.fingerprint == stat.fingerprint || lacks_attributes, is_due) {
        (false, _) => Decision::Read,
        (true, true) => Decision::ReadAgain,
        (true, false) if lacks_attributes => Decision::ReadAttributes,
        (true, false) => Decision::Keep,
    }
}
