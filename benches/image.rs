//! Measures the time and memory to make the image of a snapshot with 1,000,000 files: `cargo bench --bench
//! image`. `fsck.erofs` checks the image.

// The program prints figures.
#![allow(clippy::disallowed_macros)]
// The time of this real process is measured.
#![allow(clippy::disallowed_methods)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;
use understudy::model::entry::{Content, Entry, File, Fingerprint, Kind, Timestamp, Xattrs};
use understudy::model::id::{ChunkId, ContentHash};
use understudy::model::tree_path::TreePath;
use understudy::vfs::erofs::image::Image;

const DIRECTORIES: u32 = 10_000;
const FILES_EACH: u32 = 100;

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: TreePath::parse(path.as_bytes()).unwrap(),
        kind,
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 },
        xattrs: Xattrs::None,
        hardlink: None,
        fingerprint: Fingerprint::default(),
    }
}

fn entries() -> impl Iterator<Item = Entry> {
    let root = std::iter::once(entry(String::new(), Kind::Directory));
    root.chain((0..DIRECTORIES).flat_map(|directory| {
        let path = format!("module-{directory:05}");
        let files = (0..FILES_EACH).map({
            let path = path.clone();
            move |file| {
                let hash = ContentHash::of(&[directory.to_le_bytes(), file.to_le_bytes()].concat());
                let size_bytes = u64::from(file) * 77 + 1;
                let content = Content::Extents(vec![understudy::model::entry::Extent::Chunk {
                    chunk: ChunkId(hash.0),
                    blocks: None,
                    offset_bytes: 0,
                    length_bytes: size_bytes as u32,
                }]);
                let kind = Kind::File(File { size_bytes, hash, content, torn: false });
                entry(format!("{path}/Controller{file:03}.php"), kind)
            }
        });
        std::iter::once(entry(path, Kind::Directory)).chain(files)
    }))
}

/// Returns the peak memory of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    let made = Instant::now();
    let count = entries().count();
    let making = made.elapsed();
    let begun = Instant::now();
    let mut image = Image::default();
    for entry in entries() {
        image.push(&entry, &Vec::new()).unwrap();
    }
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path).unwrap());
    let report = image.write([7; 16], &mut out).unwrap();
    out.flush().unwrap();
    out.get_ref().sync_all().unwrap();
    let seconds = begun.elapsed().saturating_sub(making).as_secs_f64();
    println!(
        "{count} entries: {seconds:.2} s (without making up the entries), peak {} MiB, image of {} MiB",
        peak_mib(),
        report.image_bytes >> 20
    );
    let checked = Command::new("fsck.erofs").arg(&path).stdout(Stdio::null()).status();
    assert!(checked.is_ok_and(|status| status.success()), "fsck.erofs (package erofs-utils) finds it sound");
}
