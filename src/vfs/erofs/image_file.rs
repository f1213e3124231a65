//! Reads an image back: every name in it with its inode, in the order of a manifest.
//!
//! An image is so compared with its snapshot before it is published, and lists the objects that it needs when
//! no record does any more.
//!
//! Nothing in the file is trusted. An offset, a length or a number that leads out of the file, into a circle
//! or to a value that `image` never writes is an error with its location. Memory: the names of the open
//! directories, and four windows of the file. A published image is never changed, and an image under
//! construction has one owner, so nothing races.

use super::dirent::{self, OwnedDirent};
use super::image::object_of;
use super::inode::{BLOCK_BYTES, INODE_BYTES, Inode, Layout, SLOT_BYTES, decode_attributes, kind, root_slot};
use crate::model::entry::Attributes;
use crate::model::id::ContentHash;
use crate::model::tree_path::TreePath;
use crate::vfs::error::ImageError;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

const WINDOW_BYTES: u64 = 64 << 10;
const WINDOWS: usize = 4;

/// A name of the image, with its inode.
pub(crate) struct Found<'a> {
    /// Path from the root, as a [`TreePath`] has it.
    pub path: &'a [u8],
    /// Number of the inode; all its names have the same number.
    pub inode_number: u32,
    pub inode: Inode,
    /// Attributes, without those of the redirection.
    pub attributes: Attributes,
    /// The object that holds the file's bytes; none for an entry without bytes.
    pub object: Option<ContentHash>,
    /// Target of a symlink; empty for others.
    pub target: Vec<u8>,
}

/// A directory that is being walked.
struct Open {
    number: u32,
    path_bytes: usize,
    names: std::vec::IntoIter<OwnedDirent>,
}

/// State of a walk.
struct Walk {
    path: Vec<u8>,
    open: Vec<Open>,
    entered: HashSet<u32>,
}

/// A reader of an image's file.
pub(crate) struct ImageFile<'a> {
    file: &'a File,
    file_bytes: u64,
    /// Parts of the file with their offsets, the most recently used first.
    windows: Vec<(u64, Vec<u8>)>,
}

impl<'a> ImageFile<'a> {
    pub fn new(file: &'a File) -> Result<Self, ImageError> {
        Ok(Self { file, file_bytes: file.metadata()?.len(), windows: Vec::new() })
    }

    /// Calls `each` with every name: a directory before its content, siblings in the order of their bytes.
    ///
    /// `wrong` converts errors to the caller's.
    pub(crate) fn walk<E>(
        &mut self,
        wrong: impl Fn(ImageError) -> E,
        mut each: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut walk = Walk { path: Vec::new(), open: Vec::new(), entered: HashSet::new() };
        loop {
            match self.next(&mut walk).map_err(&wrong)? {
                Some(found) => each(found)?,
                None => return Ok(()),
            }
        }
    }

