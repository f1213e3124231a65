//! The place of a drill on a replica's host: a directory for the copy, one for the files of its server, and one that
//! the user of its command can pass.
//!
//! A drill holds a lock as long as it lives, whatever its process id. What is there without that lock is left from a
//! drill that was killed: the supervisor removes it within a few seconds, else the next drill does.
//!
//! Why removal is safe: the directories have names of their own, and only what lies beside a drill's mark is removed;
//! the mark goes last.

use super::error::DatabaseError;
use super::minimal::Place;
use super::seed::data_dir;
use super::still::try_lock;
use crate::support::env::Env;
use crate::support::private;
use rustix::fd::OwnedFd;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the directory of the copy, and of that of its server's files.
const DRILL: &str = "drill";
/// The mark that a directory is a drill's.
const MARK: &str = "understudy-drill";
/// The copy of the data.
const COPY: &str = "data";
/// What is restored in place of a copy.
const RESTORED: &str = "restored";
/// Mode of a directory that others pass and cannot list.
const PASSAGE_MODE: u32 = 0o711;
/// Time for the last server to have left its files, and for a supervisor to have removed what is left.
const PATIENCE: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(50);

/// A place that belongs to this process.
pub(super) struct DrillPlace {
    _lock: OwnedFd,
    dirs: [PathBuf; 3],
    /// Where the copy's server has its files.
    pub server: Place,
    env: Env,
}

/// Returns the directory around a copy: on the filesystem of the data where it can be, and never among a server's own
/// files.
fn around(root: &Path) -> PathBuf {
    match data_dir(root) == root {
        true => {
            let mut name = root.file_name().unwrap_or_default().to_owned();
            name.push(".drill");
            root.with_file_name(name)
        }
        false => root.join(DRILL),
    }
}

/// Returns the directory that other users can pass: not below the server's own, which nobody else enters.
fn passage(of: &Place) -> PathBuf {
    let hash = blake3::hash(of.dir.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("understudy-drill-{}", &hash.to_hex()[..16]))
}

/// Returns the directories of a drill.
fn dirs(of: &Place, root: &Path) -> [PathBuf; 3] {
    [around(root), of.dir.join(DRILL), passage(of)]
}

/// Returns whether a directory is there, and this user's.
fn is_own(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
}

/// Makes a directory of a drill's.
fn make(dir: &Path) -> Result<(), DatabaseError> {
    let file = |source| DatabaseError::File { path: dir.to_owned(), source };
    private::make_dirs(dir).map_err(file)?;
    // In a directory for all, anybody may have made it.
    if !is_own(dir) || std::fs::read_dir(dir).map_err(file)?.next().is_some() {
        let text = format!("{}: it is in the way, and no drill left it there", dir.display());
        return Err(DatabaseError::Settings(text));
    }
    std::fs::write(dir.join(MARK), b"").map_err(file)
}

