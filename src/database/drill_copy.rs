//! The copy of a server's data that a drill works on: by reference where the filesystem can, else byte by byte.
//!
//! What names the primary is left out: nothing can make the copy's server follow anybody, and the primary's password
//! is not copied. Data that lies elsewhere, which the copy's server would share with the replica, is refused.

use super::decide::Room;
use super::error::DatabaseError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How a copy is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The filesystem shares the blocks until one of both changes them.
    Reflink,
    #[default]
    Copy,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflink => "by reference",
            Self::Copy => "byte by byte, since its filesystem does not copy by reference",
        }
    }
}

/// The data as it is to be copied.
pub(super) struct Source {
    pub data: PathBuf,
    /// Path of the binary logs without their numbers, where they are not the replica's own.
    pub log_bin: Option<PathBuf>,
}

/// What a copy has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub files: u64,
    pub bytes: u64,
}

/// Returns whether a file at the top of the data says what is followed, or is made anew at each start.
fn is_left_out(name: &str) -> bool {
    let is_relay = name.starts_with("relay.") || name == "relay-log.info" || name.ends_with(".pid");
    is_relay || (name.ends_with(".info") && name.contains("master")) || name.starts_with("ibtmp")
}

impl Source {
    /// Returns the name of the binary logs in the copy.
    pub(super) fn log_name(&self) -> Option<&str> {
        self.log_bin.as_deref()?.file_name()?.to_str()
    }

    /// Returns what there is to copy.
    ///
    /// # Errors
    /// Some of it lies elsewhere.
    pub(super) fn content(&self) -> Result<Content, DatabaseError> {
        let mut content = Content::default();
        self.each(&mut |path, relative| {
            let meta = std::fs::symlink_metadata(path)?;
            let lies_elsewhere = meta.is_symlink() || relative.extension().is_some_and(|end| end == "isl");
            if lies_elsewhere {
                let text = "it says that data lies elsewhere, which a copy would share with the replica";
                return Err(io::Error::other(text));
            }
            if meta.is_file() {
                content.files += 1;
                content.bytes += meta.len();
            }
            Ok(())
        })?;
        Ok(content)
    }

    /// Copies all of it to a new directory, until `stop` returns true.
    pub(super) fn copy(&self, to: &Path, way: Way, stop: &dyn Fn() -> bool) -> Result<(), DatabaseError> {
        std::fs::create_dir(to).map_err(|source| DatabaseError::File { path: to.to_owned(), source })?;
        let mut is_stopped = false;
        self.each(&mut |path, relative| {
            is_stopped |= stop();
            let target = to.join(relative);
            match std::fs::symlink_metadata(path)?.is_dir() {
                _ if is_stopped => Ok(()),
                true => std::fs::create_dir(target),
                false => copy_file(path, &target, way),
            }
        })?;
        match is_stopped {
            true => Err(DatabaseError::Stopped),
            false => self.name_logs(to),
        }
    }

    /// Calls `found` with each path, and with its path in a copy; directories come before what is in them.
    fn each(&self, found: &mut dyn FnMut(&Path, &Path) -> io::Result<()>) -> Result<(), DatabaseError> {
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            let at = self.data.join(&dir);
            for path in listed(&at)? {
                let name = path.file_name().unwrap_or_default().to_owned();
                let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
                if dir.as_os_str().is_empty() && !is_dir && name.to_str().is_some_and(is_left_out) {
                    continue;
                }
                let relative = dir.join(&name);
                found(&path, &relative).map_err(|source| DatabaseError::File { path, source })?;
                if is_dir {
                    dirs.push(relative);
                }
            }
        }
        let Some((log_dir, base)) = self.log_bin.as_deref().and_then(|path| Some((path.parent()?, path)))
        else {
            return Ok(());
        };
        if log_dir == self.data {
            return Ok(());
        }
        let base = format!("{}.", base.file_name().unwrap_or_default().display());
        for path in listed(log_dir)? {
            let name = path.file_name().unwrap_or_default().to_owned();
            if name.to_string_lossy().starts_with(&base) {
                found(&path, Path::new(&name)).map_err(|source| DatabaseError::File { path, source })?;
            }
        }
        Ok(())
    }

    /// Has the copy's list of binary logs name the copies: a server repairs what it finds there.
    fn name_logs(&self, to: &Path) -> Result<(), DatabaseError> {
        let Some(name) = self.log_name() else { return Ok(()) };
        let path = to.join(format!("{name}.index"));
        let file = |source| DatabaseError::File { path: path.clone(), source };
        let text = std::fs::read_to_string(&path).map_err(file)?;
        let own: String = text
            .lines()
            .filter_map(|line| line.rsplit('/').next())
            .map(|name| format!("./{name}\n"))
            .collect();
        std::fs::write(&path, own).map_err(file)
    }
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, DatabaseError> {
    let read = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    read().map_err(|source| DatabaseError::File { path: dir.to_owned(), source })
}

