//! Pages of a manifest. Leaves hold entries; nodes hold the first path, id and counts of the pages below, so
//! that two manifests share every page, at every height, that did not change.
//!
//! A page ends where the hash of a path says so (see [`ends_page`]), which does not depend on earlier
//! entries: an added or removed entry changes its own page and the pages above it, and no other.

use super::wire::{FormatError, Reader, Writer};
use super::{attrs, extent_list};
use crate::model::entry::{CHUNK_MAX_BYTES, Content, Entry, File, Fingerprint, Kind, Timestamp, Xattrs};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::reread::fnv1a;
use crate::model::tree_path::{TreePath, shared_bytes};

const LEAF: u8 = b'L';
const NODE: u8 = b'N';
/// Maximum height of a manifest's tree; a higher one is refused. It bounds recursion.
pub(crate) const HEIGHT_MAX: u8 = 12;
/// Size below which no path's hash ends a page.
const PAGE_MIN_BYTES: usize = 4 << 10;
/// Size at which every page ends.
const PAGE_MAX_BYTES: usize = 64 << 10;
/// Average number of paths between two that end a page: with about 65 bytes an entry, pages have about 16
/// KiB.
const PATHS_PER_PAGE: u64 = 192;

/// Maximum size of a path; a longer one is refused.
const PATH_MAX_BYTES: usize = 64 << 10;
/// Maximum total size of the paths of one page, written out: paths share prefixes, so a small page could hold
/// more.
const PATHS_MAX_BYTES: usize = 32 << 20;
/// Maximum device numbers, as in the kernel.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

const FLAG_XATTRS: u8 = 1;
const FLAG_XATTRS_CHUNK: u8 = 2;
const FLAG_HARDLINK: u8 = 4;
const FLAG_TORN: u8 = 8;
const KNOWN_FLAGS: u8 = 15;

/// A page below a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub first: TreePath,
    pub page: ChunkId,
    pub entries: u64,
    pub size_bytes: u64,
}

/// A decoded page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    Leaf(Vec<Entry>),
    Node(Vec<Child>),
}

/// Returns whether a page that holds `page_bytes` ends after the item with this path.
pub fn ends_page(path: &TreePath, page_bytes: usize) -> bool {
    page_bytes >= PAGE_MAX_BYTES
        || (page_bytes >= PAGE_MIN_BYTES && fnv1a(path.as_bytes()).is_multiple_of(PATHS_PER_PAGE))
}

/// Writes leaves: entries in ascending order of path.
pub struct LeafWriter {
    out: Writer,
    last: TreePath,
    paths_bytes: usize,
}

impl Default for LeafWriter {
    fn default() -> Self {
        let mut out = Writer::default();
        out.u8(LEAF);
        Self { out, last: TreePath::root(), paths_bytes: 0 }
    }
}

impl LeafWriter {
    pub fn len_bytes(&self) -> usize {
        self.out.0.len()
    }

    /// Returns whether its paths, written out, leave a reader no room for another one.
    pub(crate) fn is_full(&self) -> bool {
        self.paths_bytes > PATHS_MAX_BYTES - PATH_MAX_BYTES
    }

    /// Returns the page's bytes, and begins the next page.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(self).out.0
    }

    pub fn push(&mut self, entry: &Entry) {
        let out = &mut self.out;
        let path = entry.path.as_bytes();
        let last = self.last.as_bytes();
        let shared = shared_bytes(path, last);
        out.number(shared as u64);
        out.bytes(&path[shared..]);
        self.paths_bytes += path.len();
        self.last = entry.path.clone();

        let mut flags = 0;
        flags |= match entry.xattrs {
            Xattrs::None => 0,
            Xattrs::Inline(_) => FLAG_XATTRS,
            Xattrs::Chunk(_) => FLAG_XATTRS_CHUNK,
        };
        if entry.hardlink.is_some() {
            flags |= FLAG_HARDLINK;
        }
        if entry.file().is_some_and(|f| f.torn) {
            flags |= FLAG_TORN;
        }
        out.u8(kind_code(&entry.kind) | flags << 4);
        out.number(u64::from(entry.mode));
        out.number(u64::from(entry.uid));
        out.number(u64::from(entry.gid));
        timestamp(out, entry.mtime);
        out.number(entry.fingerprint.inode);
        // It is usually equal to the mtime, or shortly after it.
        out.signed(entry.fingerprint.ctime.seconds.wrapping_sub(entry.mtime.seconds));
        let nanos_same = entry.fingerprint.ctime.nanos == entry.mtime.nanos;
        out.number(if nanos_same { 0 } else { u64::from(entry.fingerprint.ctime.nanos) + 1 });
        match &entry.xattrs {
            Xattrs::None => {}
            Xattrs::Inline(list) => attrs::encode(list, out),
            Xattrs::Chunk(id) => out.raw(&id.0),
        }
        if let Some(group) = entry.hardlink {
            out.number(group);
        }
        match &entry.kind {
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
            Kind::Symlink { target } => out.bytes(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                out.number(u64::from(*major));
                out.number(u64::from(*minor));
            }
            Kind::File(file) => push_file(out, file),
        }
    }
}

