//! Identifies the filesystem of a directory, as far as that is possible across reboots.

use super::stat::Stat;
use crate::model::hold::FilesystemId;
use rustix::fd::AsFd;

/// Returns the lasting properties of a directory's filesystem.
///
/// `f_fsid` is made from the UUID on ext4 and btrfs only; elsewhere it may change with the device's number,
/// and is left out. That of btrfs has the subvolume's number in its upper half (see `btrfs_statfs` in the
/// kernel), which is left out as well: another snapshot of it is the same filesystem.
pub(crate) fn identify(directory: impl AsFd, stat: &Stat) -> FilesystemId {
    const EXT4: u64 = 0xef53;
    const BTRFS: u64 = 0x9123_683e;
    let root_inode = stat.fingerprint.inode;
    let Ok(fs) = rustix::fs::fstatvfs(&directory) else {
        return FilesystemId { magic: 0, id: 0, root_inode, mounts: None };
    };
    let magic = rustix::fs::fstatfs(&directory).map_or(0, |f| f.f_type as u64);
    let id = match magic {
        EXT4 => fs.f_fsid,
        BTRFS => fs.f_fsid & 0xffff_ffff,
        _ => 0,
    };
    FilesystemId { magic, id, root_inode, mounts: None }
}
