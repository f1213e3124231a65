//! Giving one inode its metadata: owners, attributes, mode, times, in the order in which none undoes another.
//!
//! A new owner takes the bits of set-user-id and set-group-id away, so owners come before the mode; an access list changes the mode's
//! group bits, so it comes before, too. What a call refuses is told, and the rest is still set; then, and wherever the
//! filesystem is not known to keep what it accepts, the inode is looked at, and what it lets others do is compared with what they could.
//! Without its owner a file loses the bits that would run it as another, and without its access list the group bits that stood
//! for the list's mask.

use super::access::{ACCESS_LIST, Access, is_wider, mode_for, mode_without_list};
use super::error::{RestoreError, is_own};
use super::shortfall::{ShortfallKind, Told};
use crate::model::entry::{Entry, Kind, Timestamp};
use crate::source::stat::Stat;
use crate::source::xattr;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::sync::LazyLock;

/// A filesystem with coarser times than the source's is no news: FAT counts in steps of two seconds.
const TIME_STEP_SECONDS: u64 = 2;

/// Effective user and group: who owns what this process creates. They do not change while it runs.
pub(crate) fn restorer() -> (u32, u32) {
    static RESTORER: LazyLock<(u32, u32)> =
        LazyLock::new(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    *RESTORER
}

/// How an inode is reached.
#[derive(Clone, Copy, Debug)]
pub enum Handle<'a> {
    /// A file or directory opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`: reached by its name in `/proc`.
    Path(BorrowedFd<'a>),
}

/// What creation has given an inode already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Already {
    /// It was created a moment ago by this process in a neutral directory: it is this process's own, without attributes, and
    /// of this mode, which runs it as nobody.
    neutral: Option<u16>,
}

impl Already {
    pub(crate) fn neutral(mode: u16) -> Self {
        Self { neutral: Some(mode) }
    }
}

/// Sets owners, attributes, mode and mtime. `attributes` are the entry's, from its page or chunk; `exact` is whether the filesystem
/// keeps what it accepts. An error is this process's own trouble.
pub(crate) fn apply(
    handle: Handle,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    already: Already,
    exact: bool,
    told: &Told,
) -> Result<(), RestoreError> {
    let (Handle::Open(fd) | Handle::Path(fd)) = handle;
    let is_symlink = matches!(entry.kind, Kind::Symlink { .. });
    let recorded =
        Access { mode: entry.mode, uid: entry.uid, gid: entry.gid, directory: entry.kind == Kind::Directory };
    let mut refused = Refused { entry, told, owner: None, mode: None };
    let mut mode = entry.mode;

    let own = already.neutral.is_some() && (entry.uid, entry.gid) == restorer();
    if !own {
        let gid = Some(Gid::from_raw(entry.gid));
        if let Err(errno) =
            rustix::fs::chownat(fd, c"", Some(Uid::from_raw(entry.uid)), gid, AtFlags::EMPTY_PATH)
        {
            refused.owner = Some(refused.own("set its owner", errno)?);
            // A member of the group may set that much.
            let _ = rustix::fs::chownat(fd, c"", None, gid, AtFlags::EMPTY_PATH);
        }
        // Where it may have another owner now, the bits that would run it as that one are not set in the first place.
        if refused.owner.is_some() || !exact {
            let (uid, gid) = Stat::of(fd).map_or((!recorded.uid, !recorded.gid), |now| (now.uid, now.gid));
            mode = mode_for(recorded, uid, gid);
        }
    }
    set_attributes(handle, attributes, already, &refused, &mut mode)?;
    if !is_symlink
        && already.neutral != Some(mode)
        && let Err(errno) = set_mode(handle, mode)
    {
        refused.mode = Some(refused.own("set its mode", errno)?);
    }
    let set = set_times(handle, &times(entry.mtime));
    if let Err(errno) = set {
        let errno = refused.own("set its mtime", errno)?;
        told.tell(ShortfallKind::Time, &entry.path, because("set its mtime", errno));
    }
    // Whoever is not in a file's group may not give it the bit that runs it as that group: it is dropped without an error.
    let dropped = mode & 0o2000 != 0 && restorer().0 != 0;
    if exact && refused.owner.is_none() && refused.mode.is_none() && !dropped {
        return Ok(());
    }
    let now = Stat::of(fd).map_err(RestoreError::write(&entry.path, "stat it"));
    let now = match now {
        Ok(now) => now,
        Err(error @ RestoreError::Write { errno, .. }) if is_own(errno) => return Err(error),
        Err(error) => {
            told.tell(ShortfallKind::Mode, &entry.path, error.reason());
            return Ok(());
        }
    };
    refused.compare(recorded, &now, mode, is_symlink);
    if set.is_ok() && now.mtime.seconds.abs_diff(entry.mtime.seconds) >= TIME_STEP_SECONDS {
        told.tell(ShortfallKind::Time, &entry.path, "this filesystem gave it another mtime");
    }
    Ok(())
}

fn set_mode(handle: Handle, mode: u16) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode.into());
    match handle {
        Handle::Open(fd) => rustix::fs::fchmod(fd, mode),
        Handle::Path(fd) => rustix::fs::chmod(proc_path(fd).as_str(), mode),
    }
}

