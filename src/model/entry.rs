//! One entry of a manifest: everything that a restore needs, and what the next scan needs to skip a read.

use super::id::{ChunkId, ContentHash, number_of};
use super::tree_path::TreePath;
use std::borrow::Cow;

/// Maximum number of raw bytes in a chunk.
pub(crate) const CHUNK_MAX_BYTES: usize = 1 << 20;

/// A moment: seconds since 1970 (may be negative) and nanoseconds in `0..1_000_000_000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

/// Part of a file's content. `blocks` is the chunk that holds the block entries of `chunk`, if it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A range with no blocks allocated in the source; it reads as zeros.
    Hole { length_bytes: u64 },
    /// The `length_bytes` of `chunk` that begin at `offset_bytes`.
    Chunk { chunk: ChunkId, blocks: Option<ChunkId>, offset_bytes: u32, length_bytes: u32 },
}

impl Extent {
    /// Returns the first `at` bytes and the rest; `at` lies inside.
    pub(crate) fn split_at(self, at: u64) -> (Extent, Extent) {
        match self {
            Extent::Hole { length_bytes } => {
                (Extent::Hole { length_bytes: at }, Extent::Hole { length_bytes: length_bytes - at })
            }
            Extent::Chunk { chunk, blocks, offset_bytes, length_bytes } => {
                let at = at as u32;
                let (tail_at, tail_bytes) = (offset_bytes + at, length_bytes - at);
                (
                    Extent::Chunk { chunk, blocks, offset_bytes, length_bytes: at },
                    Extent::Chunk { chunk, blocks, offset_bytes: tail_at, length_bytes: tail_bytes },
                )
            }
        }
    }

    pub(crate) fn length_bytes(&self) -> u64 {
        match self {
            Extent::Hole { length_bytes } => *length_bytes,
            Extent::Chunk { length_bytes, .. } => u64::from(*length_bytes),
        }
    }

    /// Returns the chunks that the extent refers to: the one with its bytes, and the one with their block
    /// entries.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        let (chunk, blocks) = match self {
            Extent::Hole { .. } => (None, None),
            Extent::Chunk { chunk, blocks, .. } => (Some(*chunk), *blocks),
        };
        chunk.into_iter().chain(blocks)
    }
}

/// Location of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// No bytes.
    Empty,
    /// One chunk, whose id is the file's hash, and its block entries.
    Whole { blocks: Option<ChunkId> },
    /// A few extents, stored in the entry itself.
    Extents(Vec<Extent>),
    /// Chunks that each hold a part of the list of extents, in order.
    Lists(Vec<ChunkId>),
}

/// A regular file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub size_bytes: u64,
    pub hash: ContentHash,
    pub content: Content,
    /// The file changed during every attempt to read it: the bytes come from one reading, not from one
    /// moment.
    pub torn: bool,
}

/// Type of an entry, with the data that only this type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(File),
    Symlink { target: Vec<u8> },
    Fifo,
    Socket,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

impl Kind {
    /// Returns the word for the type in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Directory => "directory",
            Kind::File(_) => "file",
            Kind::Symlink { .. } => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice { .. } => "character device",
            Kind::BlockDevice { .. } => "block device",
        }
    }
}

/// Extended attributes: name and value, sorted by name.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry's extended attributes, including ACLs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Xattrs {
    #[default]
    None,
    Inline(Attributes),
    /// A list too large for a page: this chunk holds it, encoded.
    Chunk(ChunkId),
}

/// Values that the next scan compares, besides size and mtime, to skip a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fingerprint {
    pub inode: u64,
    pub ctime: Timestamp,
}

/// Distance between a file's ctime and the one kept for an entry whose attributes could not be read.
///
/// No real clock reaches that far, so the kept ctime never equals a real one.
const ATTRIBUTES_UNREAD_SECONDS: i64 = 1 << 60;

impl Fingerprint {
    /// Returns the fingerprint for an entry whose attributes could not be read: the next scan tries only them
    /// again.
    pub(crate) fn attributes_unread(self) -> Self {
        let seconds = self.ctime.seconds.wrapping_sub(ATTRIBUTES_UNREAD_SECONDS);
        Self { ctime: Timestamp { seconds, ..self.ctime }, ..self }
    }
}

/// A group of names of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    number: u64,
    agreement: u64,
}