/// Appends the part of an entry that describes a file: size and content.
fn push_file(out: &mut Writer, file: &File) {
    out.number(file.size_bytes);
    match &file.content {
        Content::Empty => {}
        Content::Whole { blocks } => {
            out.raw(&file.hash.0);
            if let Some(blocks) = blocks {
                out.raw(&blocks.0);
            }
        }
        Content::Extents(extents) => {
            out.raw(&file.hash.0);
            extent_list::encode(extents, out);
        }
        Content::Lists(lists) => {
            out.raw(&file.hash.0);
            out.number(lists.len() as u64);
            for list in lists {
                out.raw(&list.0);
            }
        }
    }
}

/// Writes nodes: children in ascending order of their first path.
pub struct NodeWriter {
    out: Writer,
    pub children: usize,
    /// The page pushed last.
    pub last: Option<ChunkId>,
}

impl Default for NodeWriter {
    fn default() -> Self {
        let mut out = Writer::default();
        out.u8(NODE);
        Self { out, children: 0, last: None }
    }
}

impl NodeWriter {
    pub(crate) fn len_bytes(&self) -> usize {
        self.out.0.len()
    }

    pub fn push(&mut self, child: &Child) {
        self.out.bytes(child.first.as_bytes());
        self.out.raw(&child.page.0);
        self.out.number(child.entries);
        self.out.number(child.size_bytes);
        self.children += 1;
        self.last = Some(child.page);
    }

    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(self).out.0
    }
}

fn timestamp(out: &mut Writer, time: Timestamp) {
    out.signed(time.seconds);
    out.number(u64::from(time.nanos));
}

fn nanos(value: u64) -> Result<u32, FormatError> {
    u32::try_from(value).ok().filter(|n| *n < 1_000_000_000).ok_or(FormatError::Range("nanoseconds"))
}

const DIRECTORY: u8 = 0;
const FILE_EMPTY: u8 = 1;
const FILE_WHOLE: u8 = 2;
const FILE_WHOLE_BLOCKS: u8 = 3;
const FILE_EXTENTS: u8 = 4;
const FILE_LISTS: u8 = 5;
const SYMLINK: u8 = 6;
const FIFO: u8 = 7;
const SOCKET: u8 = 8;
const CHAR_DEVICE: u8 = 9;
const BLOCK_DEVICE: u8 = 10;

fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory => DIRECTORY,
        Kind::File(file) => match file.content {
            Content::Empty => FILE_EMPTY,
            Content::Whole { blocks: None } => FILE_WHOLE,
            Content::Whole { blocks: Some(_) } => FILE_WHOLE_BLOCKS,
            Content::Extents(_) => FILE_EXTENTS,
            Content::Lists(_) => FILE_LISTS,
        },
        Kind::Symlink { .. } => SYMLINK,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
        Kind::CharDevice { .. } => CHAR_DEVICE,
        Kind::BlockDevice { .. } => BLOCK_DEVICE,
    }
}

/// Decodes a page of at most 1 MiB; paths are strictly ascending and stay inside the root.
pub fn decode(bytes: &[u8]) -> Result<Page, FormatError> {
    let mut reader = Reader(bytes);
    if bytes.len() > CHUNK_MAX_BYTES {
        return Err(FormatError::Range("page"));
    }
    match reader.u8("page")? {
        LEAF => decode_leaf(reader).map(Page::Leaf),
        NODE => decode_node(reader).map(Page::Node),
        _ => Err(FormatError::Magic("a page")),
    }
}

