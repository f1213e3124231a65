//! A snapshot's image: an EROFS filesystem of names and metadata, without any file's bytes.
//!
//! Each file that is not empty is a hole of its size, and names by overlay attributes the object that holds
//! its bytes. An overlay of the image, with the objects as a data-only layer, shows the snapshot. (The scheme
//! is that of composefs; the layout is that of the kernel's `fs/erofs/erofs_fs.h`.) The same entries make the
//! same image, byte for byte.
//!
//! Nothing is read and nothing can race: entries in, bytes out. All nodes are held at once, some 130 bytes
//! each.

use super::dirent::{self, Dirent, Size};
use super::inode::{
    ATTRIBUTES_HEADER_BYTES, BLOCK_BYTES, FIRST_INODE_AT, INODE_BYTES, Inode, Layout, REDIRECT_BYTES,
    SLOT_BYTES, SUPERBLOCK_AT, device_number, encode_attributes, encode_redirect, kind, superblock,
};
use crate::model::entry::{Attributes, Entry, Group, Kind, Timestamp};
use crate::model::id::ContentHash;
use crate::model::tree_path::TreePath;
use crate::vfs::error::ImageError;
use std::collections::HashMap;
use std::io::Write;

/// Returns an object's path below the directory of objects: `ab/cdef…`.
pub(crate) fn object_path(hash: ContentHash) -> String {
    let name = blake3::Hash::from_bytes(hash.0).to_hex();
    format!("{}/{}", &name[..2], &name[2..])
}

/// Figures of a written image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageReport {
    pub inodes: u64,
    pub image_bytes: u64,
    /// Number of attributes that an image cannot hold.
    pub attributes_left_out: u64,
    /// Number of devices 0:0, which an overlay takes for deletions. They are shown as empty files.
    pub whiteouts: u64,
}

const NONE: u32 = u32::MAX;

/// Type of a node, with a file's hash or a device's number.
#[derive(Clone, Copy)]
enum NodeKind {
    Directory,
    File(ContentHash),
    Symlink,
    Device {
        block: bool,
        number: u32,
    },
    Fifo,
    Socket,
    /// Another name of the node with this number.
    Alias(u32),
}

struct Node {
    kind: NodeKind,
    parent: u32,
    /// Offset in the arena: the name, then a symlink's target, then the attributes.
    text_at: u32,
    name_bytes: u16,
    target_bytes: u16,
    attributes_bytes: u32,
    mode: u16,
    uid: u32,
    gid: u32,
    nanos: u32,
    seconds: i64,
    /// Size of a file; of a directory once it is known.
    size_bytes: u64,
    /// Number of names of a file; of a directory 2 and its subdirectories.
    links: u32,
    /// Location of the inode, in slots; 0 until it is placed.
    slot: u32,
    /// Location of its full blocks.
    first_block: u32,
}

/// Builds an image: `push` entries in the manifest's order, then `write`.
#[derive(Default)]
pub struct Image {
    nodes: Vec<Node>,
    /// Names, targets and attributes, one after the other.
    arena: Vec<u8>,
    /// Directories that the next entry may be in, with the lengths of their paths.
    open: Vec<(u32, usize)>,
    groups: HashMap<Group, u32>,
    report: ImageReport,
}