/// Location of a file's extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extents<'a> {
    /// The extents themselves, from the entry.
    Known(Cow<'a, [Extent]>),
    /// Chunks that hold the extents, one list after the other.
    Listed(&'a [ChunkId]),
}

impl File {
    /// Returns the extents of the content, or the lists that hold them.
    pub(crate) fn extents(&self) -> Extents<'_> {
        match &self.content {
            Content::Empty => Extents::Known(Cow::Borrowed(&[])),
            Content::Whole { blocks } => {
                let (chunk, length_bytes) = (ChunkId(self.hash.0), self.size_bytes as u32);
                let extent = Extent::Chunk { chunk, blocks: *blocks, offset_bytes: 0, length_bytes };
                Extents::Known(Cow::Owned(vec![extent]))
            }
            Content::Extents(extents) => Extents::Known(Cow::Borrowed(extents)),
            Content::Lists(lists) => Extents::Listed(lists),
        }
    }
}

/// One path of a snapshot, with its metadata and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: TreePath,
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (`0o7777`).
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Xattrs,
    /// Number of the hardlink group: entries of one manifest with the same number are names of one inode, if
    /// they agree (see [`Entry::group`]).
    pub hardlink: Option<u64>,
    pub fingerprint: Fingerprint,
}

impl Entry {
    pub fn file(&self) -> Option<&File> {
        match &self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }

    /// Returns the chunks that the entry itself refers to. Lists of extents are left out: they refer to more
    /// chunks.
    pub(crate) fn chunks(&self) -> Vec<ChunkId> {
        let mut chunks = Vec::new();
        if let Xattrs::Chunk(id) = self.xattrs {
            chunks.push(id);
        }
        if let Some(file) = self.file() {
            match &file.content {
                Content::Empty | Content::Lists(_) => {}
                Content::Whole { blocks } => {
                    chunks.push(ChunkId(file.hash.0));
                    chunks.extend(blocks);
                }
                Content::Extents(extents) => chunks.extend(extents.iter().flat_map(Extent::chunks)),
            }
        }
        chunks
    }

    /// Returns the logical size; 0 for an entry that is not a file.
    pub fn size_bytes(&self) -> u64 {
        self.file().map_or(0, |f| f.size_bytes)
    }

    /// Returns whether a user sees no difference: all is compared except the fingerprint and a directory's
    /// mtime.
    pub fn same_to_a_user(&self, other: &Entry) -> bool {
        let kinds = match (&self.kind, &other.kind) {
            (Kind::File(a), Kind::File(b)) => a.hash == b.hash && a.size_bytes == b.size_bytes,
            (a, b) => a == b,
        };
        kinds && self.same_metadata(other)
    }

    /// Returns the hardlink group of this entry: the names with its number that agree in content and
    /// metadata.
    ///
    /// Where one number was given to different files by mistake, they become separate groups.
    pub(crate) fn group(&self) -> Option<Group> {
        Some(Group { number: self.hardlink?, agreement: self.agreement() })
    }

    /// Returns a hash of all values that the names of one inode share.
    pub(crate) fn agreement(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        bytes(self.kind.name().as_bytes());
        match &self.kind {
            Kind::File(file) => bytes(&file.hash.0),
            Kind::Symlink { target } => bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                bytes(&[major.to_le_bytes(), minor.to_le_bytes()].concat());
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        bytes(&self.size_bytes().to_le_bytes());
        for number in [u32::from(self.mode), self.uid, self.gid, self.mtime.nanos] {
            bytes(&number.to_le_bytes());
        }
        bytes(&self.mtime.seconds.to_le_bytes());
        match &self.xattrs {
            Xattrs::None => {}
            Xattrs::Inline(attributes) => attributes.iter().for_each(|(name, value)| {
                bytes(name);
                bytes(value);
            }),
            Xattrs::Chunk(id) => bytes(&id.0),
        }
        number_of(&hasher)
    }

    /// Returns whether mode, owners, mtime, attributes and being a hardlink are equal.
    pub(crate) fn same_metadata(&self, other: &Entry) -> bool {
        (self.mode, self.uid, self.gid, self.mtime) == (other.mode, other.uid, other.gid, other.mtime)
            && self.xattrs == other.xattrs
            && self.hardlink.is_some() == other.hardlink.is_some()
    }
}
