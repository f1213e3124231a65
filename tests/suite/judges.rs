//! Independent judges: composefs for the image, pjdfstest and fsx for the writable mount.

use crate::support::facts::{self, assert_same};
use crate::support::mount::MountPoint;
use crate::support::rig::Rig;
use crate::support::standby::{depot, follow_by, latest, request};
use crate::support::tree::all_kinds;
use composefs::erofs::format::FormatVersion;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use composefs::generic_tree::{FileSystem, Inode, LeafContent, LeafId, Stat};
use composefs::tree::{Directory, RegularFile};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use understudy::model::id::Sequence;
use understudy::mounts::mount::{self, MountOptions};
use understudy::vfs::overlay::{self, Layers};

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/tools.sh", path.display());
    path
}

/// A tree as composefs sees it. It shares no code with the scanner or the image's writer.
struct Reader {
    tree: FileSystem<RegularFile<Sha256HashValue>>,
    inodes: HashMap<u64, LeafId>,
}

impl Reader {
    fn stat(path: &Path) -> Stat {
        let meta = path.symlink_metadata().unwrap();
        let xattrs = facts::attributes(path).into_iter().map(|(name, value)| {
            (OsStr::new(&name).to_owned().into_boxed_os_str(), value.into_boxed_slice())
        });
        Stat {
            st_mode: meta.mode() & 0o7777,
            st_uid: meta.uid(),
            st_gid: meta.gid(),
            st_mtim_sec: meta.mtime(),
            st_mtim_nsec: meta.mtime_nsec() as u32,
            xattrs: xattrs.collect(),
        }
    }

    fn directory(&mut self, path: &Path) -> Directory<Sha256HashValue> {
        let mut directory = Directory::new(Self::stat(path));
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let inode = match entry.file_type().unwrap().is_dir() {
                true => Inode::Directory(Box::new(self.directory(&entry.path()))),
                false => Inode::leaf(self.leaf(&entry.path())),
            };
            assert!(directory.insert(&entry.file_name(), inode));
        }
        directory
    }

    fn leaf(&mut self, path: &Path) -> LeafId {
        let meta = path.symlink_metadata().unwrap();
        if let Some(id) = self.inodes.get(&meta.ino()) {
            return *id;
        }
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            LeafContent::Symlink(std::fs::read_link(path).unwrap().into_os_string().into_boxed_os_str())
        } else if kind.is_fifo() {
            LeafContent::Fifo
        } else if kind.is_socket() {
            LeafContent::Socket
        } else if kind.is_block_device() {
            LeafContent::BlockDevice(meta.rdev())
        } else if kind.is_char_device() {
            LeafContent::CharacterDevice(meta.rdev())
        } else if meta.len() == 0 {
            LeafContent::Regular(RegularFile::Inline(Box::default()))
        } else {
            // The name of the object with these bytes; composefs uses this field for its own digest, which
            // has the same length.
            let name = blake3::hash(&std::fs::read(path).unwrap()).to_hex();
            let id = Sha256HashValue::from_hex(name.as_bytes()).unwrap();
            LeafContent::Regular(RegularFile::ExternalNoVerity(id, meta.len()))
        };
        let id = self.tree.push_leaf(Self::stat(path), content);
        self.inodes.insert(meta.ino(), id);
        id
    }
}

fn by_composefs(source: &Path) -> Box<[u8]> {
    let mut reader = Reader { tree: FileSystem::new(Reader::stat(source)), inodes: HashMap::new() };
    reader.tree.root = reader.directory(source);
    mkfs_erofs_versioned(&ValidatedFileSystem::new(reader.tree).unwrap(), FormatVersion::V1)
}

#[test]
fn an_image_shows_what_that_of_composefs_shows() {
    let rig = Rig::new();
    let source = rig.source();
    all_kinds(&source);
    std::fs::create_dir(source.join("many")).unwrap();
    for number in 0..2000usize {
        let name = format!("{number}-{}", "n".repeat(number % 200));
        std::fs::write(source.join("many").join(name), number.to_string()).unwrap();
    }
    for length in [1, 31, 32, 33, 1000, 4000, 4095] {
        std::os::unix::fs::symlink("t".repeat(length), source.join(format!("to-{length}"))).unwrap();
    }
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let theirs = rig.dir.path().join("composefs.erofs");
    std::fs::write(&theirs, by_composefs(&source)).unwrap();
    let show = |image: &Path, name: &str| {
        let point = MountPoint::new(&rig.dir.path().join(name));
        let (objects, source) = (depot(&rig).objects(), "test".into());
        let layers = Layers { image: image.to_owned(), objects, source, upper: None, trusted: true };
        overlay::mount(&layers).unwrap().attach(&point.0).unwrap();
        point
    };
    let (theirs, ours) = (show(&theirs, "theirs"), show(&depot(&rig).image(Sequence(1)), "ours"));
    assert_same(&source, &theirs.0, "composefs");
    assert_same(&theirs.0, &ours.0, "ours, by composefs");
}

/// A store with a writable mount of its snapshot.
fn writable() -> (Rig, MountPoint) {
    let rig = Rig::new();
    all_kinds(&rig.source());
    // The tests' users must be able to pass through all directories above.
    for dir in [rig.dir.path(), &rig.source()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let point = MountPoint::new(&rig.dir.path().join("live"));
    let options = MountOptions { writable: Some(rig.dir.path().join("changes")), trusted: true };
    mount::mount(&depot(&rig), &latest(), &point.0, &options).unwrap();
    (rig, point)
}

/// Returns the cases of pjdfstest that fail in a directory of `root`, and the number of cases that pass.
fn failing(root: &Path) -> (BTreeSet<String>, usize) {
    let dir = root.join("pjdfstest");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pjdfstest.toml");
    let output = Command::new(tool("pjdfstest")).arg("-c").arg(config).arg("-p").arg(&dir).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let with = |verdict: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim_end().strip_suffix(verdict));
        lines.map(|name| name.trim().to_owned()).filter(|name| name.contains("::")).collect()
    };
    (with(" FAILED"), with(" ok").len())
}

#[test]
fn a_writable_mount_is_as_much_of_a_filesystem_as_an_overlay_is() {
    let (rig, point) = writable();
    let (failed, passed) = failing(&point.0);
    // All of them create the character device 0:0, which marks a deletion in an overlay and is refused by it.
    let known = include_str!("../pjdfstest-overlay.txt").lines().filter(|line| !line.starts_with('#'));
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    assert_eq!(failed, known);
    assert!(passed > 300, "{passed} pass");
    drop(rig);
}

#[test]
fn files_on_a_writable_mount_keep_what_is_written_to_them() {
    let (_rig, point) = writable();
    for (seed, name) in ["c/new", "c/medium", "a/b/f30"].into_iter().enumerate() {
        let file = point.0.join(name);
        let fsx = Command::new(tool("fsx"))
            .args(["-q", "-N", "3000", "-S", &seed.to_string(), "-P"])
            .arg(point.0.parent().unwrap())
            .arg(&file)
            .output()
            .unwrap();
        assert!(fsx.status.success(), "{name}: {}", String::from_utf8_lossy(&fsx.stderr));
        assert!(file.exists());
    }
}