    fn next<'w>(&mut self, walk: &'w mut Walk) -> Result<Option<Found<'w>>, ImageError> {
        let Walk { path, open, entered } = walk;
        if entered.is_empty() {
            let root = root_slot(self.bytes(0, BLOCK_BYTES)?).ok_or_else(|| broken("superblock", 0))?;
            entered.insert(root);
            open.push(Open { number: root, path_bytes: 0, names: self.names(root)? });
            return self.found(path, root, kind::DIRECTORY).map(Some);
        }
        loop {
            let above = open.len().checked_sub(2).map(|at| open[at].number);
            let Some(directory) = open.last_mut() else { return Ok(None) };
            let (here, path_bytes) = (directory.number, directory.path_bytes);
            path.truncate(path_bytes);
            let Some(name) = directory.names.next() else {
                open.pop();
                continue;
            };
            let number = u32::try_from(name.node).map_err(|_| broken("inode number", name.node))?;
            match &name.name[..] {
                b"." if number == here => continue,
                b".." if number == above.unwrap_or(here) => continue,
                b"." | b".." | b"" => return Err(broken("directory links", u64::from(here))),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&name.name);
            let wanted = kind_of(name.kind).ok_or_else(|| broken("kind in a directory", u64::from(here)))?;
            if wanted == kind::DIRECTORY {
                if !entered.insert(number) {
                    return Err(broken("second name of a directory", u64::from(number)));
                }
                open.push(Open { number, path_bytes: path.len(), names: self.names(number)? });
            }
            return self.found(path, number, wanted).map(Some);
        }
    }

    /// Calls `each` with the path and the object of every file that has one.
    pub fn objects<E>(
        &mut self,
        wrong: impl Fn(ImageError) -> E,
        mut each: impl FnMut(&[u8], ContentHash) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk(wrong, |found| match found.object {
            Some(hash) => each(found.path, hash),
            None => Ok(()),
        })
    }

    fn found<'w>(&mut self, path: &'w [u8], number: u32, wanted: u16) -> Result<Found<'w>, ImageError> {
        let inode = self.inode(number)?;
        let here = u64::from(number);
        if inode.mode & kind::MASK != wanted {
            return Err(broken("kind: it differs from the directory's", here));
        }
        let attributes = self.bytes(here * SLOT_BYTES + INODE_BYTES, inode.attributes_bytes)?;
        let (attributes, redirect) =
            decode_attributes(attributes).ok_or_else(|| broken("attributes", here))?;
        let object = match (redirect, inode.layout) {
            (Some(redirect), Layout::Hole) => {
                Some(object_of(redirect).ok_or_else(|| broken("object name", here))?)
            }
            (None, Layout::Hole) | (Some(_), _) => return Err(broken("a file without its object", here)),
            (None, _) if wanted == kind::FILE && inode.size_bytes > 0 => {
                return Err(broken("a file without its object", here));
            }
            (None, _) => None,
        };
        let target = if wanted == kind::SYMLINK { self.data(number, &inode)? } else { Vec::new() };
        Ok(Found { path, inode_number: number, inode, attributes, object, target })
    }

    fn inode(&mut self, number: u32) -> Result<Inode, ImageError> {
        let bytes = self.bytes(u64::from(number) * SLOT_BYTES, INODE_BYTES as usize)?;
        Inode::decode(bytes, number).ok_or_else(|| broken("inode", u64::from(number)))
    }

    fn names(&mut self, number: u32) -> Result<std::vec::IntoIter<OwnedDirent>, ImageError> {
        let inode = self.inode(number)?;
        let bytes = self.data(number, &inode)?;
        let names = dirent::decode(&bytes).ok_or_else(|| broken("directory", u64::from(number)))?;
        Ok(names.into_iter())
    }

    /// Returns the bytes of a directory or a symlink.
    fn data(&mut self, number: u32, inode: &Inode) -> Result<Vec<u8>, ImageError> {
        let block = BLOCK_BYTES as u64;
        let (first_block, inline_bytes) = match inode.layout {
            Layout::Plain { first_block } => (first_block, 0),
            Layout::Inline { first_block } => (first_block, inode.size_bytes % block),
            Layout::Hole | Layout::Device { .. } => {
                return Err(broken("data layout", u64::from(number)));
            }
        };
        let length = |bytes: u64| usize::try_from(bytes).map_err(|_| broken("length", u64::from(number)));
        let mut data =
            self.bytes(u64::from(first_block) * block, length(inode.size_bytes - inline_bytes)?)?.to_vec();
        let behind = u64::from(number) * SLOT_BYTES + INODE_BYTES + inode.attributes_bytes as u64;
        data.extend(self.bytes(behind, length(inline_bytes)?)?);
        Ok(data)
    }

    /// Returns bytes of the file; a range beyond its end is an error.
    fn bytes(&mut self, at: u64, length: usize) -> Result<&[u8], ImageError> {
        if length == 0 {
            return Ok(&[]);
        }
        let end = at + length as u64;
        if end > self.file_bytes {
            return Err(broken("range: it ends after the file", at));
        }
        let holds = |(begin, bytes): &(u64, Vec<u8>)| *begin <= at && end <= begin + bytes.len() as u64;
        match self.windows.iter().position(holds) {
            Some(window) => self.windows[..=window].rotate_right(1),
            None => {
                let begin = at - at % BLOCK_BYTES as u64;
                let wanted = (end - begin).max(WINDOW_BYTES).min(self.file_bytes - begin);
                let mut bytes = if self.windows.len() < WINDOWS { None } else { self.windows.pop() }
                    .map_or_else(Vec::new, |(_, bytes)| bytes);
                bytes.resize(wanted as usize, 0);
                self.file.read_exact_at(&mut bytes, begin)?;
                self.windows.insert(0, (begin, bytes));
            }
        }
        let (begin, bytes) = &self.windows[0];
        let from = (at - begin) as usize;
        Ok(&bytes[from..from + length])
    }
}

