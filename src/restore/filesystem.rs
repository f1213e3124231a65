//! What a directory of the destination lies on: which mount, and what may be taken for granted of it.
//!
//! Mounts are told apart by the kernel's number for them, not by the device: a directory that is mounted at a second place
//! has the same device there, and a btrfs subvolume has another one without being a mount. Where the kernel does not tell
//! the number, the device has to do, and what it cannot tell apart counts as another mount.
//!
//! A few filesystems are known to keep any mode and owner that they accept; what any other made of them is looked at,
//! entry by entry. The same goes for names: some filesystems strip dots, fold letters or shorten.

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

/// ext2 to ext4, XFS, btrfs, tmpfs, f2fs: modes, owners and names are kept as they were given, or refused.
const EXACT: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

/// A mount, as far as it can be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mount {
    Number(u64),
    Device(u32, u32),
}

/// What a directory lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filesystem {
    pub(crate) mount: Mount,
    /// It keeps modes, owners and names, or refuses them: what a call accepted needs no second look.
    pub(crate) exact: bool,
}

impl Filesystem {
    pub(crate) fn of(handle: impl AsFd) -> Result<Self, Errno> {
        let magic = rustix::fs::fstatfs(&handle)?.f_type as u64;
        Ok(Self { mount: Mount::of(&handle)?, exact: EXACT.contains(&(magic & 0xFFFF_FFFF)) })
    }
}

impl Mount {
    /// The mount that an open file or directory was reached by.
    pub(crate) fn of(handle: impl AsFd) -> Result<Self, Errno> {
        let fd = handle.as_fd();
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return Ok(Self::Number(stat.stx_mnt_id));
        }
        // Before Linux 5.8.
        let shown =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
        let number = shown.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        Ok(number.map_or(Self::Device(stat.stx_dev_major, stat.stx_dev_minor), Self::Number))
    }
}

/// Whether there is room: of two filesystems that say "no space", one is full, and the other has no room for this
/// entry alone (an index that is full, a root directory of a fixed size).
pub(crate) fn has_room(handle: impl AsFd) -> bool {
    const ROOM_BYTES: u64 = 4 << 20;
    rustix::fs::fstatvfs(handle).is_ok_and(|found| {
        let inodes = found.f_files == 0 || found.f_favail > 16;
        inodes && found.f_bavail.saturating_mul(found.f_frsize) > ROOM_BYTES
    })
}
