//! Removes entries of the destination that the snapshot does not have.

use super::destination::{LOST_AND_FOUND, is_marker, is_mount_root};
use super::directory::Directory;
use super::error::RestoreError;
use super::remove::{left_because, remove_all};
use super::request::Existing;
use super::shortfall::ShortfallKind;
use super::tree::{Level, Restorer};
use crate::model::tree_path::TreePath;
use crate::source::stat::Stat;
use rustix::fd::AsFd;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

impl Restorer<'_, '_> {
    /// Leaves a directory whose entries were all met: its remaining names are not in the snapshot.
    pub(crate) fn leave(&mut self) -> Result<(), RestoreError> {
        let Some(Level { dir, mut extra }) = self.stack.pop() else { return Ok(()) };
        let context = self.context;
        let told = &context.outcome.told;
        if self.stack.is_empty() {
            if is_mount_root(&dir.handle) {
                extra.remove(LOST_AND_FOUND);
            }
            // This run's own names are removed when all is done.
            extra.retain(|name| !self.place.is_marker(name) && !context.outcome.session.is_journal(name));
        }
        // Files that a killed restore left are removed. Files that only look similar belong to another
        // program.
        let top = self.stack.is_empty();
        let is_ours = |name: &CStr| {
            context.outcome.session.is_left(name, top)
                || (top && is_marker(name) && is_empty_of_ours(&dir.handle, name))
        };
        let (ours, extra): (Vec<_>, Vec<_>) = extra.into_iter().partition(|name| is_ours(name));
        self.remove_ours(&dir, ours);
        if top {
            // Removing the journal changes the directory's time, so this precedes setting it.
            context.outcome.session.end();
        }
        // A snapshot's file that is restored alone says nothing about the directory that it is put into.
        let speaks = dir.entry().is_some();
        if extra.is_empty() || !speaks || !(self.request.existing == Existing::Mirror || self.place.is_own())
        {
            return Ok(());
        }
        if dir.elsewhere {
            if self.mounts_told.insert(dir.filesystem.mount) {
                let first =
                    self.stack.iter().find(|level| level.dir.filesystem.mount == dir.filesystem.mount);
                let path = first.map_or(&dir.path, |level| &level.dir.path);
                let reason = "another filesystem is mounted here; entries that the snapshot does not have were left in it";
                told.tell(ShortfallKind::Left, path, reason);
            }
            return Ok(());
        }
        if context.outcome.page_lost.load(Ordering::Relaxed) || self.made_up.contains(&dir.path) {
            let reason = "part of the manifest is lost, so extra entries in this directory cannot be identified and were left";
            told.tell(ShortfallKind::Left, &dir.path, reason);
            return Ok(());
        }
        // Wait until every entry of the directory was tried.
        self.drain()?;
        if dir.folds_names() {
            let reason =
                "it contains names that this filesystem does not distinguish, so extra entries were left";
            told.tell(ShortfallKind::Left, &dir.path, reason);
            return Ok(());
        }
        self.remove_extra(&dir, &extra)
    }

    /// Removes files that a killed restore left in a directory.
    fn remove_ours(&mut self, dir: &Directory, names: Vec<CString>) {
        for name in names {
            match rustix::fs::unlinkat(&dir.handle, &name, AtFlags::empty()) {
                Ok(()) => self.report.removed += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let path = dir.path.join(name.as_bytes());
                    self.context.outcome.told.tell(ShortfallKind::Left, &path, left_because(errno));
                }
            }
        }
    }

    /// Removes entries from a directory that the snapshot does not have.
    fn remove_extra(&mut self, dir: &Directory, names: &[CString]) -> Result<(), RestoreError> {
        let context = self.context;
        let told = &context.outcome.told;
        for name in names {
            let path = dir.path.join(name.as_bytes());
            if context.own.iter().any(|own| own.is_within(&path)) {
                let reason =
                    "this directory is understudy's own, which a restore never removes; it was left in place";
                told.tell(ShortfallKind::Left, &path, reason);
                continue;
            }
            let mut left = |at: &TreePath, errno| told.tell(ShortfallKind::Left, at, left_because(errno));
            let gone = remove_all(&dir.handle, dir.filesystem.mount, name, &path, &mut left)
                .map_err(RestoreError::write(&path, "remove it"))?;
            self.report.removed += u64::from(gone);
        }
        Ok(())
    }
}

/// Returns whether a file looks as markers are made: empty, and owned by this user.
fn is_empty_of_ours(dir: impl AsFd, name: &CStr) -> bool {
    let is_ours = |stat: &Stat| {
        stat.is_file() && stat.size_bytes == 0 && stat.uid == rustix::process::geteuid().as_raw()
    };
    Stat::at(dir, name).is_ok_and(|stat| is_ours(&stat))
}