impl Image {
    /// Adds an entry, with all its attributes.
    pub fn push(&mut self, entry: &Entry, attributes: &Attributes) -> Result<(), ImageError> {
        let manifest = || ImageError::Manifest(entry.path.clone());
        let number =
            u32::try_from(self.nodes.len()).ok().filter(|n| *n < NONE).ok_or(ImageError::TooLarge)?;
        let (parent, name) = match entry.path.split() {
            None if number == 0 && entry.kind == Kind::Directory => (0, &b""[..]),
            None => return Err(manifest()),
            Some((parent, name)) => (self.enter(parent).ok_or_else(manifest)?, name),
        };
        if entry.kind == (Kind::CharDevice { major: 0, minor: 0 }) {
            self.report.whiteouts += 1;
        }
        let kind = node_kind(&entry.kind);
        let first = entry.group().and_then(|group| self.groups.get(&group).copied());
        let kind = match first {
            Some(first) if entry.kind != Kind::Directory => NodeKind::Alias(first),
            _ => kind,
        };
        let target = match &entry.kind {
            Kind::Symlink { target } if first.is_none() => &target[..],
            _ => b"",
        };
        if name.len() > 255 || target.len() >= BLOCK_BYTES || (name.is_empty() && number > 0) {
            return Err(ImageError::Name(entry.path.clone()));
        }
        let text_at = u32::try_from(self.arena.len()).map_err(|_| ImageError::TooLarge)?;
        self.arena.extend(name);
        self.arena.extend(target);
        let attributes_at = self.arena.len();
        if first.is_none() {
            let redirected = matches!(kind, NodeKind::File(_)) && entry.size_bytes() > 0;
            let left_out = encode_attributes(attributes, redirected, &mut self.arena);
            self.report.attributes_left_out += left_out as u64;
        }
        self.nodes.push(Node {
            kind,
            parent,
            text_at,
            name_bytes: name.len() as u16,
            target_bytes: target.len() as u16,
            attributes_bytes: (self.arena.len() - attributes_at) as u32,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            nanos: entry.mtime.nanos,
            seconds: entry.mtime.seconds,
            size_bytes: entry.size_bytes().max(target.len() as u64),
            links: if matches!(kind, NodeKind::Directory) { 2 } else { 1 },
            slot: 0,
            first_block: 0,
        });
        self.count_links(entry, kind, number, parent);
        Ok(())
    }

    /// Counts the links that the new node `number` adds, and records the node where later ones may refer to
    /// it.
    fn count_links(&mut self, entry: &Entry, kind: NodeKind, number: u32, parent: u32) {
        match kind {
            NodeKind::Directory => {
                if number > 0 {
                    self.nodes[parent as usize].links += 1;
                }
                self.open.push((number, entry.path.as_bytes().len()));
            }
            NodeKind::Alias(first) => self.nodes[first as usize].links += 1,
            _ => {
                if let Some(group) = entry.group() {
                    self.groups.insert(group, number);
                }
            }
        }
    }

    /// Returns the open directory with the path `parent`, and closes those inside it.
    fn enter(&mut self, parent: &[u8]) -> Option<u32> {
        while let Some((number, path_bytes)) = self.open.last().copied() {
            if path_bytes == parent.len() && self.is_path_of(number, parent) {
                return Some(number);
            }
            self.open.pop();
        }
        None
    }

    /// Returns whether directory `number` has this path, by the names on the way to it.
    fn is_path_of(&self, mut number: u32, mut path: &[u8]) -> bool {
        while number > 0 {
            let node = &self.nodes[number as usize];
            let Some(rest) = path.strip_suffix(self.name(node)) else { return false };
            path = rest.strip_suffix(b"/").unwrap_or(rest);
            number = node.parent;
        }
        path.is_empty()
    }

    fn name(&self, node: &Node) -> &[u8] {
        &self.arena[node.text_at as usize..][..usize::from(node.name_bytes)]
    }

    fn target(&self, node: &Node) -> &[u8] {
        &self.arena[node.text_at as usize + usize::from(node.name_bytes)..][..usize::from(node.target_bytes)]
    }

    fn attributes(&self, node: &Node) -> &[u8] {
        let at = node.text_at as usize + usize::from(node.name_bytes) + usize::from(node.target_bytes);
        &self.arena[at..][..node.attributes_bytes as usize]
    }

