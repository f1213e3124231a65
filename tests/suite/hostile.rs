//! Promise 4: a forged manifest, pack or index results in a specific error, in bounded memory, and never in a
//! write outside the destination.

use crate::support::forge::{forge, leaf, payload, restore_page_to, root_of};
use crate::support::objects::{keys, read, write};
use crate::support::rig::{self, Rig, entry};
use crate::support::tree::random;
use std::sync::Arc;
use understudy::delta::{signature, weak};
use understudy::format::blocks;
use understudy::format::index as index_format;
use understudy::format::page::{self, Child};
use understudy::format::wire::Writer;
use understudy::model::entry::*;
use understudy::model::id::{ChunkId, ContentHash, IndexId, WriterId};
use understudy::model::record::{Event, ManifestRoot, ObjectRef, SnapshotRecord};
use understudy::model::tree_path::TreePath;
use understudy::repository::chunks::ChunkReader;
use understudy::repository::index::Index;
use understudy::repository::manifest::ManifestReader;
use understudy::restore::error::RestoreError;
use understudy::restore::request::RestoreReport;

/// Restores a manifest of one forged page.
fn restore_page(rig: &Rig, page: &[u8], height: u8, overwrite: bool) -> Result<RestoreReport, RestoreError> {
    let request = understudy::restore::request::RestoreRequest {
        existing: if overwrite {
            understudy::restore::request::Existing::Mirror
        } else {
            understudy::restore::request::Existing::Refuse
        },
        ..rig.restore_request("out")
    };
    restore_page_to(rig, page, height, &request)
}

