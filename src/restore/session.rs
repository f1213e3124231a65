//! Temporary names of a restore, and how a later restore recognises those of a killed one.
//!
//! The names contain a random number, so that none is a name of the snapshot or of another program. A journal
//! distinguishes leftovers from files that only look similar: it is a small file of this user at the top of
//! the destination, which gives the number, and whose lock no process holds any more. Without a journal no
//! file counts as a leftover. The journal is removed when the same restore has met every directory.

use super::at::names;
use crate::source::stat::Stat;
use crate::support::env::Env;
use crate::support::lock::lock;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::ffi::{CStr, CString};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const BESIDE: &str = ".understudy-new-";
const DIGITS: usize = 16;
/// Beginning of a journal's content. The restore's tag follows.
const JOURNAL: &str = "understudy: names that begin with this one are of a restore that was broken off, ";

/// The temporary names of one restore.
#[derive(Debug)]
pub(crate) struct Session {
    number: u64,
    next: AtomicU64,
    journal: Mutex<Option<Journal>>,
    left: Mutex<Vec<Left>>,
}

#[derive(Debug)]
struct Journal {
    top: OwnedFd,
    /// The journal, locked as long as it is open.
    _file: OwnedFd,
}

/// The session of an interrupted restore.
#[derive(Debug)]
struct Left {
    /// The journal's name, which is also the prefix of the session's names.
    name: CString,
    is_same: bool,
    _lock: OwnedFd,
}

impl Session {
    pub fn new(env: &Env) -> Self {
        Self {
            number: env.nonce(),
            next: AtomicU64::new(0),
            journal: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// Returns a name that no other process uses.
    pub fn name(&self) -> CString {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        CString::new(format!("{}-{count:x}", self.prefix())).unwrap_or_default()
    }

    fn prefix(&self) -> String {
        format!("{BESIDE}{:0DIGITS$x}", self.number)
    }

    /// Begins a journal at the top of a destination, and reads the journals of other restores.
    ///
    /// If it cannot be written, a killed restore leaves its files.
    pub fn begin(&self, top: &OwnedFd, tag: &str) {
        let content = format!("{JOURNAL}{tag}\n");
        let all = names(top).unwrap_or_default();
        let left = all.into_iter().filter_map(|name| left(top, name, &content));
        lock(&self.left).extend(left);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(top, self.prefix(), flags, Mode::RUSR | Mode::WUSR).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            rustix::io::pwrite(&file, content.as_bytes(), 0)?;
            Ok(Journal { top: rustix::io::fcntl_dupfd_cloexec(top, 0)?, _file: file })
        });
        *lock(&self.journal) = made.ok();
    }

    /// Removes the journal, since no temporary name is in use any more.
    pub(crate) fn end(&self) {
        if let Some(journal) = lock(&self.journal).take() {
            let _ = rustix::fs::unlinkat(&journal.top, self.prefix(), AtFlags::empty());
        }
    }

    /// Returns whether `name` is this restore's journal.
    pub(crate) fn is_journal(&self, name: &CStr) -> bool {
        name.to_bytes() == self.prefix().as_bytes()
    }

    /// Returns whether `name` is a leftover of an interrupted restore.
    ///
    /// At the top that includes its journal, if it was the same restore.
    pub(crate) fn is_left(&self, name: &CStr, is_top: bool) -> bool {
        let left = lock(&self.left);
        left.iter().any(|left| match name.to_bytes().strip_prefix(left.name.as_bytes()) {
            Some([]) => is_top && left.is_same,
            Some([b'-', count @ ..]) => !count.is_empty() && count.iter().all(u8::is_ascii_hexdigit),
            _ => false,
        })
    }
}

/// Returns the session of the journal `name`, if it is a journal and its restore has ended.
fn left(top: &OwnedFd, name: CString, own_content: &str) -> Option<Left> {
    let digits = name.to_bytes().strip_prefix(BESIDE.as_bytes())?;
    if digits.len() != DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(top, &name, flags, Mode::empty()).ok()?;
    let stat = Stat::of(file.as_fd()).ok()?;
    if !stat.is_file() || stat.links != 1 || stat.uid != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut bytes = [0; 300];
    let count = rustix::io::pread(&file, &mut bytes, 0).ok()?;
    let content = std::str::from_utf8(&bytes[..count]).ok()?;
    let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    (content.starts_with(JOURNAL) && content.ends_with('\n') && free).then_some(Left {
        name,
        is_same: content == own_content,
        _lock: file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn only_what_a_journal_of_a_killed_restore_names_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let top =
            rustix::fs::openat(CWD, dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let killed = Session::new(&Env::system());
        killed.begin(&top, "tag");
        let (living, name) = (Session::new(&Env::system()), killed.name());
        living.begin(&top, "tag");
        assert!(!living.is_left(&name, false), "its restore lives");
        // The lock is released when its process ends.
        drop(killed.journal.lock().unwrap().take());
        let next = Session::new(&Env::system());
        next.begin(&top, "tag");
        assert!(next.is_left(&name, false) && next.is_left(&CString::new(killed.prefix()).unwrap(), true));
        assert!(!next.is_left(&living.name(), true) && !next.is_left(&next.name(), true));
        for theirs in [
            ".understudy-new-notes",
            ".understudy-new-0123456789abcdef",
            ".understudy-new-0123456789abcdef-0",
        ] {
            assert!(!next.is_left(&CString::new(theirs).unwrap(), true), "{theirs}");
        }
        // The journal of another restore stays until that one is run again.
        let other = Session::new(&Env::system());
        drop(next);
        other.begin(&top, "other");
        assert!(other.is_left(&name, false) && !other.is_left(&CString::new(killed.prefix()).unwrap(), true));
        other.end();
        assert!(!dir.path().join(other.prefix()).exists());
    }
}
