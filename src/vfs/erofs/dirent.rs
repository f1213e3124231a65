//! A directory's blocks in EROFS: in each block the entries, then their names.

use super::inode::BLOCK_BYTES;

const DIRENT_BYTES: usize = 12;

/// An entry of a directory. Entries are sorted by name, with `.` and `..` at their places.
#[derive(Clone, Copy)]
pub struct Dirent<'a> {
    pub name: &'a [u8],
    /// Number of the node.
    pub node: u64,
    /// Kind as `d_type` has it on disk: 1 file, 2 directory, 3 and 4 devices, 5 fifo, 6 socket, 7 symlink.
    pub kind: u8,
}

/// A decoded entry.
pub struct OwnedDirent {
    pub name: Vec<u8>,
    pub node: u64,
    pub kind: u8,
}

/// Size of a directory: its full blocks, and the bytes of its last block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub full_blocks: u32,
    pub last_bytes: u32,
}

impl Size {
    /// Adds the size of an entry with this name.
    pub fn add(&mut self, name: &[u8]) {
        let more = (DIRENT_BYTES + name.len()) as u32;
        if self.last_bytes + more > BLOCK_BYTES as u32 {
            self.full_blocks += 1;
            self.last_bytes = 0;
        }
        self.last_bytes += more;
    }

    pub fn bytes(self) -> u64 {
        u64::from(self.full_blocks) * BLOCK_BYTES as u64 + u64::from(self.last_bytes)
    }
}

/// Appends a directory: full blocks of 4096 bytes, then the last without padding.
pub fn encode<'a>(entries: impl Iterator<Item = Dirent<'a>>, out: &mut Vec<u8>) {
    let mut block: Vec<Dirent> = Vec::new();
    let mut size = Size::default();
    for entry in entries {
        let full_blocks = size.full_blocks;
        size.add(entry.name);
        if size.full_blocks > full_blocks {
            end_block(&mut block, out);
            out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        block.push(entry);
    }
    end_block(&mut block, out);
}

fn end_block(block: &mut Vec<Dirent>, out: &mut Vec<u8>) {
    let mut name_at = (DIRENT_BYTES * block.len()) as u16;
    for entry in block.iter() {
        out.extend(entry.node.to_le_bytes());
        out.extend(name_at.to_le_bytes());
        out.extend([entry.kind, 0]);
        name_at += entry.name.len() as u16;
    }
    for entry in block.drain(..) {
        out.extend(entry.name);
    }
}

/// Decodes the entries of a directory; returns `None` when the bytes are not a directory's.
pub fn decode(bytes: &[u8]) -> Option<Vec<OwnedDirent>> {
    let mut entries: Vec<OwnedDirent> = Vec::new();
    for block in bytes.chunks(BLOCK_BYTES) {
        let field =
            |at: usize| Some(usize::from(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?)));
        let names_at = field(8)?;
        if names_at == 0 || !names_at.is_multiple_of(DIRENT_BYTES) {
            return None;
        }
        for at in (0..names_at).step_by(DIRENT_BYTES) {
            let begin = field(at + 8)?;
            let end = if at + DIRENT_BYTES < names_at { field(at + DIRENT_BYTES + 8)? } else { block.len() };
            let name = block.get(begin..end)?;
            // The last name of a block ends with the block, or at the first zero.
            let name = name.split(|byte| *byte == 0).next()?;
            let node = u64::from_le_bytes(block.get(at..at + 8)?.try_into().ok()?);
            if entries.last().is_some_and(|last| *last.name >= *name) {
                return None;
            }
            entries.push(OwnedDirent { name: name.to_vec(), node, kind: *block.get(at + 10)? });
        }
    }
    Some(entries)
}
