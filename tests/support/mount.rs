//! Directories to mount on.

use super::rig::Rig;
use super::standby::depot;
use std::path::{Path, PathBuf};
use understudy::model::snapshot_ref::SnapshotRef;
use understudy::mounts::mount::{self, MountOptions};
use understudy::vfs::overlay;

/// A mount point that is unmounted when this is dropped.
pub struct MountPoint(pub PathBuf);

impl MountPoint {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Self(dir.to_owned())
    }

    pub fn of(rig: &Rig, wanted: &SnapshotRef, name: &str) -> Self {
        let point = Self::new(&rig.dir.path().join(name));
        mount::mount(&depot(rig), wanted, &point.0, &MountOptions::default()).unwrap();
        point
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        while overlay::detach(&self.0, true).is_ok() {}
    }
}
