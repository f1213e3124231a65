//! Finds the mount and the filesystem of a directory, and what may be assumed about them.
//!
//! Mounts are distinguished by the kernel's number for them, not by the device: a directory that is mounted
//! at a second place has the same device there, and a btrfs subvolume has another device without being a
//! mount. If the kernel does not report the number, the device is used, and a subvolume then counts as
//! another mount.
//!
//! A few filesystems are known to keep any mode and owner that they accept. On any other, each entry is
//! checked afterwards. The same holds for names: some filesystems strip dots, fold letters or shorten names.

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

/// Magic numbers of ext2 to ext4, XFS, btrfs, tmpfs and f2fs.
///
/// These keep modes, owners and names as given, or refuse them.
const EXACT: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

/// A mount, as far as it can be distinguished from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mount {
    Number(u64),
    Device(u32, u32),
}

/// The mount and kind of filesystem of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filesystem {
    pub(crate) mount: Mount,
    /// Whether it keeps modes, owners and names as given or refuses them.
    ///
    /// An accepted call then needs no check.
    pub(crate) exact: bool,
}

impl Filesystem {
    pub(crate) fn of(handle: impl AsFd) -> Result<Self, Errno> {
        let magic = rustix::fs::fstatfs(&handle)?.f_type as u64;
        Ok(Self { mount: Mount::of(&handle)?, exact: EXACT.contains(&(magic & 0xFFFF_FFFF)) })
    }
}

impl Mount {
    /// Returns the mount through which a file or directory was opened.
    pub(crate) fn of(handle: impl AsFd) -> Result<Self, Errno> {
        let fd = handle.as_fd();
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return Ok(Self::Number(stat.stx_mnt_id));
        }
        // Linux before 5.8 reports the number here.
        let shown =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
        let number = shown.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        Ok(number.map_or(Self::Device(stat.stx_dev_major, stat.stx_dev_minor), Self::Number))
    }
}

/// Returns whether a filesystem that reported "no space" still has room.
///
/// If it does, only this entry has no room: an index is full, or a root directory of fixed size.
pub(crate) fn has_room(handle: impl AsFd) -> bool {
    const ROOM_BYTES: u64 = 4 << 20;
    rustix::fs::fstatvfs(handle).is_ok_and(|found| {
        let inodes = found.f_files == 0 || found.f_favail > 16;
        inodes && found.f_bavail.saturating_mul(found.f_frsize) > ROOM_BYTES
    })
}