fn decode_node(mut reader: Reader) -> Result<Vec<Child>, FormatError> {
    let mut children: Vec<Child> = Vec::new();
    while !reader.is_empty() {
        let first = reader.bytes("path")?;
        if first.len() > PATH_MAX_BYTES {
            return Err(FormatError::Range("path"));
        }
        let first = TreePath::parse(first)?;
        if children.last().is_some_and(|last| last.first >= first) {
            return Err(FormatError::Order("paths"));
        }
        let page = ChunkId(reader.array("page id")?);
        let entries = reader.number("entries")?;
        let size_bytes = reader.number("size")?;
        children.push(Child { first, page, entries, size_bytes });
    }
    Ok(children)
}

fn decode_leaf(mut reader: Reader) -> Result<Vec<Entry>, FormatError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(reader.0.len() / 48);
    let mut path = Vec::new();
    let mut paths_bytes = 0;
    while !reader.is_empty() {
        let shared: usize = reader.fitting("path")?;
        if shared > path.len() {
            return Err(FormatError::Range("path"));
        }
        path.truncate(shared);
        path.extend_from_slice(reader.bytes("path")?);
        paths_bytes += path.len();
        if path.len() > PATH_MAX_BYTES || paths_bytes > PATHS_MAX_BYTES {
            return Err(FormatError::Range("path"));
        }
        let parsed = TreePath::parse(&path)?;
        if entries.last().is_some_and(|last| last.path >= parsed) {
            return Err(FormatError::Order("paths"));
        }
        entries.push(decode_entry(&mut reader, parsed)?);
    }
    Ok(entries)
}

fn decode_entry(reader: &mut Reader, path: TreePath) -> Result<Entry, FormatError> {
    let head = reader.u8("entry")?;
    let (code, flags) = (head & 0x0f, head >> 4);
    if flags & !KNOWN_FLAGS != 0 {
        return Err(FormatError::Range("entry flags"));
    }
    let mode: u16 = reader.fitting("mode")?;
    if mode > 0o7777 {
        return Err(FormatError::Range("mode"));
    }
    let uid = reader.fitting("uid")?;
    let gid = reader.fitting("gid")?;
    let mtime = Timestamp { seconds: reader.signed("mtime")?, nanos: nanos(reader.number("mtime")?)? };
    let inode = reader.number("inode")?;
    let ctime_seconds = mtime.seconds.wrapping_add(reader.signed("ctime")?);
    let ctime_nanos = match reader.number("ctime")? {
        0 => mtime.nanos,
        n => nanos(n - 1)?,
    };
    let xattrs = match flags & (FLAG_XATTRS | FLAG_XATTRS_CHUNK) {
        0 => Xattrs::None,
        FLAG_XATTRS => Xattrs::Inline(attrs::decode(reader)?),
        FLAG_XATTRS_CHUNK => Xattrs::Chunk(ChunkId(reader.array("attributes")?)),
        _ => return Err(FormatError::Range("entry flags")),
    };
    let hardlink = if flags & FLAG_HARDLINK != 0 { Some(reader.number("hardlink")?) } else { None };
    let torn = flags & FLAG_TORN != 0;
    if torn && !(FILE_EMPTY..=FILE_LISTS).contains(&code) {
        return Err(FormatError::Range("entry flags"));
    }
    let device = |reader: &mut Reader| {
        let (major, minor) = (reader.fitting("device")?, reader.fitting("device")?);
        if major > MAJOR_MAX || minor > MINOR_MAX {
            return Err(FormatError::Range("device"));
        }
        Ok((major, minor))
    };
    let kind = match code {
        DIRECTORY => Kind::Directory,
        FILE_EMPTY..=FILE_LISTS => Kind::File(decode_file(reader, code, torn)?),
        SYMLINK => {
            let target = reader.bytes("symlink target")?;
            if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                return Err(FormatError::Range("symlink target"));
            }
            Kind::Symlink { target: target.to_vec() }
        }
        FIFO => Kind::Fifo,
        SOCKET => Kind::Socket,
        CHAR_DEVICE => {
            let (major, minor) = device(reader)?;
            Kind::CharDevice { major, minor }
        }
        BLOCK_DEVICE => {
            let (major, minor) = device(reader)?;
            Kind::BlockDevice { major, minor }
        }
        _ => return Err(FormatError::Range("entry kind")),
    };
    // Only the root has an empty path, and the root is a directory.
    if path.is_root() && kind != Kind::Directory {
        return Err(FormatError::Range("root"));
    }
    let fingerprint = Fingerprint { inode, ctime: Timestamp { seconds: ctime_seconds, nanos: ctime_nanos } };
    Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs, hardlink, fingerprint })
}

