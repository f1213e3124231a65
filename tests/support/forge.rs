//! Manifests that somebody made up.

use super::rig::{Rig, entry};
use std::sync::Arc;
use understudy::format::frame::{ChunkType, Compressor};
use understudy::format::page::{self, LeafWriter, Page};
use understudy::model::entry::*;
use understudy::model::hold::FilesystemId;
use understudy::model::id::{ChunkId, ContentHash, WriterId};
use understudy::model::record::{Event, ManifestRoot, SnapshotRecord};
use understudy::repository::chunks::ChunkReader;
use understudy::repository::index::Index;
use understudy::repository::packer::Packer;
use understudy::restore::error::RestoreError;
use understudy::restore::request::{RestoreReport, RestoreRequest};
use understudy::restore::run::restore;
use understudy::support::clock::UnixNanos;
use understudy::support::progress::Progress;

pub fn leaf(entries: &[Entry]) -> Vec<u8> {
    let mut writer = LeafWriter::default();
    entries.iter().for_each(|e| writer.push(e));
    writer.finish()
}

/// Returns what a record would say of a manifest with this page, if it is one.
pub fn root_of(page: &[u8]) -> ManifestRoot {
    let (entries, size_bytes) = match page::decode(page) {
        Ok(Page::Leaf(entries)) => (
            entries.len() as u64,
            entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.size_bytes())),
        ),
        Ok(Page::Node(children)) => {
            let add = |sum: u64, more: u64| sum.saturating_add(more);
            (
                children.iter().map(|c| c.entries).fold(0, add),
                children.iter().map(|c| c.size_bytes).fold(0, add),
            )
        }
        Err(_) => (1, 0),
    };
    ManifestRoot { page: ChunkId::of(page), height: 0, entries, size_bytes }
}

pub fn payload(path: &str) -> Entry {
    let hash = ContentHash::of(b"payload");
    entry(
        path,
        Kind::File(File { size_bytes: 7, hash, content: Content::Whole { blocks: None }, torn: false }),
    )
}

pub fn restore_page_to(
    rig: &Rig,
    page: &[u8],
    height: u8,
    request: &RestoreRequest,
) -> Result<RestoreReport, RestoreError> {
    let index = Arc::new(Index::open(&rig.store(), &Default::default()).unwrap());
    let packer = Packer::new(rig.store(), index.clone());
    let mut compressor = Compressor::new(1).unwrap();
    let id = ChunkId::of(page);
    for (id, raw) in [(id, page), (ChunkId::of(b"payload"), b"payload")] {
        packer.add(id, ChunkType::Page, raw, &mut compressor, &mut Vec::new()).unwrap();
    }
    packer.close().unwrap();
    let root = ManifestRoot { height, ..root_of(page) };
    restore(ChunkReader::new(rig.store(), index), &root, "tag", request, &Progress::default())
}

/// Makes a manifest the head of the rig's store, with these chunks in a pack.
pub fn forge(rig: &Rig, manifest: ManifestRoot, chunks: &[&[u8]]) {
    rig.store().keyrings().begin_writing(true).unwrap();
    let index = Arc::new(Index::open(&rig.store(), &Default::default()).unwrap());
    let packer = Packer::new(rig.store(), index.clone());
    let mut compressor = Compressor::new(1).unwrap();
    for raw in chunks {
        packer.add(ChunkId::of(raw), ChunkType::Page, raw, &mut compressor, &mut Vec::new()).unwrap();
    }
    let shipped = packer.close().unwrap();
    let mut state = rig.store().log().state().unwrap();
    let record = SnapshotRecord {
        manifest,
        scan_start: UnixNanos(1),
        scan_end: UnixNanos(2),
        source_path: String::new(),
        filesystem: FilesystemId { magic: 0, id: 0, root_inode: 0, mounts: None },
        statistics: Default::default(),
        new_packs: shipped.packs,
        new_index: index.added(&[], &state),
        index: Vec::new(),
        merged_index: Vec::new(),
        database_position: None,
        full_scan_start: None,
    };
    let event = Event::Snapshot(Box::new(record));
    rig.store().log().append(&mut state, &WriterId("forger".into()), event).unwrap();
}
