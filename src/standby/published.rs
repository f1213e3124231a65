//! Reads published images. One that is about to be published is compared with its snapshot: every name is
//! looked up, and all that the image says of it is compared with the entry. A published one says which
//! objects it needs, whether the log still has its record or not.
//!
//! An image is compared before it has its name, and never changed after that, so nothing races.

use super::depot::Depot;
use super::error::FollowError;
use crate::content::attributes::attributes_of;
use crate::model::entry::{Entry, Group, Kind};
use crate::model::id::{ContentHash, Sequence};
use crate::model::record::SnapshotRecord;
use crate::repository::chunks::ChunkReader;
use crate::repository::manifest::ManifestReader;
use crate::vfs::erofs::image::ImageReport;
use crate::vfs::erofs::image_file::{self, Found, ImageFile};
use crate::vfs::erofs::inode::{Layout, device_number, escaped, kind};
use crate::vfs::error::ImageError;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

/// Checks whether `image` shows exactly what `record` has; the error names the first path where it does not.
/// `report` is the report of writing it.
pub(crate) fn compare(
    image: &File,
    path: &Path,
    manifests: &ManifestReader,
    chunks: &ChunkReader,
    record: &SnapshotRecord,
    report: &ImageReport,
) -> Result<(), FollowError> {
    let mut entries = manifests.entries(&record.manifest);
    let mut firsts: HashMap<Group, u32> = HashMap::new();
    let mut left_out = 0;
    let wrong = |source| FollowError::Image { path: path.to_owned(), source };
    ImageFile::new(image).map_err(wrong)?.walk(wrong, |found| {
        let Some(entry) = entries.next().transpose()? else {
            return Err(wrong(differs(&found, "number of entries")));
        };
        if let Some(what) = difference(&found, &entry) {
            return Err(wrong(differs(&found, what)));
        }
        if let Some(group) = entry.group().filter(|_| entry.kind != Kind::Directory) {
            match firsts.get(&group) {
                // The names of one inode share these properties, which were compared for the first name.
                Some(first) if *first == found.inode_number => return Ok(()),
                Some(_) => return Err(wrong(differs(&found, "inode"))),
                None => drop(firsts.insert(group, found.inode_number)),
            }
        }
        let attributes = attributes_of(chunks, &entry)?;
        let mut shown = found.attributes.iter().peekable();
        for (name, value) in &attributes {
            match shown.next_if(|(n, v)| **n == *escaped(name) && v == value) {
                Some(_) => {}
                None => left_out += 1,
            }
        }
        match shown.next() {
            None => Ok(()),
            Some(_) => Err(wrong(differs(&found, "set of attributes"))),
        }
    })?;
    match entries.next().transpose()? {
        Some(entry) => {
            Err(wrong(ImageError::Differs { path: entry.path.to_string(), what: "number of entries" }))
        }
        None if left_out != report.attributes_left_out => {
            Err(wrong(ImageError::Differs { path: ".".into(), what: "number of attributes" }))
        }
        None => Ok(()),
    }
}

fn differs(found: &Found, what: &'static str) -> ImageError {
    ImageError::Differs { path: image_file::shown(found.path), what }
}

/// Returns a property of a name's inode, other than its attributes, that differs from the entry.
fn difference(found: &Found, entry: &Entry) -> Option<&'static str> {
    let inode = &found.inode;
    let (bits, object, device, target): (u16, _, _, &[u8]) = match &entry.kind {
        Kind::Directory => (kind::DIRECTORY, None, None, b""),
        Kind::File(file) => (kind::FILE, (file.size_bytes > 0).then_some(file.hash), None, b""),
        Kind::Symlink { target } => (kind::SYMLINK, None, None, target),
        Kind::Fifo => (kind::FIFO, None, None, b""),
        Kind::Socket => (kind::SOCKET, None, None, b""),
        // The overlay would take such a device for a deletion.
        Kind::CharDevice { major: 0, minor: 0 } => (kind::FILE, None, None, b""),
        Kind::CharDevice { major, minor } => {
            (kind::CHARACTER_DEVICE, None, Some(device_number(*major, *minor)), b"")
        }
        Kind::BlockDevice { major, minor } => {
            (kind::BLOCK_DEVICE, None, Some(device_number(*major, *minor)), b"")
        }
    };
    let number = match inode.layout {
        Layout::Device { number } => Some(number),
        _ => None,
    };
    let sizes = match entry.kind {
        Kind::Directory => true,
        _ => inode.size_bytes == entry.size_bytes().max(target.len() as u64),
    };
    let wrong = [
        (found.path != entry.path.as_bytes(), "path"),
        (inode.mode != bits | entry.mode & 0o7777, "kind or mode"),
        ((inode.uid, inode.gid) != (entry.uid, entry.gid), "owner"),
        (inode.mtime != entry.mtime, "time"),
        (!sizes, "size"),
        (found.object != object, "content"),
        (found.target != target, "target"),
        (device.is_some() && number != device, "device"),
    ];
    wrong.into_iter().find_map(|(is_wrong, what)| is_wrong.then_some(what))
}

/// Calls `each` with every file of a published snapshot that has an object, and that object's hash. An image
/// that cannot be read is an error.
pub fn objects(
    depot: &Depot,
    sequence: Sequence,
    mut each: impl FnMut(&[u8], ContentHash) -> Result<(), FollowError>,
) -> Result<(), FollowError> {
    let path = depot.image(sequence);
    let wrong = |source| FollowError::Image { path: path.clone(), source };
    let file = File::open(&path).map_err(FollowError::io(&path, "open it"))?;
    let mut image = ImageFile::new(&file).map_err(wrong)?;
    image.objects(wrong, |path, hash| each(path, hash))
}
