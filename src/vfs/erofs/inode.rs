//! Encoding of inodes and attributes of EROFS. Layouts: the kernel's `fs/erofs/erofs_fs.h`.

use crate::model::entry::{Attributes, Timestamp};
use std::borrow::Cow;

pub(crate) const BLOCK_BYTES: usize = 4096;
/// Alignment of inodes; a node number counts these units from the image's start.
pub(crate) const SLOT_BYTES: u64 = 32;
pub(crate) const INODE_BYTES: u64 = 64;

/// The bits of a mode that give an inode's type.
pub mod kind {
    pub(crate) const MASK: u16 = 0o170_000;
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHARACTER_DEVICE: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK_DEVICE: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const SOCKET: u16 = 0o140_000;
}

/// Location of an inode's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Whole blocks from `first_block` on, or no data.
    Plain { first_block: u32 },
    /// Whole blocks from `first_block` on, and the last part after the inode.
    Inline { first_block: u32 },
    /// No data: a table of one entry marks all of it as a hole. The overlay above reads the bytes from an
    /// object.
    Hole,
    /// A device's number in place of data.
    Device { number: u32 },
}

/// The fields of an inode, without its attributes and its data.
pub(crate) struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub size_bytes: u64,
    pub links: u32,
    pub attributes_bytes: usize,
    pub layout: Layout,
}

impl Inode {
    pub fn encode(&self, number: u32) -> [u8; INODE_BYTES as usize] {
        const EXTENDED: u16 = 1;
        let (layout, union) = match self.layout {
            Layout::Plain { first_block } => (0u16, first_block),
            Layout::Inline { first_block } => (2, first_block),
            Layout::Hole => (4, HOLE_CHUNK_BITS),
            Layout::Device { number } => (0, number),
        };
        let mut out = [0; INODE_BYTES as usize];
        out[0..2].copy_from_slice(&(EXTENDED | layout << 1).to_le_bytes());
        out[2..4].copy_from_slice(&attributes_count(self.attributes_bytes).to_le_bytes());
        out[4..6].copy_from_slice(&self.mode.to_le_bytes());
        out[8..16].copy_from_slice(&self.size_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&union.to_le_bytes());
        out[20..24].copy_from_slice(&number.to_le_bytes());
        out[24..28].copy_from_slice(&self.uid.to_le_bytes());
        out[28..32].copy_from_slice(&self.gid.to_le_bytes());
        out[32..40].copy_from_slice(&self.mtime.seconds.to_le_bytes());
        out[40..44].copy_from_slice(&self.mtime.nanos.to_le_bytes());
        out[44..48].copy_from_slice(&self.links.to_le_bytes());
        out
    }
}

impl Inode {
    /// Decodes an inode; returns `None` for bytes that `encode` never makes, and if the number in it is not
    /// `number`.
    pub fn decode(bytes: &[u8], number: u32) -> Option<Self> {
        let bytes: &[u8; INODE_BYTES as usize] = bytes.try_into().ok()?;
        let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let eight = |at: usize| u64::from(four(at)) | u64::from(four(at + 4)) << 32;
        let mode = two(4);
        let layout = match (two(0), mode >> 12) {
            // Devices, fifos and sockets.
            (0x1, 0x2 | 0x6 | 0x1 | 0xc) => Layout::Device { number: four(16) },
            (0x1, _) => Layout::Plain { first_block: four(16) },
            (0x5, _) => Layout::Inline { first_block: four(16) },
            (0x9, _) if four(16) == HOLE_CHUNK_BITS => Layout::Hole,
            _ => return None,
        };
        let attributes_bytes = match usize::from(two(2)) {
            0 => 0,
            words => ATTRIBUTES_HEADER_BYTES + 4 * (words - 1),
        };
        (four(20) == number).then(|| Self {
            mode,
            uid: four(24),
            gid: four(28),
            mtime: Timestamp { seconds: eight(32).cast_signed(), nanos: four(40) },
            size_bytes: eight(8),
            links: four(44),
            attributes_bytes,
            layout,
        })
    }
}

/// Logarithm of the chunk size in blocks: with chunks of 4 KiB << 31 one is enough for any file.
const HOLE_CHUNK_BITS: u32 = 31;

pub(crate) const ATTRIBUTES_HEADER_BYTES: usize = 12;
/// Maximum size of attributes that an inode's count of words can express.
const ATTRIBUTES_MAX_BYTES: usize = ATTRIBUTES_HEADER_BYTES + 4 * (u16::MAX as usize - 1);

/// Returns the size in words, as an inode has it. `push` keeps it within what the count can express.
fn attributes_count(bytes: usize) -> u16 {
    debug_assert!(bytes <= ATTRIBUTES_MAX_BYTES);
    match bytes {
        0 => 0,
        bytes => u16::try_from(1 + (bytes - ATTRIBUTES_HEADER_BYTES) / 4).unwrap_or(u16::MAX),
    }
}

/// Appends an inode's attributes, if any, and returns the number of those that could not be held.
///
/// Not held are names of a namespace that the kernel does not read, values of 64 KiB, and attributes beyond
/// 256 KiB together. The overlay's own attributes are escaped, so that the overlay above shows them and does
/// not obey them.
///
/// The bytes of a `redirected` inode are in an object: room is kept for the attributes that name it.
pub(crate) fn encode_attributes(attributes: &Attributes, redirected: bool, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    let max_bytes = ATTRIBUTES_MAX_BYTES - if redirected { REDIRECT_BYTES } else { 0 };
    let mut left_out = 0;
    for (name, value) in attributes {
        if !push(&escaped(name), value, start, max_bytes, out) {
            left_out += 1;
        }
    }
    left_out
}

