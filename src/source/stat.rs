//! An entry's metadata, from one `statx`.

use crate::model::entry::{Fingerprint, Kind, Timestamp};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use std::ffi::CStr;

/// An inode within one scan: device and inode numbers may change with a remount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub device: (u32, u32),
    pub inode: u64,
}

/// An entry's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    /// Number of allocated units of 512 bytes.
    pub blocks: u64,
    pub mtime: Timestamp,
    pub fingerprint: Fingerprint,
    pub links: u32,
    pub device: (u32, u32),
    /// Number of the device that a device node stands for.
    pub node: (u32, u32),
    /// Whether a filesystem is mounted here. Only kernels from 5.8 on report it.
    pub is_mount_root: bool,
}

impl Stat {
    /// Reads the metadata of `name` in `dir`, without following a symlink.
    pub(crate) fn at(dir: impl AsFd, name: &CStr) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS).map(Self::from)
    }

    /// Reads the metadata of an open file.
    pub(crate) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(Self::from)
    }

    /// Returns whether no value differs that a change would alter.
    pub(crate) fn same_moment(&self, other: &Stat) -> bool {
        (self.kind, self.size_bytes, self.mtime, self.fingerprint)
            == (other.kind, other.size_bytes, other.mtime, other.fingerprint)
    }

    /// Returns the identity of the inode, valid as long as its filesystem is not mounted again.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.fingerprint.inode }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Returns whether the entry is of this kind; a device must also have the number.
    pub(crate) fn is_a(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Directory => self.is_directory(),
            Kind::File(_) => self.is_file(),
            Kind::Symlink { .. } => self.kind == FileType::Symlink,
            Kind::Fifo => self.kind == FileType::Fifo,
            Kind::Socket => self.kind == FileType::Socket,
            Kind::CharDevice { major, minor } => {
                self.kind == FileType::CharacterDevice && self.node == (*major, *minor)
            }
            Kind::BlockDevice { major, minor } => {
                self.kind == FileType::BlockDevice && self.node == (*major, *minor)
            }
        }
    }

    /// Returns whether there may be holes: the file has fewer blocks than its size needs.
    pub(crate) fn may_have_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size_bytes
    }
}

impl From<Statx> for Stat {
    fn from(s: Statx) -> Self {
        let time = |t: StatxTimestamp| Timestamp { seconds: t.tv_sec, nanos: t.tv_nsec };
        Self {
            kind: FileType::from_raw_mode(s.stx_mode.into()),
            mode: s.stx_mode & 0o7777,
            uid: s.stx_uid,
            gid: s.stx_gid,
            size_bytes: s.stx_size,
            blocks: s.stx_blocks,
            mtime: time(s.stx_mtime),
            fingerprint: Fingerprint { inode: s.stx_ino, ctime: time(s.stx_ctime) },
            links: s.stx_nlink,
            device: (s.stx_dev_major, s.stx_dev_minor),
            node: (s.stx_rdev_major, s.stx_rdev_minor),
            is_mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}
