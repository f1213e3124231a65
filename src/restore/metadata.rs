//! Gives an inode its metadata, in an order in which no step undoes another: owners, attributes, mode, times.
//!
//! A new owner clears the set-user-id and set-group-id bits, so owners come before the mode. An access list
//! changes the mode's group bits, so it precedes the mode as well. A call that is refused is reported, and
//! the rest is still set. In that case, and wherever the filesystem is not known to keep what it accepts, the
//! inode is checked: the rights it gives are compared with those recorded. Without its owner a file loses the
//! bits that would run it as another user, and without its access list the group bits that stood for the
//! list's mask.

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

/// Smallest difference of times that is reported. FAT counts in steps of two seconds.
const TIME_STEP_SECONDS: u64 = 2;

/// Returns the effective user and group, which own what this process creates.
///
/// They do not change while it runs.
pub(crate) fn restorer() -> (u32, u32) {
    static RESTORER: LazyLock<(u32, u32)> =
        LazyLock::new(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    *RESTORER
}

/// The way an inode is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handle<'a> {
    /// A file or directory opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// An inode opened with `O_PATH`, reached by its name in `/proc`.
    Path(BorrowedFd<'a>),
}

/// The metadata that creation has given an inode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CreatedWith {
    /// The mode of an inode that this process has just created in a neutral directory.
    ///
    /// Such an inode belongs to this process and has no attributes, and its mode has no set-id bits.
    neutral: Option<u16>,
}

impl CreatedWith {
    pub(crate) fn neutral(mode: u16) -> Self {
        Self { neutral: Some(mode) }
    }
}

/// Sets owners, attributes, mode and mtime.
///
/// `attributes` are the entry's, from its page or chunk. `exact` says whether the filesystem keeps what it
/// accepts. The error is one of this process, such as too many open files.
pub(crate) fn apply(
    handle: Handle,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    already: CreatedWith,
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
            // A member of the group may set at least the group.
            let _ = rustix::fs::chownat(fd, c"", None, gid, AtFlags::EMPTY_PATH);
        }
        // If it may have another owner now, the bits that would run it as that owner are not set at all.
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
    // The kernel drops the set-group-id bit without an error if the caller is not in the file's group.
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
        told.tell(ShortfallKind::Time, &entry.path, "this filesystem stored a different mtime");
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

/// The calls that were refused for one entry.
struct Refused<'a> {
    entry: &'a Entry,
    told: &'a Told,
    owner: Option<Errno>,
    mode: Option<Errno>,
}

impl Refused<'_> {
    /// Returns the errno of a failed call, unless the error is one of this process.
    fn own(&self, action: &'static str, errno: Errno) -> Result<Errno, RestoreError> {
        if is_own(errno) { Err(RestoreError::write(&self.entry.path, action)(errno)) } else { Ok(errno) }
    }

    /// Reports how the inode differs from what was recorded. `mode` is the mode that was set or tried.
    fn compare(&self, recorded: Access, now: &Stat, mode: u16, is_symlink: bool) {
        let access = Access { mode: now.mode, uid: now.uid, gid: now.gid, ..recorded };
        let same_owner = (now.uid, now.gid) == (recorded.uid, recorded.gid);
        let why = |errno: Option<Errno>| match errno {
            Some(errno) => std::io::Error::from(errno).to_string(),
            None => "this filesystem does not store it".to_owned(),
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
                "other users have more access: it has mode {:o} of {}:{}, not mode {:o} of {}:{}",
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

/// Removes attributes that the entry does not have, and sets those that it has.
///
/// `mode` loses the bits that stand for an access list which cannot be set.
fn set_attributes(
    handle: Handle,
    attributes: &[(Vec<u8>, Vec<u8>)],
    already: CreatedWith,
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
    format!("cannot {action}: {}", std::io::Error::from(errno))
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
