//! Restores the second and further names of a file.
//!
//! A name is linked to the first restored name of the file. If that name could not be made, the next one
//! takes its part. If a link is refused (too many links, another filesystem, one without links), the name
//! becomes a separate file, whose content is copied from the first, and this is reported.

use super::at::{name_of, open_path};
use super::error::{EntryError, RestoreError, is_own};
use super::file::from_other_name;
use super::shortfall::ShortfallKind;
use super::spot::Spot;
use super::tree::Restorer;
use crate::model::entry::{Entry, Group};
use crate::model::tree_path::TreePath;
use crate::support::lock::lock;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::ffi::CString;

impl Restorer<'_, '_> {
    /// Restores another name of a file whose first name was restored.
    ///
    /// Makes a separate file if it cannot be linked.
    pub(crate) fn link(
        &mut self,
        spot: Spot,
        entry: Entry,
        group: Group,
        first: &TreePath,
    ) -> Result<(), RestoreError> {
        self.drain()?;
        if lock(&self.context.outcome.lost_names).contains(first) {
            // The first name could not be made, so this one takes its part.
            return self.make(spot, entry);
        }
        let linked = self.first_of(first).map(|(from, first_name)| {
            let made = spot.make(&entry.path, "link it", |at| {
                rustix::fs::linkat(&from, &first_name, &spot.dir.handle, at, AtFlags::empty())
            });
            match made {
                Ok(((), mut unplaced)) => {
                    unplaced.linked = true;
                    Ok(unplaced.place(&entry.path).map_err(EntryError::from))
                }
                Err(RestoreError::Write { errno, .. }) => Err((errno, from, first_name)),
                Err(error) => Ok(Err(error.into())),
            }
        });
        let (errno, other) = match linked {
            Ok(Ok(placed)) => return self.context.settle(&spot.dir, &entry, placed).map(drop),
            Ok(Err((errno, from, name))) => (errno, crate::source::read::open_file(&from, &name).ok()),
            Err(errno) => (errno, None),
        };
        if is_own(errno) {
            return Err(RestoreError::write(&entry.path, "link it")(errno));
        }
        let reason =
            format!("it was restored as a separate file: cannot link it: {}", std::io::Error::from(errno));
        self.context.outcome.told.tell(ShortfallKind::Separate, &entry.path, reason);
        if let (Some(other), Some(file)) = (other, entry.file()) {
            let made = from_other_name(self.context, &other, &spot, &entry, file);
            match self.context.settle(&spot.dir, &entry, made)? {
                Some(true) => {
                    // Later names link to this one: the first can have no more links, or none on this
                    // filesystem.
                    self.links.insert(group, entry.path);
                    return Ok(());
                }
                Some(false) => {}
                None => return Ok(()),
            }
        }
        self.make(spot, entry)
    }

    /// Returns the directory and name of the first name of a group.
    fn first_of(&self, first: &TreePath) -> Result<(rustix::fd::OwnedFd, CString), Errno> {
        let top = self.stack.first().map(|level| level.dir.clone());
        let (Some(top), Some((dir, name))) = (top, first.split()) else { return Err(Errno::NOENT) };
        let below = dir.get(top.path.as_bytes().len()..).unwrap_or_default();
        Ok((open_path(&top.handle, below)?, name_of(name)))
    }
}
