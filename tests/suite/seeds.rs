//! The fuzzers' seeds: one valid sample of each format, written by `cargo nextest run --run-ignored only
//! seeds`, and damaged by the test that decodes them.

use crate::support::objects;
use crate::support::rig::Rig;
use crate::support::tree::sample_tree;
use std::path::Path;
use understudy::database::cutter::Cutter;
use understudy::delta::signature;
use understudy::format::binlog_event::{FILE_MAGIC, Format, split};
use understudy::format::binlog_segment::{self, Link, SegmentPlace};
use understudy::format::{age, extent_list, frame};
use understudy::model::decision::Decision;
use understudy::model::entry::Extent;
use understudy::model::gtid::{GtidPosition, ServerId};
use understudy::model::id::{ChunkId, ContentHash, Epoch, WriterId};
use understudy::model::member::{May, Member};
use understudy::model::record::RingRef;
use understudy::repository::decide::Maker;
use understudy::repository::error::RepositoryError;
use understudy::support::signature::SigningKey;

/// Returns a secret for two holders, the first with the fuzzer's key.
fn age_file() -> Vec<u8> {
    let random = std::sync::Mutex::new(blake3::Hasher::new().finalize_xof());
    let holders = [1, 2].map(|n| age::Identity::new([n; 32]).recipient());
    age::close(b"a secret of so many bytes", &holders, &|bytes: &mut [u8]| random.lock().unwrap().fill(bytes))
        .unwrap()
}

#[test]
fn the_seed_of_an_age_file_opens_for_the_fuzzers_key() {
    let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/age/first")).unwrap();
    assert_eq!(*age::open(&file, &[age::Identity::new([1; 32])]).unwrap(), *b"a secret of so many bytes");
}

/// Writes a record with a decision, and a checkpoint of a store with members.
fn write_decisions(rig: &Rig, write: &dyn Fn(&str, &str, &[u8])) {
    let (host, key) = (WriterId("web-1".into()), SigningKey::of(&[1; 32]));
    let (address, zone) = (Some("web-1.example:9184".to_owned()), Some("a".to_owned()));
    let customers = None;
    let may = [May::Serve, May::Watch].into_iter().collect();
    let members =
        vec![Member { name: host.clone(), key: key.public(), address, customers, database: None, zone, may }];
    let mut state = rig.store().log().state().unwrap();
    let next = |_: &_| Ok::<_, RepositoryError>(Some(Decision::Members { members: members.clone() }));
    let decided = rig.store().log().decide(&mut state, Maker { name: &host, key: &key }, next);
    let sequence = decided.unwrap().unwrap().0;
    let at = object_store::path::Path::from(format!("acme/log/{sequence:020}"));
    write("record", "decided", &objects::read(rig, &at));
    let checkpoint = understudy::format::checkpoint::encode(&state, sequence, &Default::default(), None);
    write("checkpoint", "decided", &checkpoint.unwrap());
}

/// Returns the segment of a real server's file, which is a seed, too.
fn archived_segment() -> Vec<u8> {
    let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/binlog/file")).unwrap();
    let (first, mut events) = split(&file[FILE_MAGIC.len()..]).unwrap();
    let format = Format::parse(first).unwrap();
    let mut cutter = Cutter::new(Link::First, ServerId(11), GtidPosition::default());
    cutter.begin("bin.000001", &format, format.end(), None);
    while !events.is_empty() {
        let (event, rest) = split(events).unwrap();
        cutter.events.extend_from_slice(event);
        cutter.note(event.len()).unwrap();
        events = rest;
    }
    let place = SegmentPlace { epoch: Epoch(1), number: 1 };
    binlog_segment::encode(&cutter.cut(), 1, &Default::default(), place, None).unwrap()
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    // A fuzzer cannot open sealed objects.
    let rig = Rig::plain();
    sample_tree(&rig.source());
    std::fs::remove_file(rig.source().join("c/medium")).unwrap();
    std::fs::write(rig.source().join("c/sparse"), b"").unwrap();
    std::fs::File::options()
        .write(true)
        .open(rig.source().join("c/sparse"))
        .unwrap()
        .set_len(70_000)
        .unwrap();
    rig.resync();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(seeds.join(target)).unwrap();
        std::fs::write(seeds.join(target).join(name), bytes).unwrap();
    };
    let mut newest = Vec::new();
    for key in objects::keys(&rig, "") {
        let bytes = objects::read(&rig, &key);
        let target = match key.parts().nth(1).unwrap().as_ref() {
            "log" => "record",
            "packs" => "pack",
            "index" => "index",
            other => panic!("{other}"),
        };
        write(target, "first", &bytes);
        if target == "record" {
            newest = bytes.to_vec();
        }
        if target == "pack" {
            let mut decompressor = frame::Decompressor::new().unwrap();
            for found in frame::scan_pack(&bytes, None).0 {
                let frame::PackFrame { chunk: id, offset_bytes: offset, length_bytes: length, header } =
                    found;
                if header.kind == frame::ChunkType::Page as u8 {
                    let frame = bytes.slice(offset as usize..(offset + length) as usize);
                    write("page", "leaf", &decompressor.decode(&frame, id, offset, None).unwrap());
                }
            }
        }
    }
    let state = rig.store().log().state().unwrap();
    let checkpoint = understudy::format::checkpoint::encode(&state, 1, &Default::default(), None).unwrap();
    write("checkpoint", "first", &checkpoint);
    write_decisions(&rig, &write);
    let sealed = Rig::new();
    sealed.resync();
    let at = object_store::path::Path::from("acme/keys/0000000001");
    let ring = objects::read(&sealed, &at);
    // The first seed is of version 1, and stays as it is.
    write("keyring", "second", &ring);
    let (record, _) = understudy::format::record::decode(&newest, None, 1).unwrap();
    let ring = RingRef { sequence: 1, hash: ContentHash::of(b"ring") };
    let named = understudy::model::record::Record { ring: Some(ring), ..record };
    write("record", "named", &understudy::format::record::encode(&named, &Default::default(), None).unwrap());
    write("age", "first", &age_file());
    let chunk = ChunkId([1; 32]);
    let part = |offset_bytes, length_bytes| Extent::Chunk { chunk, blocks: None, offset_bytes, length_bytes };
    let signed = Extent::Chunk {
        chunk: ChunkId([2; 32]),
        blocks: Some(ChunkId([3; 32])),
        offset_bytes: 0,
        length_bytes: 1 << 20,
    };
    let extents = [Extent::Hole { length_bytes: 1 << 40 }, part(0, 1 << 20), part(0, 5), part(7, 9), signed];
    write("lists", "extents", &extent_list::encode_chunk(&extents));
    let content: Vec<u8> = (0..70_000u32).map(|n| (n >> 3) as u8).collect();
    let groups = [[7; 16]];
    write("delta", "one-run", &signature::sign(&content, &[70_000], 11, Some((1 << 20, &groups))));
    write("delta", "three-runs", &signature::sign(&content, &[2100, 60_000, 7900], 12, None));
    write("binlog", "segment", &archived_segment());
    let mut attributes = understudy::format::wire::Writer::default();
    understudy::format::attrs::encode(
        &[(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])],
        &mut attributes,
    );
    write("lists", "attributes", &attributes.0);
}
