//! The facts of a tree, read with the standard library and `walkdir`. Restores are judged by them; the code
//! shares nothing with the scanner.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Everything that a restore promises of each entry, as text.
pub type Facts = BTreeMap<Vec<u8>, String>;

pub fn of(root: &Path) -> Facts {
    let mut names_of_inode: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut facts = Facts::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            format!("file {} {}", meta.len(), blake3::hash(&std::fs::read(path).unwrap()).to_hex())
        } else if kind.is_symlink() {
            format!("symlink {:?}", std::fs::read_link(path).unwrap())
        } else if kind.is_block_device() || kind.is_char_device() {
            format!("device {:?} {}", kind, meta.rdev())
        } else {
            format!("{kind:?}")
        };
        let link = if kind.is_dir() || meta.nlink() == 1 {
            None
        } else {
            Some(names_of_inode.entry((meta.dev(), meta.ino())).or_insert(relative.clone()).clone())
        };
        let mode = if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        facts.insert(
            relative,
            format!(
                "{content} mode {mode:o} owner {}:{} mtime {}.{:09} link {link:?} attributes {:?}",
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                attributes(path),
            ),
        );
    }
    facts
}

pub fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    let mut all: Vec<_> = names[..length]
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}

/// Compares two trees. Panics with the first differences only, since a tree may have thousands.
pub fn assert_same(wanted: &Path, got: &Path, what: &str) {
    let (wanted, got) = (of(wanted), of(got));
    let show = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let mut differences = Vec::new();
    for (path, fact) in &wanted {
        match got.get(path) {
            Some(other) if other == fact => {}
            other => differences.push(format!("{}\n  wanted {fact}\n  got    {other:?}", show(path))),
        }
    }
    differences
        .extend(got.keys().filter(|p| !wanted.contains_key(*p)).map(|p| format!("{} is too much", show(p))));
    assert!(
        differences.is_empty(),
        "{what}: {} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(5)].join("\n")
    );
}
