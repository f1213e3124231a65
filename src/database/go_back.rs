//! How a restored database takes the place of a replica's data, when a person has a store go back to an earlier
//! moment on purpose.
//!
//! The restore was made before, beside the data, and has a mark that says what it is. An order names it; the order is
//! in the note of the role before anything is done, so that a supervisor that was killed goes on with it. While no
//! server runs, the two directories change places in one step of the filesystem, and what was there is kept aside
//! under a name of its own: it is deleted by nobody but a person.
//!
//! Why it may be done again: whether the places were changed is said by the mark, which lies in one of the two
//! directories. What the replica had received and not applied belongs to what was left, and is kept aside as well:
//! else the promotion would apply it.
//!
//! What can race: a fence. It closes the role; the note of what was begun is then dropped by the next order, and the
//! data is one whole database or the other.

use super::desk::Settings;
use super::error::DatabaseError;
use super::holder::{self, Holder};
use super::restored::{GoBack, Restored};
use super::role::RoleNote;
use super::seed::{SeedNote, data_dir};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::File;
use std::path::Path;

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatabaseError + '_ {
    |source| DatabaseError::File { path: path.to_owned(), source }
}

impl GoBack {
    /// Returns whether it is done already: who asks may have been killed before the answer.
    pub(super) fn is_done(&self, note: &RoleNote) -> bool {
        note.back.is_none() && note.branch.as_ref() == Some(&self.position) && !self.restored.exists()
    }

    /// Refuses what cannot be carried out, before anything follows from it.
    ///
    /// # Errors
    /// There is no such restored database.
    pub(super) fn check(&self) -> Result<(), DatabaseError> {
        let found = Restored::read(&self.restored)?;
        let is_it = found.is_some_and(|mark| mark.id == self.id && mark.position == self.position);
        if !is_it || SeedNote::read(&self.restored)?.is_none() {
            return Err(DatabaseError::Held(format!(
                "{}: there is no database restored to {} in it",
                self.restored.display(),
                self.position
            )));
        }
        if self.aside.exists() {
            return Err(DatabaseError::Held(format!("{}: it is in the way", self.aside.display())));
        }
        Ok(())
    }

    /// Has the restored database take the place of the data. No server runs on either.
    ///
    /// # Errors
    /// The places were not changed, or what was there is not aside yet; the same call goes on.
    pub(super) fn carry_out(&self, settings: &Settings) -> Result<(), DatabaseError> {
        let root = &settings.root;
        for dir in [root, &self.restored] {
            let data = data_dir(dir);
            if data.exists() && !matches!(holder::holder(&data)?, Holder::Nobody) {
                let text = format!("{}: a server has this data; stop it", data.display());
                return Err(DatabaseError::Held(text));
            }
        }
        let is_in =
            |dir: &Path| Ok::<_, DatabaseError>(Restored::read(dir)?.is_some_and(|of| of.id == self.id));
        if !is_in(root)? {
            self.check()?;
            renameat_with(CWD, root, CWD, &self.restored, RenameFlags::EXCHANGE)
                .map_err(|errno| file_error(root)(errno.into()))?;
            sync_around(root)?;
        }
        crate::support::kill_point::reached("places changed");
        let received = settings.place.dir.join("received");
        for (from, to) in [
            (&self.restored, self.aside.clone()),
            (&received, settings.place.dir.join(format!("received.stranded-{}", self.id))),
        ] {
            if from.exists() && !is_in(from)? {
                std::fs::rename(from, &to).map_err(file_error(from))?;
                sync_around(from)?;
            }
        }
        crate::support::kill_point::reached("kept aside");
        Ok(())
    }
}

fn sync_around(path: &Path) -> Result<(), DatabaseError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(file_error(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::env::Env;

    #[test]
    fn a_directory_without_the_mark_of_this_restore_takes_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let going = GoBack {
            id: "a".into(),
            position: "1-11-4".parse().unwrap(),
            restored: dir.path().join("r"),
            aside: dir.path().join("s"),
        };
        std::fs::create_dir(&going.restored).unwrap();
        assert!(going.check().unwrap_err().to_string().contains("no database restored to 1-11-4"));
        let other = Restored { id: "b".into(), position: going.position.clone() };
        other.write(&going.restored, &Env::system()).unwrap();
        assert_eq!(Restored::read(&going.restored).unwrap(), Some(other));
        assert!(going.check().is_err());
    }
}
