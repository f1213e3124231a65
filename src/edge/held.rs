//! The turn of one process of this machine at an edge's file: a lock on a file beside it.
//!
//! Without it a process of an older epoch, which has looked and found nothing newer, could write over what
//! another one wrote in between.

use super::context::Deadline;
use super::error::EdgeError;
use crate::support::env::Env;
use crate::support::trusted;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A turn; it ends with this value.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

impl Held {
    /// Waits for the turn at the file `path`, within the deadline.
    pub(crate) fn at(env: &Env, edge: &str, path: &Path, deadline: &Deadline) -> Result<Self, EdgeError> {
        let (dir, lock) = (dir_of(path), path.with_added_extension("lock"));
        let open = || -> io::Result<File> {
            trusted::look_at_dir(dir)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, &lock, flags, Mode::from_raw_mode(0o600))?.into())
        };
        let file = open().map_err(|source| EdgeError::file(edge, &lock, source))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    deadline.left(edge, LOOK_EVERY).map_err(|_| {
                        EdgeError::silent(edge, format!("another process holds {}", lock.display()))
                    })?;
                    env.sleep(LOOK_EVERY);
                }
                Err(errno) => return Err(EdgeError::file(edge, &lock, errno.into())),
            }
        }
    }
}

/// Returns the directory of an edge's file.
pub(crate) fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
