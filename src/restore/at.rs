//! Lists and opens names below an open directory, without following symlinks.

use super::metadata::restorer;
use crate::source::stat::Stat;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

/// Returns the names in a directory, sorted.
pub(crate) fn names(handle: impl AsFd) -> Result<BTreeSet<CString>, Errno> {
    // Reading moves a handle's position, so this uses a second handle.
    let handle = open_below(&handle, c".")?;
    let mut names = BTreeSet::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(&handle, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Opens the directory `name` of `dir`, without following a symlink.
pub(crate) fn open_below(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens an existing directory to write into it, even if its mode keeps out its own owner.
pub(crate) fn open_existing(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let all = Mode::RWXU.bits() as u16;
    let own = |stat: &Stat| stat.uid == restorer().0 && stat.mode & all != all;
    let dir = dir.as_fd();
    match open_below(dir, name) {
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let stat = Stat::of(&handle)?;
            if !own(&stat) {
                return Err(Errno::ACCESS);
            }
            let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&handle));
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode((stat.mode | all).into()))?;
            open_below(dir, name)
        }
        Ok(handle) if restorer().0 != 0 => {
            let stat = Stat::of(&handle)?;
            if own(&stat) {
                // The final mode is set at the end. If this call fails, the first creation in the directory
                // reports it.
                let _ = rustix::fs::fchmod(&handle, Mode::from_raw_mode((stat.mode | all).into()));
            }
            Ok(handle)
        }
        other => other,
    }
}

/// Opens a directory below `root`, component by component: at any depth, and without following symlinks.
pub(crate) fn open_path(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut handle = open_below(root, c".")?;
    for component in path.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
        handle = open_below(&handle, &name_of(component))?;
    }
    Ok(handle)
}

/// Converts a component to a C string. Tree paths contain no NUL.
pub(crate) fn name_of(component: &[u8]) -> CString {
    CString::new(component).unwrap_or_default()
}
