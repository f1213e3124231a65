//! A file beside the guard's socket that says that a fence was begun and not yet dealt with.
//!
//! A guard that ends takes its state along. The next one finds the file, and fences once more before its gate
//! can open: what the first one stopped, or was about to stop, would otherwise be taken for running. Nothing
//! waits for the file, since its disk may hang: a fence comes first, and is then only forgotten as before.
//!
//! What can race: a fence and a feed that deals with it. Whoever writes looks last at what is wanted.

use super::settings::{STACK_BYTES, Setup};
use crate::support::files;
use crate::support::lock::lock;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The file of one guard. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mark {
    path: Arc<PathBuf>,
    /// The number of the fence that the file is to name; none for no file.
    wanted: Arc<Mutex<Option<u64>>>,
    writing: Arc<Mutex<()>>,
}

impl Mark {
    /// Returns the mark of a guard, with the number of the fence that an earlier one did not deal with.
    pub fn find(setup: &Setup) -> (Self, Option<u64>) {
        let mut name = setup.socket.clone().into_os_string();
        name.push(".fenced");
        let path = PathBuf::from(name);
        let found = number(&path);
        (Self { path: Arc::new(path), wanted: Arc::new(Mutex::new(found)), writing: Arc::default() }, found)
    }

    /// Has the file name a fence, or go away.
    pub fn set(&self, wanted: Option<u64>) {
        if std::mem::replace(&mut *lock(&self.wanted), wanted) == wanted {
            return;
        }
        let mark = self.clone();
        let write = move || {
            let _writing = lock(&mark.writing);
            let wanted = *lock(&mark.wanted);
            let _ = match wanted {
                Some(number) => files::replace(&mark.path, number.to_string().as_bytes()),
                None => std::fs::remove_file(&*mark.path),
            };
        };
        let _ = std::thread::Builder::new().name("mark".into()).stack_size(STACK_BYTES).spawn(write);
    }
}

/// Returns the number in the file; what is no number is a fence all the same.
fn number(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().parse().unwrap_or(1))
}
