//! Mounts of a process that has a mount namespace of its own: what is written to them is kept in memory, and gone
//! with the namespace.

use super::context::Context;
use super::error::MountError;
use super::overlay::{Detached, fd_path, open};
use rustix::fs::OFlags;
use rustix::mount::MountAttrFlags;
use std::ffi::OsStr;
use std::path::Path;

/// Shows a directory of one filesystem, whose changes go to `upper`. Directories of other filesystems in it are empty.
///
/// Nobody listens at a socket there: it is another file than the one that its server has.
///
/// # Errors
/// The kernel does not take such a filesystem as a layer.
pub(crate) fn over(lower: &Path, upper: &Path, work: &Path) -> Result<Detached, MountError> {
    let context = Context::open("overlay")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    // Colons in a path would end it.
    let handles = [open(lower, flags)?, open(upper, flags)?, open(work, flags)?];
    for (key, handle) in ["lowerdir", "upperdir", "workdir"].into_iter().zip(&handles) {
        context.string(key, OsStr::new(&fd_path(handle)))?;
    }
    context.string("redirect_dir", OsStr::new("on"))?;
    context.create("have changes of a directory thrown away")?;
    Ok(Detached::of(context.mount(MountAttrFlags::MOUNT_ATTR_NODEV)?))
}

/// Makes an empty filesystem in memory.
pub(crate) fn memory(max_bytes: u64, mode: u32) -> Result<Detached, MountError> {
    let context = Context::open("tmpfs")?;
    context.string("size", OsStr::new(&max_bytes.to_string()))?;
    context.string("mode", OsStr::new(&format!("{mode:o}")))?;
    context.create("make a filesystem in memory")?;
    Ok(Detached::of(context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?))
}

/// Makes the processes of this namespace visible.
pub(crate) fn processes() -> Result<Detached, MountError> {
    let context = Context::open("proc")?;
    context.create("show the processes")?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(Detached::of(context.mount(flags | MountAttrFlags::MOUNT_ATTR_NOEXEC)?))
}

/// Makes the kernel's objects visible, for reading.
pub(crate) fn objects() -> Result<Detached, MountError> {
    let context = Context::open("sysfs")?;
    context.create("show the kernel's objects")?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(Detached::of(context.mount(flags | MountAttrFlags::MOUNT_ATTR_RDONLY)?))
}

/// Makes terminals that nobody else has.
pub(crate) fn terminals() -> Result<Detached, MountError> {
    let context = Context::open("devpts")?;
    context.string("ptmxmode", OsStr::new("0666"))?;
    context.create("make terminals")?;
    Ok(Detached::of(context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?))
}
