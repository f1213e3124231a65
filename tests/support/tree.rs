//! Source trees, and the bytes of their files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Returns bytes that do not compress, the same for the same seed.
pub fn random(seed: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Creates a small tree with every kind of entry that is cheap to make.
pub fn sample_tree(root: &Path) {
    for dir in ["a/b", "c", "empty"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for number in 0..40u32 {
        let body = format!("file {number}\n").repeat(number as usize * 3 + 1);
        std::fs::write(root.join(format!("a/b/f{number}")), body).unwrap();
    }
    std::fs::write(root.join("c/empty"), b"").unwrap();
    let mut random = vec![0; 2_500_000];
    blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut random);
    std::fs::write(root.join("c/medium"), &random).unwrap();
    std::os::unix::fs::symlink("b/f1", root.join("a/link")).unwrap();
    std::fs::hard_link(root.join("a/b/f2"), root.join("c/hard")).unwrap();
}

fn assert_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root: owners, devices, trusted attributes"
    );
}

/// Creates a tree with every kind of entry and metadata.
pub fn all_kinds(root: &Path) {
    assert_root();
    sample_tree(root);
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
    let node =
        |name: &str, kind, dev| mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), dev).unwrap();
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("loop", FileType::BlockDevice, makedev(7, 200));
    std::os::unix::fs::symlink("/nowhere/at all", root.join("dangling")).unwrap();
    std::fs::hard_link(root.join("fifo"), root.join("a/fifo-too")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"not utf-8 \xff\xfe\n")), b"x").unwrap();
    std::fs::write(root.join("n".repeat(255)), b"long name").unwrap();
    for (name, mode) in [("suid", 0o4755), ("sgid", 0o2755), ("sticky", 0o1777), ("none", 0), ("ro", 0o400)] {
        std::fs::write(root.join(name), name).unwrap();
        std::os::unix::fs::chown(root.join(name), Some(1234), Some(2345)).unwrap();
        std::fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::lchown(root.join("dangling"), Some(5), Some(6)).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("a", "user.comment", b"a directory");
    set("c/medium", "user.small", b"x");
    set("c/medium", "user.large", &[7; 3000]);
    set("dangling", "trusted.link", b"on the symlink itself");
    set("fifo", "trusted.fifo", b"on a fifo");
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("suid", "security.capability", &capability);
    let acl = |args: &[&str]| {
        assert!(Command::new("setfacl").args(args).current_dir(root).status().unwrap().success())
    };
    acl(&["-m", "u:1234:rwx,g:99:r", "c/medium"]);
    acl(&["-d", "-m", "u:1234:rx", "a"]);
    std::fs::create_dir_all(root.join("a/after-default-acl")).unwrap();
    std::fs::write(root.join("a/after-default-acl/file"), b"inherits").unwrap();
    let time = |name: &str, seconds: &str| {
        let status = Command::new("touch").args(["-h", "-d", seconds]).arg(root.join(name)).status().unwrap();
        assert!(status.success());
    };
    time("dangling", "1999-12-31T23:59:59.123456789Z");
    time("c/medium", "1960-01-01T00:00:00.999999999Z");
    time("c", "2001-02-03T04:05:06.000000007Z");
    time("empty", "2100-01-01T00:00:00Z");
}

pub fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|e| e.file_type().is_file())
        .map(|e| e.into_path())
        .collect()
}