    /// Writes the image, from its first byte to its last. `id` becomes the filesystem's UUID.
    pub fn write(mut self, id: [u8; 16], out: &mut impl Write) -> Result<ImageReport, ImageError> {
        if self.nodes.is_empty() {
            return Err(ImageError::Manifest(TreePath::root()));
        }
        let children = Children::new(&self.nodes);
        let (inodes_end, end) = self.place(&children)?;
        let blocks = u32::try_from(end / BLOCK_BYTES as u64).map_err(|_| ImageError::TooLarge)?;
        let root = u16::try_from(self.nodes[0].slot).map_err(|_| ImageError::TooLarge)?;
        let placed = self.nodes.iter().filter(|node| node.slot > 0).count() as u64;
        let head = superblock(root, placed, blocks, id);
        let mut out = Counted { out, at: 0 };
        out.write(&head[..SUPERBLOCK_AT + 128])?;
        let mut inode = Vec::new();
        let mut directory = Vec::new();
        for number in 0..self.nodes.len() {
            if self.nodes[number].slot > 0 {
                inode.clear();
                self.encode(number, &children, &mut inode, &mut directory)?;
                out.zeros_to(u64::from(self.nodes[number].slot) * SLOT_BYTES)?;
                out.write(&inode)?;
            }
        }
        out.zeros_to(inodes_end)?;
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            if node.slot == 0 || node.first_block == 0 {
                continue;
            }
            out.zeros_to(u64::from(node.first_block) * BLOCK_BYTES as u64)?;
            match node.kind {
                NodeKind::Directory => {
                    self.encode_directory(number, &children, &mut directory);
                    let inline = is_inline(node.size_bytes, self.head_bytes(number));
                    let kept = if inline { directory.len() % BLOCK_BYTES } else { 0 };
                    out.write(&directory[..directory.len() - kept])?;
                }
                _ => out.write(self.target(node))?,
            }
        }
        out.zeros_to(end)?;
        self.report.inodes = placed;
        self.report.image_bytes = end;
        Ok(self.report)
    }

    /// Returns the size of an inode with its attributes, without its data.
    fn head_bytes(&self, number: usize) -> u64 {
        let node = &self.nodes[number];
        let own = u64::from(node.attributes_bytes);
        INODE_BYTES + own + if self.has_object(node) { redirect_bytes(own == 0) } else { 0 }
    }

    fn has_object(&self, node: &Node) -> bool {
        matches!(node.kind, NodeKind::File(_)) && node.size_bytes > 0
    }

    /// Places every inode and all full blocks; returns the end of the inodes, and the end of the image.
    fn place(&mut self, children: &Children) -> Result<(u64, u64), ImageError> {
        let mut at = FIRST_INODE_AT;
        let mut blocks = Vec::new();
        for number in 0..self.nodes.len() {
            if let NodeKind::Alias(_) = self.nodes[number].kind {
                continue;
            }
            if let NodeKind::Directory = self.nodes[number].kind {
                let mut size = Size::default();
                self.each_name(number, children, |name, _, _| size.add(name));
                self.nodes[number].size_bytes = size.bytes();
            }
            let (node, head_bytes) = (&self.nodes[number], self.head_bytes(number));
            let tail_bytes = match node.kind {
                NodeKind::File(_) if self.has_object(node) => 4,
                NodeKind::Directory | NodeKind::Symlink if is_inline(node.size_bytes, head_bytes) => {
                    node.size_bytes % BLOCK_BYTES as u64
                }
                _ => 0,
            };
            // The data after an inode must lie in one block.
            let begin = at + head_bytes;
            let block = BLOCK_BYTES as u64;
            if tail_bytes > 0 && begin / block != (begin + tail_bytes - 1) / block {
                at = at.next_multiple_of(block);
            }
            self.nodes[number].slot = u32::try_from(at / SLOT_BYTES).map_err(|_| ImageError::TooLarge)?;
            at = (at + head_bytes + tail_bytes).next_multiple_of(SLOT_BYTES);
            let node = &self.nodes[number];
            let full = match node.kind {
                NodeKind::Directory | NodeKind::Symlink if is_inline(node.size_bytes, head_bytes) => {
                    node.size_bytes / block
                }
                NodeKind::Directory | NodeKind::Symlink => node.size_bytes.div_ceil(block),
                _ => 0,
            };
            if full > 0 {
                blocks.push((number, full));
            }
        }
        let inodes_end = at.next_multiple_of(BLOCK_BYTES as u64);
        let mut next = inodes_end / BLOCK_BYTES as u64;
        for (number, full) in blocks {
            self.nodes[number].first_block = u32::try_from(next).map_err(|_| ImageError::TooLarge)?;
            next += full;
        }
        Ok((inodes_end, next * BLOCK_BYTES as u64))
    }

    /// Encodes an inode with its attributes and its inline data.
    fn encode(
        &self,
        number: usize,
        children: &Children,
        out: &mut Vec<u8>,
        directory: &mut Vec<u8>,
    ) -> Result<(), ImageError> {
        let node = &self.nodes[number];
        let head_bytes = self.head_bytes(number);
        let inline = is_inline(node.size_bytes, head_bytes);
        let first_block = node.first_block;
        let (kind_bits, layout) = match node.kind {
            NodeKind::Directory if inline => (kind::DIRECTORY, Layout::Inline { first_block }),
            NodeKind::Directory => (kind::DIRECTORY, Layout::Plain { first_block }),
            NodeKind::Symlink if inline => (kind::SYMLINK, Layout::Inline { first_block }),
            NodeKind::Symlink => (kind::SYMLINK, Layout::Plain { first_block }),
            NodeKind::File(_) if self.has_object(node) => (kind::FILE, Layout::Hole),
            NodeKind::Device { block, number } => {
                (if block { kind::BLOCK_DEVICE } else { kind::CHARACTER_DEVICE }, Layout::Device { number })
            }
            NodeKind::Fifo => (kind::FIFO, Layout::Device { number: 0 }),
            NodeKind::Socket => (kind::SOCKET, Layout::Device { number: 0 }),
            NodeKind::File(_) | NodeKind::Alias(_) => (kind::FILE, Layout::Plain { first_block: 0 }),
        };
        let inode = Inode {
            mode: kind_bits | node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: Timestamp { seconds: node.seconds, nanos: node.nanos },
            size_bytes: node.size_bytes,
            links: node.links,
            attributes_bytes: (head_bytes - INODE_BYTES) as usize,
            layout,
        };
        out.extend(inode.encode(node.slot));
        let attributes_at = out.len();
        out.extend(self.attributes(node));
        match node.kind {
            NodeKind::File(hash) if self.has_object(node) => {
                let held = encode_redirect(redirect(hash).as_bytes(), attributes_at, out);
                if !held || out.len() as u64 != head_bytes {
                    return Err(ImageError::Broken { what: "attributes", at: u64::from(node.slot) });
                }
                // The only entry of the table says that there is no block.
                out.extend(u32::MAX.to_le_bytes());
            }
            NodeKind::Directory if inline => {
                self.encode_directory(number, children, directory);
                out.extend(&directory[directory.len() / BLOCK_BYTES * BLOCK_BYTES..]);
            }
            NodeKind::Symlink if inline => out.extend(self.target(node)),
            _ => {}
        }
        Ok(())
    }

    fn encode_directory(&self, number: usize, children: &Children, out: &mut Vec<u8>) {
        let mut entries = Vec::with_capacity(children.of(number).len() + 2);
        self.each_name(number, children, |name, node, kind| {
            entries.push(Dirent { name, node: u64::from(node), kind });
        });
        out.clear();
        dirent::encode(entries.into_iter(), out);
    }

    /// Calls `each` with every name in a directory, its inode and its kind, in order and including `.` and
    /// `..`.
    fn each_name<'a>(
        &'a self,
        number: usize,
        children: &'a Children,
        mut each: impl FnMut(&'a [u8], u32, u8),
    ) {
        let own = &self.nodes[number];
        let above = &self.nodes[own.parent as usize];
        let mut dots = [(&b"."[..], own.slot), (b"..", above.slot)].into_iter().peekable();
        for child in children.of(number) {
            let child = &self.nodes[*child as usize];
            let name = self.name(child);
            while let Some((dot, slot)) = dots.next_if(|(dot, _)| *dot < name) {
                each(dot, slot, 2);
            }
            let inode = match child.kind {
                NodeKind::Alias(first) => &self.nodes[first as usize],
                _ => child,
            };
            let kind = match inode.kind {
                NodeKind::File(_) | NodeKind::Alias(_) => 1,
                NodeKind::Directory => 2,
                NodeKind::Device { block: false, .. } => 3,
                NodeKind::Device { block: true, .. } => 4,
                NodeKind::Fifo => 5,
                NodeKind::Socket => 6,
                NodeKind::Symlink => 7,
            };
            each(name, inode.slot, kind);
        }
        for (dot, slot) in dots {
            each(dot, slot, 2);
        }
    }
}