fn copy_file(from: &Path, to: &Path, way: Way) -> io::Result<()> {
    let (mut read, mut written) = (File::open(from)?, File::create_new(to)?);
    match way {
        Way::Reflink => Ok(rustix::fs::ioctl_ficlone(&written, &read)?),
        Way::Copy => io::copy(&mut read, &mut written).map(drop),
    }
}

/// Tries by which way a file of the data is copied to a directory.
pub(super) fn way(data: &Path, to: &Path) -> Result<Way, DatabaseError> {
    let (from, probe) = (data.join("ibdata1"), to.join("probe"));
    let tried = copy_file(&from, &probe, Way::Reflink);
    let _ = std::fs::remove_file(&probe);
    match tried {
        Ok(()) => Ok(Way::Reflink),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DatabaseError::File { path: from, source: error })
        }
        Err(_) => Ok(Way::Copy),
    }
}

/// Refuses a copy that would leave the replica without the room that it goes on with.
pub(super) fn check_room(to: &Path, bytes: u64) -> Result<(), DatabaseError> {
    let disk = rustix::fs::statvfs(to)
        .map_err(|errno| DatabaseError::File { path: to.to_owned(), source: errno.into() })?;
    let blocks = bytes.div_ceil(disk.f_frsize.max(1));
    match Room::of(disk.f_bavail.saturating_sub(blocks), disk.f_blocks) {
        Room::Enough => Ok(()),
        Room::Low | Room::Scarce => Err(DatabaseError::Settings(format!(
            "{}: a copy of {} MiB leaves the replica too little room: {} MiB are free, and it stops at a reserve of 5 %; make room, or put the replica on a filesystem that copies by reference (XFS, btrfs)",
            to.display(),
            bytes >> 20,
            (disk.f_bavail * disk.f_frsize) >> 20,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = walkdir::WalkDir::new(dir)
            .min_depth(1)
            .into_iter()
            .map(|entry| entry.unwrap().path().strip_prefix(dir).unwrap().display().to_string())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_copy_names_no_primary_and_its_own_binary_logs() {
        let dir = tempfile::tempdir().unwrap();
        let (data, logs) = (dir.path().join("data"), dir.path().join("logs"));
        std::fs::create_dir_all(data.join("shop")).unwrap();
        std::fs::create_dir(&logs).unwrap();
        for name in ["ibdata1", "shop/master.info", "master.info", "relay.000001", "relay.index", "x.pid"] {
            std::fs::write(data.join(name), name).unwrap();
        }
        std::fs::write(logs.join("bin.000001"), "x").unwrap();
        std::fs::write(logs.join("other"), "x").unwrap();
        std::fs::write(logs.join("bin.index"), format!("{}/bin.000001\n", logs.display())).unwrap();
        let source = Source { data: data.clone(), log_bin: Some(logs.join("bin")) };
        assert_eq!(source.content().unwrap().files, 4);
        let to = dir.path().join("copy");
        source.copy(&to, Way::Copy, &|| false).unwrap();
        assert_eq!(files(&to), ["bin.000001", "bin.index", "ibdata1", "shop", "shop/master.info"]);
        assert_eq!(std::fs::read_to_string(to.join("bin.index")).unwrap(), "./bin.000001\n");
        // What lies elsewhere would be written to by two servers.
        std::os::unix::fs::symlink("/nowhere", data.join("shop/t.ibd")).unwrap();
        assert!(source.content().unwrap_err().to_string().contains("lies elsewhere"));
    }

    #[test]
    fn a_copy_that_leaves_no_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_room(dir.path(), 1).unwrap();
        assert!(check_room(dir.path(), 1 << 60).unwrap_err().to_string().contains("too little room"));
    }
}