fn broken(what: &'static str, at: u64) -> ImageError {
    ImageError::Broken { what, at }
}

/// Returns the mode's bits for a kind as listed in a directory.
fn kind_of(listed: u8) -> Option<u16> {
    Some(match listed {
        1 => kind::FILE,
        2 => kind::DIRECTORY,
        3 => kind::CHARACTER_DEVICE,
        4 => kind::BLOCK_DEVICE,
        5 => kind::FIFO,
        6 => kind::SOCKET,
        7 => kind::SYMLINK,
        _ => return None,
    })
}

/// Formats a path of the walk for a report.
pub(crate) fn shown(path: &[u8]) -> String {
    TreePath::parse(path)
        .map_or_else(|_| String::from_utf8_lossy(path).escape_debug().to_string(), |path| path.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::*;
    use crate::model::entry::{Content, Entry, Fingerprint, Kind, Timestamp, Xattrs};
    use proptest::prelude::*;
    use std::io::Write;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: TreePath::parse(path.as_bytes()).unwrap(),
            kind,
            mode: 0o640,
            uid: 7,
            gid: 8,
            mtime: Timestamp { seconds: -5, nanos: 9 },
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint::default(),
        }
    }

    fn file(size_bytes: u64) -> Kind {
        let hash = ContentHash::of(&size_bytes.to_le_bytes());
        Kind::File(crate::model::entry::File { size_bytes, hash, content: Content::Empty, torn: false })
    }

    fn written(entries: &[(Entry, Attributes)]) -> (File, u64) {
        let mut image = Image::default();
        for (entry, attributes) in entries {
            image.push(entry, attributes).unwrap();
        }
        let mut bytes = Vec::new();
        let report = image.write([1; 16], &mut bytes).unwrap();
        let mut out = tempfile::tempfile().unwrap();
        out.write_all(&bytes).unwrap();
        (out, report.attributes_left_out)
    }

    #[test]
    fn attributes_up_to_the_last_byte_leave_a_file_its_object() {
        // Four attributes of one file, whose total size is a few bytes above or below what an inode can hold.
        for last_bytes in 65_380..65_535 {
            let attributes: Attributes = (0..4)
                .map(|n| (format!("user.{n}").into_bytes(), vec![n; if n < 3 { 65_528 } else { last_bytes }]))
                .collect();
            let entries = [
                (entry("", Kind::Directory), Vec::new()),
                (entry("big", file(5)), attributes.clone()),
                (entry("empty", file(0)), attributes.clone()),
            ];
            let (image, left_out) = written(&entries);
            let mut found = Vec::new();
            let walked = ImageFile::new(&image).unwrap().walk(
                |error| error,
                |name| {
                    found.push((name.object, name.attributes.len() as u64));
                    Ok(())
                },
            );
            walked.unwrap();
            assert_eq!(found[1].0, Some(ContentHash::of(&5u64.to_le_bytes())), "{last_bytes}");
            assert_eq!(found[2].0, None);
            assert_eq!(found[1].1 + found[2].1 + left_out, 8, "{last_bytes}: held, or counted");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_damaged_is_an_error_or_read_and_never_a_panic(
            at in 0usize..8192, with in any::<u8>(), cut in 0u64..8192,
        ) {
            let entries = [
                (entry("", Kind::Directory), Vec::new()),
                (entry("d", Kind::Directory), vec![(b"user.a".to_vec(), b"1".to_vec())]),
                (entry("d/e", Kind::Directory), Vec::new()),
                (entry("d/e/f", file(12)), vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())]),
                (entry("d/s", Kind::Symlink { target: b"to".to_vec() }), Vec::new()),
                (entry("dev", Kind::CharDevice { major: 1, minor: 3 }), Vec::new()),
            ];
            let (image, _) = written(&entries);
            let mut names = 0;
            ImageFile::new(&image).unwrap().walk(|error| error, |_| { names += 1; Ok(()) }).unwrap();
            prop_assert_eq!(names, entries.len());
            let length = image.metadata().unwrap().len();
            image.write_all_at(&[with], at as u64 % length).unwrap();
            let _ = ImageFile::new(&image).unwrap().walk(|error| error, |_| Ok(()));
            image.set_len(cut % length).unwrap();
            let _ = ImageFile::new(&image).unwrap().walk(|error| error, |_| Ok(()));
        }
    }
}