fn decode_file(reader: &mut Reader, code: u8, torn: bool) -> Result<File, FormatError> {
    let size_bytes = reader.number("size")?;
    if size_bytes > i64::MAX as u64 {
        return Err(FormatError::Range("size"));
    }
    if code == FILE_EMPTY {
        let hash = ContentHash::of(b"");
        return if size_bytes == 0 {
            Ok(File { size_bytes, hash, content: Content::Empty, torn })
        } else {
            Err(FormatError::Range("size"))
        };
    }
    let hash = ContentHash(reader.array("hash")?);
    let content = match code {
        FILE_WHOLE | FILE_WHOLE_BLOCKS if size_bytes > CHUNK_MAX_BYTES as u64 => {
            return Err(FormatError::Range("size"));
        }
        FILE_WHOLE => Content::Whole { blocks: None },
        FILE_WHOLE_BLOCKS => Content::Whole { blocks: Some(ChunkId(reader.array("block entries")?)) },
        FILE_EXTENTS => {
            let extents = extent_list::decode(reader)?;
            let sum = extents.iter().try_fold(0u64, |sum, e| sum.checked_add(e.length_bytes()));
            if sum != Some(size_bytes) {
                return Err(FormatError::Range("size"));
            }
            Content::Extents(extents)
        }
        _ => {
            let count = reader.count(32, "extent lists")?;
            let lists = (0..count).map(|_| reader.array("extent list").map(ChunkId));
            Content::Lists(lists.collect::<Result<_, _>>()?)
        }
    };
    Ok(File { size_bytes, hash, content, torn })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::entry::Extent;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    fn file() -> impl Strategy<Value = Kind> {
        let content = prop_oneof![
            Just((0, Content::Empty)),
            (1u64..1 << 20, prop::option::of(any::<[u8; 32]>().prop_map(ChunkId)))
                .prop_map(|(size, blocks)| (size, Content::Whole { blocks })),
            (any::<[u8; 32]>(), 1u64..1 << 40).prop_map(|(id, hole)| {
                let chunk =
                    Extent::Chunk { chunk: ChunkId(id), blocks: None, offset_bytes: 1, length_bytes: 7 };
                (hole + 7, Content::Extents(vec![Extent::Hole { length_bytes: hole }, chunk]))
            }),
            (any::<[u8; 32]>(), 0u64..1 << 50)
                .prop_map(|(id, size)| (size, Content::Lists(vec![ChunkId(id); 3]))),
        ];
        (content, any::<[u8; 32]>(), any::<bool>()).prop_map(|((size_bytes, content), hash, torn)| {
            let hash = if content == Content::Empty { ContentHash::of(b"") } else { ContentHash(hash) };
            Kind::File(File { size_bytes, hash, content, torn })
        })
    }

    pub fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let kind = prop_oneof![
            4 => file(),
            1 => Just(Kind::Directory),
            1 => prop::collection::vec(1u8..255, 1..30).prop_map(|target| Kind::Symlink { target }),
            1 => Just(Kind::Fifo),
            1 => Just(Kind::Socket),
            1 => (0..=MAJOR_MAX, 0..=MINOR_MAX).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
            1 => (0..=MAJOR_MAX, 0..=MINOR_MAX).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        ];
        let xattrs = prop_oneof![
            6 => Just(Xattrs::None),
            1 => prop::collection::btree_map(prop::collection::vec(1u8..255, 1..20), prop::collection::vec(any::<u8>(), 0..50), 1..4)
                .prop_map(|map| Xattrs::Inline(map.into_iter().collect())),
            1 => any::<[u8; 32]>().prop_map(|id| Xattrs::Chunk(ChunkId(id))),
        ];
        let rest = (
            kind,
            0u16..=0o7777,
            any::<(u32, u32)>(),
            time(),
            xattrs,
            prop::option::of(any::<u64>()),
            any::<u64>(),
            time(),
        );
        prop::collection::vec((prop::collection::vec("[a-e\u{e9}.]{1,6}", 1..4), rest), 0..40).prop_map(
            |raw| {
                let mut entries: Vec<Entry> = raw
                    .into_iter()
                    .filter_map(|(path, (kind, mode, (uid, gid), mtime, xattrs, hardlink, inode, ctime))| {
                        let path = TreePath::parse(path.join("/").as_bytes()).ok()?;
                        let fingerprint = Fingerprint { inode, ctime };
                        Some(Entry { path, kind, mode, uid, gid, mtime, xattrs, hardlink, fingerprint })
                    })
                    .collect();
                entries.sort_by(|a, b| a.path.cmp(&b.path));
                entries.dedup_by(|a, b| a.path == b.path);
                entries
            },
        )
    }

    pub fn encode(entries: &[Entry]) -> Vec<u8> {
        let mut writer = LeafWriter::default();
        entries.iter().for_each(|e| writer.push(e));
        writer.finish()
    }

    proptest! {
        #[test]
        fn entries_come_back(entries in entries()) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(Page::Leaf(entries)));
        }

        #[test]
        fn a_damaged_page_is_decoded_or_refused(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(&entries);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }

    /// Decodes a page of fifos, each given by the number of bytes it shares with the path before, and the
    /// rest.
    fn of_fifos(paths: impl Iterator<Item = (u64, Vec<u8>)>) -> Result<Page, FormatError> {
        let mut writer = Writer::default();
        writer.u8(LEAF);
        for (shared, rest) in paths {
            writer.number(shared);
            writer.bytes(&rest);
            writer.raw(&[FIFO, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        decode(&writer.0)
    }

    #[test]
    fn a_path_and_all_paths_of_a_page_are_bounded_however_few_bytes_say_them() {
        let long = |bytes: usize| {
            let mut path = [&[b'a'; 99][..], b"/"].concat().repeat(bytes / 100 + 1);
            path.truncate(bytes);
            path
        };
        // At the bound, and one byte beyond it.
        let bounded = PATH_MAX_BYTES - 1;
        assert!(of_fifos([(0, long(bounded)), (bounded as u64, b"b".to_vec())].into_iter()).is_ok());
        let beyond = of_fifos([(0, long(bounded)), (bounded as u64, b"bb".to_vec())].into_iter());
        assert_eq!(beyond, Err(FormatError::Range("path")));
        let many = |count: usize| {
            let names = (0..count).map(|n| format!("{n:08}").into_bytes());
            let first = long(PATH_MAX_BYTES - 256);
            let at = first.len() as u64;
            let first = (0, [&first[..], b"/"].concat());
            let first = (first.0, [&first.1[..], b"!"].concat());
            of_fifos(std::iter::once(first).chain(names.map(move |name| (at + 1, name))))
        };
        let full = PATHS_MAX_BYTES / (PATH_MAX_BYTES - 256 + 9);
        assert!(many(full - 1).is_ok());
        assert_eq!(many(full + 1), Err(FormatError::Range("path")));
    }

    #[test]
    fn a_device_that_no_kernel_has_is_refused() {
        let of =
            |major, minor| decode(&encode(&[Entry { kind: Kind::CharDevice { major, minor }, ..fifo() }]));
        assert!(of(MAJOR_MAX, MINOR_MAX).is_ok());
        assert_eq!(of(MAJOR_MAX + 1, 0), Err(FormatError::Range("device")));
        assert_eq!(of(0, MINOR_MAX + 1), Err(FormatError::Range("device")));
    }

    fn fifo() -> Entry {
        Entry {
            path: TreePath::parse(b"a").unwrap(),
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint::default(),
        }
    }

    #[test]
    fn unsorted_duplicate_and_escaping_paths_are_refused() {
        let entry = |path: &[u8]| {
            let mut writer = Writer::default();
            writer.number(0);
            writer.bytes(path);
            writer.raw(&[FIFO, 0, 0, 0, 0, 0, 0, 0, 0]);
            writer.0
        };
        let page = |paths: &[&[u8]]| {
            let mut bytes = vec![LEAF];
            paths.iter().for_each(|p| bytes.extend(entry(p)));
            decode(&bytes)
        };
        assert!(page(&[b"a", b"b"]).is_ok());
        assert_eq!(page(&[b"b", b"a"]), Err(FormatError::Order("paths")));
        assert_eq!(page(&[b"a", b"a"]), Err(FormatError::Order("paths")));
        for bad in [&b".."[..], b"../x", b"/etc/passwd", b"a/../../x", b"a\0", b""] {
            assert!(page(&[bad]).is_err());
        }
    }
}