impl DrillPlace {
    /// Takes the place beside a replica for this process.
    ///
    /// # Errors
    /// [`DatabaseError::Taken`]: another drill has it.
    pub(super) fn take(of: &Place, root: &Path, env: &Env) -> Result<Self, DatabaseError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| DatabaseError::File { path, source }
        };
        private::own(&of.dir).map_err(file(&of.dir))?;
        let begun = env.stopwatch();
        let lock = loop {
            match try_lock(&of.drill_lock())? {
                Some(lock) => break lock,
                None if begun.elapsed() >= PATIENCE => return Err(DatabaseError::Taken(of.drill_lock())),
                None => env.sleep(TRY_EVERY),
            }
        };
        let this = Self {
            _lock: lock,
            dirs: dirs(of, root),
            server: Place { dir: of.dir.join(DRILL) },
            env: env.clone(),
        };
        this.clear()?;
        this.dirs[..2].iter().try_for_each(|dir| make(dir))?;
        Ok(this)
    }

    /// Returns the directory of the copy, which is not made yet.
    pub(super) fn copy(&self) -> PathBuf {
        self.dirs[0].join(COPY)
    }

    /// Returns the directory of what is restored, which is not made yet.
    pub(super) fn restored(&self) -> PathBuf {
        self.dirs[0].join(RESTORED)
    }

    /// Makes the directory that the command's user can pass: whoever knows a name in it reaches that.
    pub(super) fn passage(&self) -> Result<&Path, DatabaseError> {
        let dir = &self.dirs[2];
        make(dir)?;
        let opened = std::fs::set_permissions(dir, Permissions::from_mode(PASSAGE_MODE));
        opened.map_err(|source| DatabaseError::File { path: dir.clone(), source })?;
        Ok(dir)
    }

    /// Removes everything. Its server has been told to end.
    pub(super) fn remove(self) -> Result<(), DatabaseError> {
        self.clear()
    }

    fn clear(&self) -> Result<(), DatabaseError> {
        let begun = self.env.stopwatch();
        for dir in &self.dirs {
            while let Err(source) = remove(dir) {
                // A server that is killed may make its last file meanwhile.
                if begun.elapsed() >= PATIENCE {
                    return Err(DatabaseError::File { path: dir.clone(), source });
                }
                self.env.sleep(TRY_EVERY);
            }
        }
        Ok(())
    }
}

impl Drop for DrillPlace {
    fn drop(&mut self) {
        // Best effort; the supervisor or the next drill removes what remains.
        let _ = self.clear();
    }
}

/// Removes what a killed drill left beside a replica; what cannot be removed yet is tried again at the next look.
pub(super) fn tidy(of: &Place, root: &Path) {
    let dirs = dirs(of, root);
    if dirs.iter().all(|dir| !dir.join(MARK).exists()) {
        return;
    }
    // A drill that lives has the lock, and one that begins waits for it.
    if let Ok(Some(_lock)) = try_lock(&of.drill_lock()) {
        for dir in &dirs {
            if let Err(error) = remove(dir) {
                tracing::warn!(path = %dir.display(), %error, "cannot remove what a killed drill left");
            }
        }
    }
}

/// Removes a drill's directory, and nothing that is not a drill's.
fn remove(dir: &Path) -> std::io::Result<()> {
    if !is_own(dir) {
        return Ok(());
    }
    let gone = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if !dir.join(MARK).exists() {
        return match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => gone(other),
        };
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => gone(std::fs::remove_dir_all(entry.path()))?,
            false if entry.file_name() == MARK => {}
            false => gone(std::fs::remove_file(entry.path()))?,
        }
    }
    std::fs::remove_file(dir.join(MARK))?;
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_drill_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let of = Place { dir: root.path().join("place") };
        private::make_dirs(&of.dir).unwrap();
        let env = Env::system();
        let place = DrillPlace::take(&of, root.path(), &env).unwrap();
        std::fs::create_dir_all(place.copy().join("shop")).unwrap();
        std::fs::write(place.server.dir.join("my.cnf"), b"").unwrap();
        // One that lives keeps all of it.
        tidy(&of, root.path());
        assert!(place.copy().join("shop").exists());
        let (drill, server) = (root.path().join(DRILL), place.server.dir.clone());
        // As a kill would: the lock is free, and nothing is removed.
        let DrillPlace { _lock, .. } = &place;
        rustix::fs::flock(_lock, rustix::fs::FlockOperation::Unlock).unwrap();
        tidy(&of, root.path());
        assert!(!drill.exists() && !server.exists());
        drop(place);
        // A directory without the mark is somebody's.
        std::fs::create_dir_all(drill.join("shop")).unwrap();
        tidy(&of, root.path());
        let said = DrillPlace::take(&of, root.path(), &env).err().unwrap().to_string();
        assert!(said.contains("in the way") && drill.join("shop").exists(), "{said}");
    }

    #[test]
    fn the_copy_of_an_adopted_server_lies_outside_its_data() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(around(root.path()), root.path().join("drill"));
        std::fs::write(root.path().join("ibdata1"), b"").unwrap();
        assert!(!around(root.path()).starts_with(root.path()));
    }
}