/// Returns whether a directory's last block or a symlink's target lies after its inode. A long target has a
/// block of its own.
fn is_inline(size_bytes: u64, head_bytes: u64) -> bool {
    let last = size_bytes % BLOCK_BYTES as u64;
    last > 0 && head_bytes % BLOCK_BYTES as u64 + last <= BLOCK_BYTES as u64
}

/// Returns the path of a file's bytes, from the data layer's root.
fn redirect(hash: ContentHash) -> String {
    format!("/{}", object_path(hash))
}

/// Returns the object that a redirection leads to; `None` for any other text.
pub(crate) fn object_of(redirect: &[u8]) -> Option<ContentHash> {
    let redirect: &[u8; 66] = redirect.try_into().ok()?;
    let mut name = [0; 64];
    name[..2].copy_from_slice(&redirect[1..3]);
    name[2..].copy_from_slice(&redirect[4..]);
    let is_plain = name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_path = redirect[0] == b'/' && redirect[3] == b'/' && is_plain;
    let hash = blake3::Hash::from_hex(name).ok().filter(|_| is_path)?;
    Some(ContentHash(*hash.as_bytes()))
}

/// Returns the number of attribute bytes that a redirection takes.
fn redirect_bytes(first: bool) -> u64 {
    REDIRECT_BYTES as u64 + if first { ATTRIBUTES_HEADER_BYTES as u64 } else { 0 }
}