/// Returns an attribute's name as an image has it.
pub(crate) fn escaped(name: &[u8]) -> Cow<'_, [u8]> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => [OVERLAY, b"overlay.", rest].concat().into(),
        None => name.into(),
    }
}

/// Size of a redirection's attributes: for each a header, its name without "trusted.", its value, padded.
pub(crate) const REDIRECT_BYTES: usize =
    (4 + 16_usize).next_multiple_of(4) + (4 + 16 + 66_usize).next_multiple_of(4);

const OVERLAY: &[u8] = b"trusted.overlay.";

/// Appends the attributes that make the overlay read a file's bytes from `redirect` in its data layer.
pub(crate) fn encode_redirect(redirect: &[u8], start: usize, out: &mut Vec<u8>) -> bool {
    push(METACOPY, b"", start, ATTRIBUTES_MAX_BYTES, out)
        && push(REDIRECT, redirect, start, ATTRIBUTES_MAX_BYTES, out)
}

const METACOPY: &[u8] = b"trusted.overlay.metacopy";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";

/// Prefixes of names, and the numbers that stand for them.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Decodes attributes as an image has them, and the target of a redirection; returns `None` when the bytes
/// are not attributes.
pub(crate) fn decode_attributes(bytes: &[u8]) -> Option<(Attributes, Option<&[u8]>)> {
    let (mut attributes, mut is_metacopy, mut redirect) = (Vec::new(), false, None);
    if bytes.is_empty() {
        return Some((attributes, redirect));
    }
    let (header, mut rest) = bytes.split_at_checked(ATTRIBUTES_HEADER_BYTES)?;
    if header.iter().any(|byte| *byte != 0) {
        return None;
    }
    while !rest.is_empty() {
        let &[name_bytes, index, low, high] = rest.first_chunk::<4>()?;
        let (prefix, _) = PREFIXES.iter().find(|(_, number)| *number == index)?;
        let end = 4 + usize::from(name_bytes) + usize::from(u16::from_le_bytes([low, high]));
        let (name, value) = rest.get(4..end)?.split_at_checked(usize::from(name_bytes))?;
        let is = |whole: &[u8]| whole.strip_prefix(*prefix) == Some(name);
        match is_metacopy {
            // These two are the last, in this order.
            true if redirect.is_none() && is(REDIRECT) => redirect = Some(value),
            true => return None,
            false if is(METACOPY) => is_metacopy = true,
            false => attributes.push(([prefix, name].concat(), value.to_vec())),
        }
        rest = rest.get(end.next_multiple_of(4)..)?;
    }
    (is_metacopy == redirect.is_some()).then_some((attributes, redirect))
}

fn push(name: &[u8], value: &[u8], start: usize, max_bytes: usize, out: &mut Vec<u8>) -> bool {
    let of = |(prefix, index): &(&[u8], u8)| name.strip_prefix(*prefix).map(|rest| (rest.to_vec(), *index));
    let Some((rest, index)) = PREFIXES.iter().find_map(of) else { return false };
    let (Ok(name_bytes), Ok(value_bytes)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
        return false;
    };
    // An ACL's name is its prefix, and no other name may be empty.
    if rest.is_empty() != matches!(index, 2 | 3) {
        return false;
    }
    let header = if out.len() == start { ATTRIBUTES_HEADER_BYTES } else { 0 };
    let padded = (4 + rest.len() + value.len()).next_multiple_of(4);
    if out.len() - start + header + padded > max_bytes {
        return false;
    }
    out.resize(out.len() + header, 0);
    let end = out.len() + padded;
    out.extend([name_bytes, index]);
    out.extend(value_bytes.to_le_bytes());
    out.extend(rest);
    out.extend(value);
    out.resize(end, 0);
    true
}

/// Returns the root's number from an image's first block; `None` when the block is not an image's.
pub(crate) fn root_slot(block: &[u8]) -> Option<u32> {
    let head = block.get(SUPERBLOCK_AT..SUPERBLOCK_AT + 128)?;
    let is_ours = head[..4] == MAGIC.to_le_bytes() && head[12] == 12;
    is_ours.then(|| u32::from(u16::from_le_bytes([head[14], head[15]])))
}

const MAGIC: u32 = 0xe0f5_e1e2;

/// Returns an image's first block, with the superblock at byte 1024.
pub(crate) fn superblock(root: u16, inodes: u64, blocks: u32, id: [u8; 16]) -> [u8; BLOCK_BYTES] {
    const INCOMPATIBLE_CHUNKED_FILE: u32 = 4;
    let mut block = [0; BLOCK_BYTES];
    let out = &mut block[SUPERBLOCK_AT..];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    // Logarithm of the block size.
    out[12] = 12;
    out[14..16].copy_from_slice(&root.to_le_bytes());
    out[16..24].copy_from_slice(&inodes.to_le_bytes());
    out[36..40].copy_from_slice(&blocks.to_le_bytes());
    // Inodes are counted from block 0, at 40; no attributes are shared, at 44.
    out[48..64].copy_from_slice(&id);
    out[80..84].copy_from_slice(&INCOMPATIBLE_CHUNKED_FILE.to_le_bytes());
    block
}

pub(crate) const SUPERBLOCK_AT: usize = 1024;
/// Offset of the first inode, after the superblock.
pub(crate) const FIRST_INODE_AT: u64 = SUPERBLOCK_AT as u64 + 128;

/// Returns a device's number as the kernel encodes it.
pub(crate) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
