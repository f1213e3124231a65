//! The objects that a standby on this host keeps of a store: their content need not be fetched.

use crate::model::entry::File;
use crate::source::stat::Stat;
use crate::vfs::erofs::image::object_path;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use std::path::PathBuf;

/// A directory of objects that are named by the hashes of their content.
#[derive(Clone, Debug)]
pub struct LocalObjects {
    dir: PathBuf,
}

impl LocalObjects {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Opens the object with the content of `file`, if one of its size exists. The bytes are not checked.
    pub fn open(&self, file: &File) -> Option<OwnedFd> {
        if file.size_bytes == 0 {
            return None;
        }
        let path = self.dir.join(object_path(file.hash));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        Stat::of(&handle).is_ok_and(|stat| stat.size_bytes == file.size_bytes).then_some(handle)
    }
}