/// The children of each directory in their order: node numbers, by directory.
struct Children {
    starts: Vec<u32>,
    numbers: Vec<u32>,
}

impl Children {
    fn new(nodes: &[Node]) -> Self {
        let mut starts = vec![0u32; nodes.len() + 1];
        for node in &nodes[1..] {
            starts[node.parent as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut numbers = vec![0; nodes.len() - 1];
        for (number, node) in nodes.iter().enumerate().skip(1) {
            let place = &mut next[node.parent as usize];
            numbers[*place as usize] = number as u32;
            *place += 1;
        }
        Self { starts, numbers }
    }

    fn of(&self, number: usize) -> &[u32] {
        &self.numbers[self.starts[number] as usize..self.starts[number + 1] as usize]
    }
}

/// A writer that counts its bytes.
struct Counted<'a, W> {
    out: &'a mut W,
    at: u64,
}

impl<W: Write> Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros_to(&mut self, end: u64) -> Result<(), ImageError> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        while self.at < end {
            let count = (end - self.at).min(BLOCK_BYTES as u64);
            self.write(&ZEROS[..count as usize])?;
        }
        Ok(())
    }
}

/// Returns the kind of node that shows an entry. A whiteout, which an overlay would hide, is an empty file.
fn node_kind(kind: &Kind) -> NodeKind {
    match kind {
        Kind::Directory => NodeKind::Directory,
        Kind::File(file) => NodeKind::File(file.hash),
        Kind::Symlink { .. } => NodeKind::Symlink,
        Kind::Fifo => NodeKind::Fifo,
        Kind::Socket => NodeKind::Socket,
        Kind::CharDevice { major: 0, minor: 0 } => NodeKind::File(ContentHash::of(b"")),
        Kind::CharDevice { major, minor } => {
            NodeKind::Device { block: false, number: device_number(*major, *minor) }
        }
        Kind::BlockDevice { major, minor } => {
            NodeKind::Device { block: true, number: device_number(*major, *minor) }
        }
    }
}
