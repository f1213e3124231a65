//! A directory on the walk: its handle, or the way back to it.
//!
//! A tree may be deeper than the number of handles that this process may hold. A node whose handle was given
//! back is opened again, name by name, from the nearest open ancestor, and must be the same inode; if another
//! directory has its place by then, the tree is changing and the call fails.

use super::stat::{Identity, Stat};
use super::tree::Directory;
use crate::model::tree_path::TreePath;
use crate::support::lock::lock;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

/// A directory that was opened.
pub struct Node {
    pub path: TreePath,
    identity: Identity,
    /// The parent and the name in it; none for the root, whose handle is never given back.
    above: Option<(Arc<Node>, CString)>,
    handle: Mutex<Option<Arc<dyn Directory>>>,
}

impl Node {
    pub fn root(handle: Arc<dyn Directory>, stat: &Stat) -> Arc<Self> {
        let handle = Mutex::new(Some(handle));
        Arc::new(Self { path: TreePath::root(), identity: stat.identity(), above: None, handle })
    }

    /// Makes the node of directory `name` of `above`, opened as `handle`.
    pub fn below(
        above: &Arc<Node>,
        name: CString,
        path: TreePath,
        handle: Arc<dyn Directory>,
        stat: &Stat,
    ) -> Arc<Self> {
        let (above, handle) = (Some((above.clone(), name)), Mutex::new(Some(handle)));
        Arc::new(Self { path, identity: stat.identity(), above, handle })
    }

    /// Makes a node at the same place with the directory of `handle`.
    pub(crate) fn opened_as(&self, handle: Arc<dyn Directory>, stat: &Stat) -> Arc<Self> {
        let (above, handle) = (self.above.clone(), Mutex::new(Some(handle)));
        Arc::new(Self { path: self.path.clone(), identity: stat.identity(), above, handle })
    }

    /// Returns an open handle, and opens the directory again if necessary.
    ///
    /// # Errors
    /// `STALE` when its name is another directory's by now; else the error of opening it.
    pub(crate) fn handle(&self) -> Result<Arc<dyn Directory>, Errno> {
        if let Some(handle) = self.open_handle() {
            return Ok(handle);
        }
        let mut way = vec![self];
        let mut handle = loop {
            let Some((above, _)) = way.last().and_then(|node| node.above.as_ref()) else {
                return Err(Errno::STALE);
            };
            match above.open_handle() {
                Some(handle) => break handle,
                None => way.push(above),
            }
        };
        for node in way.into_iter().rev() {
            let Some((_, name)) = &node.above else { return Err(Errno::STALE) };
            handle = handle.open_directory(name)?;
            if handle.stat()?.identity() != node.identity {
                return Err(Errno::STALE);
            }
        }
        // The handle is not kept here, since handles are scarce: the caller drops it after use.
        Ok(handle)
    }

    fn open_handle(&self) -> Option<Arc<dyn Directory>> {
        lock(&self.handle).clone()
    }

    /// Gives the handle back, unless it is the root's.
    pub fn close(&self) {
        if self.above.is_some() {
            *lock(&self.handle) = None;
        }
    }

    /// Returns whether its name in the parent still leads to it. The parent's own place is not checked here.
    pub(crate) fn is_in_place(&self) -> Result<bool, Errno> {
        let Some((above, name)) = &self.above else { return Ok(true) };
        Ok(above.handle()?.stat_at(name)?.identity() == self.identity)
    }
}

/// Drops the ancestors one by one, without recursion: a tree may be deeper than a stack.
impl Drop for Node {
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some((node, _)) = above {
            above = Arc::into_inner(node).and_then(|mut node| node.above.take());
        }
    }
}
