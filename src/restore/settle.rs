//! Decides about an entry that could not be made: report it and continue, or end the restore.

use super::context::RestoreContext;
use super::directory::Directory;
use super::error::{Doing, EntryError, RestoreError};
use super::filesystem::has_room;
use super::shortfall::ShortfallKind;
use crate::content::attributes::attributes_of;
use crate::model::entry::{Attributes, Entry};
use crate::support::lock::lock;
use rustix::io::Errno;

impl RestoreContext<'_> {
    /// Reads an entry's attributes.
    ///
    /// If the repository cannot give them, the entry is restored without, and this is reported.
    pub fn attributes(&self, entry: &Entry) -> Result<Attributes, RestoreError> {
        match attributes_of(&self.writer.chunks, entry).map_err(RestoreError::from) {
            Err(error) if !error.ends(Doing::Making) => {
                let reason = format!("its attributes are damaged: {}", error.reason());
                self.outcome.told.tell(ShortfallKind::Attribute, &entry.path, reason);
                Ok(Attributes::new())
            }
            other => other,
        }
    }

    /// Reports an entry that could not be made and returns `None`, so that the restore continues.
    ///
    /// An error that ends the restore is returned.
    pub(crate) fn settle<T>(
        &self,
        dir: &Directory,
        entry: &Entry,
        result: Result<T, EntryError>,
    ) -> Result<Option<T>, RestoreError> {
        let EntryError { doing, error } = match result {
            Ok(value) => return Ok(Some(value)),
            Err(failure) => failure,
        };
        let entrys_own = match &error {
            // The disk has room: a directory or an index of names is full.
            RestoreError::Write { errno: Errno::NOSPC, .. } => {
                doing == Doing::Making && has_room(&dir.handle)
            }
            // The rest of the destination may be writable.
            RestoreError::Write { errno: Errno::ROFS, .. } => dir.elsewhere,
            _ => false,
        };
        if error.ends(doing) && !entrys_own {
            return Err(error);
        }
        let kind = match &error {
            RestoreError::Repository(_) | RestoreError::Content { .. } => ShortfallKind::Damaged,
            _ => ShortfallKind::Missing,
        };
        self.outcome.told.tell(kind, &entry.path, error.reason());
        if entry.hardlink.is_some() {
            let lost = &self.outcome.lost_names;
            lock(lost).insert(entry.path.clone());
        }
        Ok(None)
    }
}