#[test]
fn a_path_that_leads_out_is_an_error() {
    for path in ["../escape", "a/../../escape", "/tmp/escape", "a//b", "."] {
        let rig = Rig::new();
        let mut page = leaf(&[entry("", Kind::Directory)]);
        let mut forged = Writer::default();
        forged.number(0);
        forged.bytes(path.as_bytes());
        // A fifo whose numbers are all zero.
        forged.raw(&[7, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut harmless = page.clone();
        harmless.extend([0, 1, b'a', 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(understudy::format::page::decode(&harmless).is_ok(), "it is the path that is refused");
        page.extend(forged.0);
        let error = restore_page(&rig, &page, 0, false).unwrap_err();
        assert!(error.to_string().contains("page"), "{path}: {error}");
        assert!(!rig.dir.path().join("escape").exists());
    }
}

#[test]
fn an_entry_below_a_symlink_or_a_file_is_told_and_left_out() {
    let outside = |rig: &Rig| rig.dir.path().join("outside");
    for below in [Kind::Symlink { target: b"../outside".to_vec() }, payload("x").kind] {
        let rig = Rig::new();
        std::fs::create_dir(outside(&rig)).unwrap();
        let page = leaf(&[entry("", Kind::Directory), entry("a", below), payload("a/planted")]);
        let warnings = restore_page(&rig, &page, 0, false).unwrap().warnings;
        assert_eq!((warnings.missing, warnings.first[0].path.as_str()), (1, "a/planted"), "{warnings:?}");
        assert_eq!(std::fs::read_dir(outside(&rig)).unwrap().count(), 0);
    }
}

#[test]
fn nothing_is_written_through_a_symlink_in_the_destination() {
    let rig = Rig::new();
    let outside = rig.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(rig.dir.path().join("out")).unwrap();
    std::os::unix::fs::symlink(&outside, rig.dir.path().join("out/a")).unwrap();
    let page = leaf(&[entry("", Kind::Directory), entry("a", Kind::Directory), payload("a/file")]);
    restore_page(&rig, &page, 0, true).unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(std::fs::read(rig.dir.path().join("out/a/file")).unwrap(), b"payload");
    // A destination that is itself a symlink is refused.
    let rig = Rig::new();
    std::fs::create_dir(rig.dir.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("outside", rig.dir.path().join("out")).unwrap();
    assert!(matches!(restore_page(&rig, &page, 0, true), Err(RestoreError::NotADirectory(_))));
}

#[test]
fn a_file_whose_lengths_do_not_fit_its_chunks_is_told_and_left_out() {
    let chunk = ChunkId::of(b"payload");
    let file = |size_bytes, content| {
        entry("f", Kind::File(File { size_bytes, hash: ContentHash(chunk.0), content, torn: false }))
    };
    let beyond = Extent::Chunk { chunk, blocks: None, offset_bytes: 3, length_bytes: 100 };
    for bad in [
        file(100, Content::Extents(vec![beyond])),
        file(9, Content::Whole { blocks: None }),
        file(7, Content::Lists(vec![chunk])),
        file(1 << 40, Content::Lists(vec![])),
        // A hole of an exabyte: the hash is wrong, but the disk must not fill and the run must end.
        file(7, Content::Lists(vec![chunk, chunk])),
    ] {
        let rig = Rig::new();
        let page = leaf(&[entry("", Kind::Directory), bad]);
        let warnings = restore_page(&rig, &page, 0, false).unwrap().warnings;
        assert_eq!((warnings.damaged, warnings.first[0].path.as_str()), (1, "f"), "{warnings:?}");
        // Nothing exists under its name, nor under another.
        assert_eq!(std::fs::read_dir(rig.dir.path().join("out")).unwrap().count(), 0);
    }
}

#[test]
fn a_manifest_whose_root_is_missing_or_of_another_height_is_an_error() {
    let rig = Rig::new();
    let page = leaf(&[entry("", Kind::Directory)]);
    assert!(restore_page(&rig, &page, 1, false).is_err());
    assert!(restore_page(&rig, &page, 200, false).is_err());
    assert!(restore_page(&rig, b"", 0, false).is_err());
    assert!(restore_page(&rig, b"N", 1, false).is_err());
}

#[test]
fn a_page_that_names_itself_ends() {
    // A page cannot contain its own hash; still, the height bounds every descent.
    let rig = Rig::new();
    let mut node = understudy::format::page::NodeWriter::default();
    node.push(&understudy::format::page::Child {
        first: TreePath::root(),
        page: ChunkId([1; 32]),
        entries: u64::MAX,
        size_bytes: u64::MAX,
    });
    assert!(restore_page(&rig, &node.finish(), 12, false).is_err());
}

/// Makes a manifest of one page the head of the rig's store, with these chunks next to it.
fn forge_head(rig: &Rig, page: &[u8], chunks: &[&[u8]]) {
    forge(rig, root_of(page), &[chunks, &[page]].concat());
}

#[test]
fn block_entries_that_are_wrong_make_a_file_be_shipped_whole() {
    let content = random(b"content", 6_000_000);
    let other = random(b"other", 300_000);
    let honest = signature::sign(&other, &[300_000], 11, None);
    let short = signature::sign(&other[..5000], &[5000], 11, None);
    // Checksums of the content, with hashes of other data.
    let weak: Vec<u32> = content.chunks_exact(2048).take(146).map(weak::weak).collect();
    let lies = blocks::encode(
        blocks::Shape { runs: &[299_008], block_log2: 11, origin: Some(0) },
        &[[0; 16]; 4],
        &weak,
        &[[0; 16]; 146],
    );
    for (what, entries) in
        [("honest", &honest[..]), ("short", &short), ("lies", &lies), ("garbage", b"garbage"), ("empty", b"")]
    {
        for named in [ChunkId::of(entries), ChunkId([9; 32])] {
            let rig = Rig::new();
            std::fs::write(rig.source().join("dump"), &content).unwrap();
            let part = |offset_bytes| Extent::Chunk {
                chunk: ChunkId::of(&other),
                blocks: Some(named),
                offset_bytes,
                length_bytes: 290_000,
            };
            let extents: Vec<_> = (0..8).map(|n| part(n * 1000)).collect();
            let (size_bytes, hash) = (8 * 290_000, ContentHash([3; 32]));
            let file = File { size_bytes, hash, content: Content::Extents(extents), torn: false };
            let page = leaf(&[entry("", Kind::Directory), entry("dump", Kind::File(file))]);
            forge_head(&rig, &page, &[&other, entries]);
            let report = rig.resync();
            assert_eq!(report.new_bytes, content.len() as u64, "{what}");
            let out = rig.restored(understudy::model::snapshot_ref::Moment::Latest);
            assert!(std::fs::read(out.join("dump")).unwrap() == content, "{what}");
        }
    }
}

/// Returns the reference that a node makes to this page.
fn child_of(first: &TreePath, page: &[u8]) -> Child {
    let ManifestRoot { page, entries, size_bytes, .. } = root_of(page);
    Child { first: first.clone(), page, entries, size_bytes }
}

/// Returns a manifest of generated pages that is wrong in some way, or in none.
fn made_up(seed: u64) -> (ManifestRoot, Vec<Vec<u8>>) {
    let mut draws = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut draw = move |below: usize| {
        let mut bytes = [0; 8];
        draws.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % below as u64) as usize
    };
    // A tree of some directories and files.
    let mut entries = vec![entry("", Kind::Directory)];
    for first in ["a", "b", "c", "d"] {
        if draw(3) == 0 {
            entries.push(payload(first));
            continue;
        }
        entries.push(entry(first, Kind::Directory));
        for second in ["x", "y", "z"] {
            let path = format!("{first}/{second}");
            match draw(4) {
                0 => entries.push(entry(&path, Kind::Symlink { target: b"to".to_vec() })),
                1 => entries.extend([entry(&path, Kind::Directory), payload(&format!("{path}/deep"))]),
                _ => entries.push(payload(&path)),
            }
        }
    }
    let wrong = draw(12);
    let at = 1 + draw(entries.len() - 1);
    match wrong {
        // An entry without the one before it, or without the root.
        0 => drop(entries.remove(at)),
        1 => drop(entries.remove(0)),
        2 => entries[at].kind = Kind::Fifo,
        _ => {}
    }
    let mut pages = Vec::new();
    let mut level: Vec<Child> = Vec::new();
    let mut rest = &entries[..];
    while !rest.is_empty() {
        let (here, behind) = rest.split_at((1 + draw(5)).min(rest.len()));
        let bytes = leaf(here);
        level.push(child_of(&here[0].path, &bytes));
        pages.push(bytes);
        rest = behind;
    }
    let mut height = 0;
    while level.len() > 1 || height == 0 {
        let which = draw(level.len());
        match wrong {
            3 if height == draw(2) => {
                let other = draw(level.len());
                let page = level[which].page;
                level[which].page = level[other].page;
                level[other].page = page;
            }
            4 => level[which].entries += 1,
            5 => level[which].size_bytes += 1,
            6 => level[which].first = TreePath::parse(b"a/y!").unwrap(),
            7 if level.len() > 1 => drop(level.remove(which)),
            8 => level[which].page = ChunkId([7; 32]),
            _ => {}
        }
        let mut above = Vec::new();
        for children in level.chunks(2 + draw(3)) {
            let mut node = page::NodeWriter::default();
            children.iter().for_each(|child| node.push(child));
            let bytes = node.finish();
            above.push(child_of(&children[0].first, &bytes));
            pages.push(bytes);
        }
        level = above;
        height += 1;
    }
    let Child { page, entries, size_bytes, .. } = level.remove(0);
    let height = if wrong == 9 { height + 1 } else { height } as u8;
    (ManifestRoot { page, height, entries, size_bytes }, pages)
}

#[test]
fn what_verify_calls_sound_is_what_a_restore_takes() {
    let (mut sound, mut unsound) = (0, 0);
    for seed in 0..400 {
        let rig = Rig::plain();
        let (root, pages) = made_up(seed);
        let mut chunks: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
        chunks.push(b"payload");
        forge(&rig, root.clone(), &chunks);
        let report = rig.verify();
        let moment = understudy::model::snapshot_ref::Moment::Latest;
        let restored = rig::restore_at(&rig.store(), moment, &rig.restore_request("out"));
        let streamed = ManifestReader::new(ChunkReader::new(
            rig.store(),
            Arc::new(Index::open(&rig.store(), &rig.store().log().state().unwrap()).unwrap()),
        ))
        .entries(&root)
        .collect::<Result<Vec<_>, _>>();
        if !report.is_sound() {
            unsound += 1;
            continue;
        }
        sound += 1;
        let restored = restored.unwrap_or_else(|error| panic!("seed {seed}: sound, and {error}"));
        assert_eq!(restored.warnings, Default::default(), "seed {seed}");
        let count = walkdir::WalkDir::new(rig.dir.path().join("out")).into_iter().count() as u64;
        assert_eq!((count, streamed.unwrap().len() as u64), (root.entries, root.entries), "seed {seed}");
    }
    assert!(sound > 80 && unsound > 150, "{sound} sound, {unsound} not");
}

#[test]
fn an_index_that_leads_to_other_bytes_is_not_called_sound() {
    let rig = Rig::plain();
    for name in ["one", "two", "three"] {
        std::fs::write(rig.source().join(name), name.repeat(100)).unwrap();
    }
    rig.resync();
    let object = read(&rig, &keys(&rig, "acme/index/")[0]);
    let table = index_format::open(&object, None).unwrap();
    let header = index_format::check(&table).unwrap();
    let entries = table[header.entries_offset as usize..].as_chunks::<{ index_format::ENTRY_BYTES }>().0;
    let mut entries: Vec<_> =
        entries.iter().take(header.entries as usize).map(index_format::decode_entry).collect();
    // Every chunk's location is that of another one.
    let places: Vec<_> = entries.iter().map(|entry| (entry.offset_bytes, entry.length_bytes)).collect();
    for (entry, place) in entries.iter_mut().zip(places.iter().cycle().skip(1)) {
        (entry.offset_bytes, entry.length_bytes) = *place;
    }
    let forged = index_format::encode(&header.packs, &mut entries);
    let forged = index_format::close(&forged, &Default::default(), None).unwrap();
    let id = IndexId::of(&forged);
    let at = object_store::path::Path::from(format!("acme/index/{id}"));
    write(&rig, &at, forged.clone());
    let mut state = rig.store().log().state().unwrap();
    let (_, last) = state.latest().unwrap();
    let reference = ObjectRef { id, size_bytes: forged.len() as u64 };
    let record = SnapshotRecord {
        new_packs: Vec::new(),
        new_index: vec![reference],
        merged_index: state.index.iter().map(|segment| segment.id).collect(),
        ..last.clone()
    };
    let writer = WriterId("forger".into());
    let event = Event::Snapshot(Box::new(record));
    rig.store().log().append(&mut state, &writer, event).unwrap();
    let report = rig.verify();
    assert!(!report.is_sound() && report.touched_count > 0, "{report:?}");
    assert!(
        report.problems[0].problem.contains("not at the place that the index names"),
        "{:?}",
        report.problems
    );
}