fn set_times(handle: Handle, times: &Timestamps) -> Result<(), Errno> {
    match handle {
        Handle::Open(fd) => rustix::fs::futimens(fd, times),
        Handle::Path(fd) => rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH),
    }
}

/// What was refused of one entry.
struct Refused<'a> {
    entry: &'a Entry,
    told: &'a Told,
    owner: Option<Errno>,
    mode: Option<Errno>,
}

impl Refused<'_> {
    /// The errno of a call that failed, unless it is this process's own trouble.
    fn own(&self, action: &'static str, errno: Errno) -> Result<Errno, RestoreError> {
        if is_own(errno) { Err(RestoreError::write(&self.entry.path, action)(errno)) } else { Ok(errno) }
    }

    /// Tells how what is there differs from what was recorded; `mode` is what was to be set.
    fn compare(&self, recorded: Access, now: &Stat, mode: u16, is_symlink: bool) {
        let access = Access { mode: now.mode, uid: now.uid, gid: now.gid, ..recorded };
        let same_owner = (now.uid, now.gid) == (recorded.uid, recorded.gid);
        let why = |errno: Option<Errno>| match errno {
            Some(errno) => std::io::Error::from(errno).to_string(),
            None => "this filesystem does not keep it".to_owned(),
        };
        let tell = |kind, reason| self.told.tell(kind, &self.entry.path, reason);
        if !same_owner {
            let reason = format!(
                "it belongs to {}:{}, not {}:{}: {}",
                now.uid,
                now.gid,
                recorded.uid,
                recorded.gid,
                why(self.owner)
            );
            tell(ShortfallKind::Owner, reason);
        }
        if is_symlink {
            return;
        }
        if is_wider(recorded, access, restorer().0) {
            let reason = format!(
                "others can do more with it: mode {:o} of {}:{} was mode {:o} of {}:{}",
                now.mode, now.uid, now.gid, recorded.mode, recorded.uid, recorded.gid
            );
            tell(ShortfallKind::Wider, reason);
        } else if now.mode != recorded.mode && (now.mode != mode || self.mode.is_some() || !same_owner) {
            let reason = format!(
                "it has mode {:o}, not {:o}: {}",
                now.mode,
                recorded.mode,
                why(self.mode.or(self.owner))
            );
            tell(ShortfallKind::Mode, reason);
        }
    }
}

/// Removes what the entry does not have, and sets what it has. `mode` loses the bits that stand for an access list which cannot
/// be set.
fn set_attributes(
    handle: Handle,
    attributes: &[(Vec<u8>, Vec<u8>)],
    already: Already,
    refused: &Refused,
    mode: &mut u16,
) -> Result<(), RestoreError> {
    if already.neutral.is_some() && attributes.is_empty() {
        return Ok(());
    }
    let (Handle::Open(fd) | Handle::Path(fd)) = handle;
    let proc_path = proc_path(fd);
    let path = &refused.entry.path;
    let shown = |name: &[u8]| name.escape_ascii().to_string();
    if already.neutral.is_none() {
        let present = match handle {
            Handle::Open(fd) => xattr::read(fd),
            Handle::Path(fd) => xattr::read_by_path(fd),
        };
        let present = match present {
            Ok(present) => present,
            Err(errno) => {
                let errno = refused.own("read its attributes", errno)?;
                refused.told.tell(ShortfallKind::Attribute, path, because("read its attributes", errno));
                Vec::new()
            }
        };
        for (name, _) in present {
            if attributes.iter().any(|(n, _)| *n == name) {
                continue;
            }
            if let Err(errno) = rustix::fs::removexattr(proc_path.as_str(), name.as_slice()) {
                let errno = refused.own("remove an attribute", errno)?;
                let capability = name == b"security.capability";
                // A label that the system insists on stays.
                let label = name.starts_with(b"security.") && !capability;
                if label || matches!(errno, Errno::NODATA | Errno::OPNOTSUPP) {
                    continue;
                }
                let reason = because(&format!("remove attribute {}", shown(&name)), errno);
                let kind = match capability || name == ACCESS_LIST {
                    true => ShortfallKind::Wider,
                    false => ShortfallKind::Attribute,
                };
                refused.told.tell(kind, path, reason);
            }
        }
    }
    for (name, value) in attributes {
        let set = match handle {
            Handle::Open(fd) => rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()),
            Handle::Path(_) => {
                rustix::fs::setxattr(proc_path.as_str(), name.as_slice(), value, XattrFlags::empty())
            }
        };
        if let Err(errno) = set {
            let errno = refused.own("set an attribute", errno)?;
            if name == ACCESS_LIST {
                *mode = mode_without_list(*mode, value);
            }
            let reason = because(&format!("set attribute {}", shown(name)), errno);
            refused.told.tell(ShortfallKind::Attribute, path, reason);
        }
    }
    Ok(())
}

fn because(action: &str, errno: Errno) -> String {
    format!("{action}: {}", std::io::Error::from(errno))
}

fn proc_path(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}
