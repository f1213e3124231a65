//! What is done with an entry that the walk found: decided from its `statx` and the last manifest. Pure.

use crate::model::entry::{Entry, Kind};
use crate::model::reread;
use crate::source::stat::Stat;
use rustix::fs::FileType;

/// When files are read again although nothing hints at a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reread {
    pub period_ns: u64,
    pub last_scan_ns: u64,
    pub this_scan_ns: u64,
}

/// What is done with an entry that the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Size, mtime, ctime and inode are those of the last manifest: its entry stays.
    Keep,
    Read,
    /// As for `Keep`, but its turn to be read again has come.
    ReadAgain,
    /// As for `Keep`, but its attributes could not be read last time.
    ReadAttributes,
}

/// Decides for one entry.
pub fn decide(stat: &Stat, old: Option<&Entry>, reread: &Reread) -> Decision {
    let Some(old) = old else { return Decision::Read };
    let same_kind = match &old.kind {
        Kind::Directory => stat.is_directory(),
        Kind::File(file) => stat.is_file() && file.size_bytes == stat.size_bytes && !file.torn,
        Kind::Symlink { .. } => stat.kind == FileType::Symlink,
        Kind::Fifo => stat.kind == FileType::Fifo,
        Kind::Socket => stat.kind == FileType::Socket,
        Kind::CharDevice { major, minor } => {
            stat.kind == FileType::CharacterDevice && stat.node == (*major, *minor)
        }
        Kind::BlockDevice { major, minor } => {
            stat.kind == FileType::BlockDevice && stat.node == (*major, *minor)
        }
    };
    let same = same_kind
        && old.mtime == stat.mtime
        && (old.mode, old.uid, old.gid) == (stat.mode, stat.uid, stat.gid)
        && (stat.is_directory() || old.hardlink.is_some() == (stat.links > 1));
    if !same {
        return Decision::Read;
    }
    let is_due = stat.is_file()
        && stat.size_bytes > 0
        && reread::is_due(old.path.as_bytes(), reread.period_ns, reread.last_scan_ns, reread.this_scan_ns);
    let lacks_attributes = old.fingerprint == stat.fingerprint.attributes_unread();
    match (old.fingerprint == stat.fingerprint || lacks_attributes, is_due) {
        (false, _) => Decision::Read,
        (true, true) => Decision::ReadAgain,
        (true, false) if lacks_attributes => Decision::ReadAttributes,
        (true, false) => Decision::Keep,
    }
}
