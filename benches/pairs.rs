//! Whether `fast_rsync` would save anything where an old and a new version of the program's own data are both at hand:
//! `cargo bench --bench pairs`.
//!
//! Each row is stored in three ways: whole; as `fast_rsync`'s delta against the version before; and by Zstandard alone with the
//! version before as its dictionary. All of them are compressed. Times are CPU time; a delta is applied before it counts.

// Figures are what it prints.
#![allow(clippy::disallowed_macros)]

#[path = "support/cpu.rs"]
mod cpu;

use cpu::cpu_seconds;
use rustix::time::ClockId;
use understudy::format::{extent_list, page};
use understudy::model::entry::{Content, Entry, Extent, File, Fingerprint, Kind, Timestamp, Xattrs};
use understudy::model::hold::FilesystemId;
use understudy::model::id::{ChunkId, ContentHash, IndexId, PackId, Sequence};
use understudy::model::record::{ManifestRoot, ObjectRef, SnapshotRecord, StoreState};
use understudy::model::tree_path::TreePath;
use understudy::support::clock::UnixNanos;
use understudy::vfs::erofs::image::Image;

/// The version before, the version, and the size of the blocks.
struct Pair {
    name: &'static str,
    old: Vec<u8>,
    new: Vec<u8>,
    block_size: u32,
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text of orders, as dumps and logs have it.
fn text(from: u64, to: u64) -> Vec<u8> {
    let line = |n: u64| {
        let hash = blake3::hash(&n.to_le_bytes());
        format!(
            "INSERT INTO sales_order VALUES ({n},'{}',{}.95,'2026-11-{:02}');\n",
            &hash.to_hex()[..12],
            n % 1000,
            n % 30 + 1
        )
    };
    (from..to).flat_map(|n| line(n).into_bytes()).collect()
}

fn chunk(number: u64) -> ChunkId {
    ChunkId::of(&number.to_le_bytes())
}

fn entry(path: String, kind: Kind, time: i64) -> Entry {
    Entry {
        path: TreePath::parse(path.as_bytes()).unwrap(),
        kind,
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime: Timestamp { seconds: 1_700_000_000 + time, nanos: 123_456_789 },
        xattrs: Xattrs::None,
        hardlink: None,
        fingerprint: Fingerprint::default(),
    }
}

/// A tree of 1,000 directories with 100 files each, of which every `changed`-th has another content, and every `missing`-th is not there.
fn tree(changed: u64, missing: u64) -> impl Iterator<Item = Entry> {
    let every = |number: u64, step: u64| step > 0 && number % step == step / 2;
    let root = std::iter::once(entry(String::new(), Kind::Directory, 0));
    root.chain((0..1000u64).flat_map(move |directory| {
        let path = format!("module-{directory:05}");
        let directory_entry = std::iter::once(entry(path.clone(), Kind::Directory, 0));
        let numbers = (directory * 100..(directory + 1) * 100).filter(move |n| !every(*n, missing));
        directory_entry.chain(numbers.map(move |number| {
            let version = u64::from(every(number, changed));
            let hash = ContentHash(chunk(number + version * 1_000_000).0);
            let size_bytes = number % 100 * 77 + 1;
            let content = Content::Whole { blocks: None };
            let kind = Kind::File(File { size_bytes, hash, content, torn: false });
            entry(format!("{path}/Controller{number:06}.php"), kind, (number + version * 3600) as i64)
        }))
    }))
}

/// The pages of a manifest that another one has not.
fn leaves(entries: impl Iterator<Item = Entry>) -> Vec<Vec<u8>> {
    let (mut leaves, mut writer) = (Vec::new(), page::LeafWriter::default());
    for entry in entries {
        writer.push(&entry);
        if page::ends_page(&entry.path, writer.len_bytes()) {
            leaves.push(writer.finish());
        }
    }
    leaves.push(writer.finish());
    leaves
}

fn image(entries: impl Iterator<Item = Entry>) -> Vec<u8> {
    let (mut image, mut out) = (Image::default(), Vec::new());
    entries.for_each(|entry| image.push(&entry, &Vec::new()).unwrap());
    image.write([7; 16], &mut out).unwrap();
    out
}

/// A checkpoint's text: 150 snapshots, the last ones hours apart, and what was pruned in between.
fn checkpoint(head: u64) -> Vec<u8> {
    let record = |number: u64| SnapshotRecord {
        manifest: ManifestRoot {
            page: chunk(number),
            height: 2,
            entries: 131_069,
            size_bytes: 1_134_600_000 + number,
        },
        scan_start: UnixNanos(1_800_000_000_000_000_000 + number * 3_600_000_000_000),
        scan_end: UnixNanos(1_800_000_000_900_000_000 + number * 3_600_000_000_000),
        source_path: "/srv/shop".into(),
        filesystem: FilesystemId { magic: 0xEF53, id: 7, root_inode: 2, mounts: None },
        statistics: Default::default(),
        new_packs: Vec::new(),
        new_index: Vec::new(),
        index: Vec::new(),
        database_position: None,
        merged_index: Vec::new(),
        full_scan_start: None,
    };
    let kept = (0..150).map(|n| if n < 100 { n * 24 } else { head - 150 + n });
    let segments =
        (0..12).map(|n| ObjectRef { id: IndexId(chunk(head / 128 * 3 + n).0), size_bytes: 10_000 * n });
    let state = StoreState {
        head: Some((Sequence(head), ContentHash(chunk(head).0))),
        snapshots: kept.map(|n| (Sequence(n), record(n))).collect(),
        index: segments.collect(),
        doomed_packs: (0..20)
            .map(|n| {
                (
                    PackId(chunk(head + n).0),
                    understudy::model::record::Doom { sequence: Sequence(head - n), at: UnixNanos(n) },
                )
            })
            .collect(),
        ..Default::default()
    };
    serde_json::to_vec(&state).unwrap()
}

/// A list of 3,000 extents; in a version that moved each begins elsewhere.
fn list(moved: u32, edited: u64) -> Vec<u8> {
    let extents: Vec<_> = (0..3000u64)
        .map(|number| Extent::Chunk {
            chunk: chunk(number / 8 + if number % 100 == 50 { edited } else { 0 }),
            blocks: Some(chunk(number / 8 + 500_000)),
            offset_bytes: (number % 8) as u32 * (128 << 10) + moved,
            length_bytes: 100_000,
        })
        .collect();
    extent_list::encode_chunk(&extents)
}

fn pairs() -> Vec<Pair> {
    let pair = |name, old, new, block_size| Pair { name, old, new, block_size };
    let small = text(0, 2500);
    let line_changed = [&text(0, 1200)[..], b"-- changed\n", &text(1201, 2500)[..]].concat();
    let appended = [&small[..], &text(2500, 2550)[..]].concat();
    let (base, edited) = (
        random(1, 200_000),
        [&random(1, 200_000)[..90_000], &random(2, 4096), &random(1, 200_000)[94_096..]].concat(),
    );
    let (old, new) = (leaves(tree(0, 0)), leaves(tree(10_000, 0)));
    let page = old.iter().zip(&new).find(|(old, new)| old != new).unwrap();
    vec![
        pair("text of 200 KB, a line changed", small.clone(), line_changed, 512),
        pair("text of 200 KB, 50 lines appended", small, appended, 512),
        pair("200 KB that do not compress, 4 KiB changed", base, edited, 512),
        pair("a page of a manifest, one file changed", page.0.clone(), page.1.clone(), 256),
        pair("a list of 3,000 extents, 1 % edited", list(0, 0), list(0, 700_000), 256),
        pair("a list of 3,000 extents, all moved", list(0, 0), list(16, 0), 256),
        pair("a checkpoint, 128 records later", checkpoint(87_600), checkpoint(87_728), 512),
        pair("an image, 100 of 100,000 files changed", image(tree(0, 0)), image(tree(1000, 0)), 2048),
        pair("an image, 10 of 100,000 files gone", image(tree(0, 0)), image(tree(0, 10_000)), 2048),
    ]
}

/// The CPU time of a work in milliseconds, the fastest of five.
fn fastest<T>(work: impl Fn() -> T) -> (f64, T) {
    let runs = (0..5).map(|_| {
        let begun = cpu_seconds(ClockId::ThreadCPUTime);
        let made = work();
        ((cpu_seconds(ClockId::ThreadCPUTime) - begun) * 1e3, made)
    });
    runs.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn main() {
    println!("| KiB, ms | plain KiB | zstd KiB | ms | fast_rsync KiB | ms | zstd with dictionary KiB | ms |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for Pair { name, old, new, block_size } in pairs() {
        let (whole_ms, whole) = fastest(|| zstd::bulk::compress(&new, 1).unwrap());
        let options = fast_rsync::SignatureOptions { block_size, crypto_hash_size: 16 };
        let (delta_ms, (delta, packed)) = fastest(|| {
            let signature = fast_rsync::Signature::calculate(&old, options);
            let mut delta = Vec::new();
            fast_rsync::diff(&signature.index(), &new, &mut delta).unwrap();
            let packed = zstd::bulk::compress(&delta, 1).unwrap();
            (delta, packed)
        });
        let mut made = Vec::new();
        fast_rsync::apply_limited(&old, &delta, &mut made, new.len()).unwrap();
        assert!(made == new, "{name}");
        let (dictionary_ms, by_dictionary) =
            fastest(|| zstd::bulk::Compressor::with_dictionary(1, &old).unwrap().compress(&new).unwrap());
        let kib = |bytes: &[u8]| bytes.len() as f64 / 1024.0;
        println!(
            "| {name} | {:.1} | {:.1} | {whole_ms:.2} | {:.1} | {delta_ms:.2} | {:.1} | {dictionary_ms:.2} |",
            kib(&new),
            kib(&whole),
            kib(&packed),
            kib(&by_dictionary)
        );
    }
}
