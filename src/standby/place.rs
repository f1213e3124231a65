//! Where a restored tree is built, and how it gets its final name.
//!
//! A destination that does not exist, or is empty, is built beside and renamed when it is complete and on the
//! disk. Of two restores to one place, the rename of one finds the other's tree and fails.

use super::error::RestoreError;
use super::restore::RestoreRequest;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Where the tree is built.
pub(super) struct Place {
    /// The directory that is written into.
    pub(super) work: PathBuf,
    /// Renamed to this at the end.
    pub(super) publish: Option<PathBuf>,
    pub(super) fresh: bool,
    pub(super) resumed: bool,
}

impl Place {
    pub(super) fn choose(request: &RestoreRequest, tag: &str) -> Result<Self, RestoreError> {
        let destination = &request.destination;
        let shown = destination.display().to_string();
        let name = destination.file_name().ok_or_else(|| RestoreError::NotADirectory(destination.clone()))?;
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&parent).map_err(|e| io(&shown, "create its parent", &e))?;
        let parent_device = device(&parent).map_err(|e| io(&shown, "look at its parent", &e))?;
        match std::fs::symlink_metadata(destination) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&shown, "look at it", &e)),
            Ok(found) if !found.is_dir() => return Err(RestoreError::NotADirectory(destination.clone())),
            Ok(_) => {
                let mut listed = std::fs::read_dir(destination).map_err(|e| io(&shown, "list it", &e))?;
                let empty = listed.next().is_none();
                if !empty && !request.overwrite {
                    return Err(RestoreError::NotEmpty(destination.clone()));
                }
                // A mount point cannot be renamed over.
                let mounted = device(destination).map_err(|e| io(&shown, "look at it", &e))? != parent_device;
                if !empty || mounted {
                    return Ok(Self {
                        work: destination.clone(),
                        publish: None,
                        fresh: empty,
                        resumed: false,
                    });
                }
            }
        }
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".understudy-{tag}"));
        let work = parent.join(beside);
        let resumed = match std::fs::create_dir(&work) {
            Ok(()) => false,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => true,
            Err(e) => return Err(io(&work.display().to_string(), "create it", &e)),
        };
        Ok(Self { work, publish: Some(destination.clone()), fresh: !resumed, resumed })
    }

    /// Written to the disk first: a tree under its final name is complete, also after a power cut.
    pub(super) fn publish(&self) -> Result<(), RestoreError> {
        let shown = self.work.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &self.work, flags, Mode::empty());
        handle.and_then(rustix::fs::syncfs).map_err(RestoreError::write(&shown, "write it to the disk"))?;
        match &self.publish {
            Some(destination) => std::fs::rename(&self.work, destination)
                .map_err(|e| io(&destination.display().to_string(), "rename the finished tree to it", &e)),
            None => Ok(()),
        }
    }
}

fn device(path: &Path) -> std::io::Result<u64> {
    std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::dev(&m))
}

fn io(path: &str, action: &'static str, error: &std::io::Error) -> RestoreError {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    RestoreError::Write { path: path.to_owned(), action, errno }
}
