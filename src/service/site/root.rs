//! The tree that a drill's programs see: this host's, with a layer over each filesystem that keeps changes in memory.
//!
//! What is no disk of this host's is made anew: processes, devices, the kernel's objects. A filesystem that cannot be
//! a layer is left out, and named. Mounts are made in a mount namespace of this process's own, whose mounts do not
//! spread; they end with it.

use crate::support::mountinfo::unescape;
use crate::vfs::error::MountError;
use crate::vfs::throw_away;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Filesystems of the kernel's own, and those whose servers may never answer.
const LEFT_OUT: [&str; 22] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];
/// What is made anew, with everything below.
const MADE_ANEW: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Devices that are no way out.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Maximum size of a file that is mounted, such as a container's list of hosts.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Where the files of a drill's own are in its tree.
pub(super) const OWN: &str = "/run/understudy-drill";
/// Where the gate's socket is: nobody else enters.
pub(super) const GATE_DIR: &str = "/run/understudy-drill/gate";

/// A tree that is being made.
pub(super) struct Root {
    /// The filesystem in memory.
    memory: PathBuf,
    /// The tree.
    pub dir: PathBuf,
    /// What is not shown in it, with the reasons.
    pub not_shown: Vec<String>,
    layers: usize,
}

fn at<T>(path: &Path) -> impl Fn(io::Error) -> Result<T, String> + '_ {
    move |error| Err(format!("{}: {error}", path.display()))
}

fn said(error: MountError) -> String {
    error.to_string()
}

/// Returns the path in the tree of one of this host's.
pub(super) fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns the mount points of a list of mounts, with their kinds, in the order of the mounts; each once.
fn mount_points(list: &[u8]) -> Vec<(PathBuf, String)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for line in list.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(dir) = fields.nth(4) else { continue };
        let Some(kind) = fields.skip_while(|field| *field != b"-").nth(1) else { continue };
        let dir = PathBuf::from(OsString::from_vec(unescape(dir)));
        if seen.insert(dir.clone()) {
            found.push((dir, String::from_utf8_lossy(kind).into_owned()));
        }
    }
    found
}

/// Returns whether a filesystem of a kind at a mount point gets a layer.
fn is_layered(dir: &Path, kind: &str) -> bool {
    let kind = kind.split('.').next().unwrap_or_default();
    !LEFT_OUT.contains(&kind) && !MADE_ANEW.iter().any(|anew| dir.starts_with(anew))
}

impl Root {
    /// Begins a tree in a directory, in a mount namespace of this process's own.
    pub fn begin(place: &Path, memory_bytes: u64) -> Result<Self, String> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(io::Error::from).or_else(at(Path::new("/")))?;
        let list = std::fs::read("/proc/self/mountinfo").or_else(at(Path::new("/proc/self/mountinfo")))?;
        throw_away::memory(memory_bytes, 0o700).and_then(|memory| memory.attach(place)).map_err(said)?;
        let dir = place.join("root");
        std::fs::create_dir(&dir).or_else(at(&dir))?;
        let mut root = Self { memory: place.to_owned(), dir, not_shown: Vec::new(), layers: 0 };
        root.layer(Path::new("/"))?;
        for (dir, kind) in mount_points(&list) {
            if dir == Path::new("/") || !is_layered(&dir, &kind) {
                continue;
            }
            if let Err(how) = root.show(&dir) {
                root.not_shown.push(format!("{}: {how}", dir.display()));
            }
        }
        root.anew()?;
        Ok(root)
    }

    /// Makes a directory in memory, for changes.
    pub fn changes(&self, name: &str) -> PathBuf {
        self.memory.join(name)
    }

    fn layer(&mut self, lower: &Path) -> Result<(), String> {
        let changes = self.memory.join(format!("layer-{}", self.layers));
        self.layers += 1;
        let (upper, work) = (changes.join("upper"), changes.join("work"));
        for dir in [&upper, &work] {
            std::fs::create_dir_all(dir).or_else(at(dir))?;
        }
        // The layer's root is that of the filesystem.
        let meta = std::fs::metadata(lower).or_else(at(lower))?;
        std::fs::set_permissions(&upper, meta.permissions()).or_else(at(&upper))?;
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid())).or_else(at(&upper))?;
        let target = within(&self.dir, lower);
        throw_away::over(lower, &upper, &work).and_then(|mount| mount.attach(&target)).map_err(said)
    }

    /// Shows what is mounted at a path.
    fn show(&mut self, path: &Path) -> Result<(), String> {
        let meta = std::fs::symlink_metadata(path).or_else(at(path))?;
        if meta.is_dir() {
            return self.layer(path);
        }
        if !meta.is_file() || meta.len() > FILE_MAX_BYTES {
            return Err("it is no directory, and no small file".to_owned());
        }
        let content = std::fs::read(path).or_else(at(path))?;
        self.put(path, &content, meta.permissions().mode() & 0o7777)
    }

    /// Writes a file of the tree, in place of what is there.
    pub fn put(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
        let target = within(&self.dir, path);
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return at(&target)(error),
            _ => {}
        }
        let parent = target.parent().unwrap_or(&self.dir);
        std::fs::create_dir_all(parent).or_else(at(parent))?;
        std::fs::write(&target, content).or_else(at(&target))?;
        std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).or_else(at(&target))
    }

    /// Makes a directory of the tree.
    pub fn directory(&self, path: &Path, mode: u32) -> Result<(), String> {
        let target = within(&self.dir, path);
        std::fs::create_dir_all(&target).or_else(at(&target))?;
        std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).or_else(at(&target))
    }

    /// Shows a directory of this host as it is: what is written there lies on its disk.
    pub fn bind(&self, path: &Path) -> Result<(), String> {
        let target = within(&self.dir, path);
        std::fs::create_dir_all(&target).or_else(at(&target))?;
        mount_bind(path, &target).map_err(io::Error::from).or_else(at(&target))
    }

    /// Makes what belongs to the kernel.
    fn anew(&self) -> Result<(), String> {
        for (path, mount) in [
            ("/proc", throw_away::processes as fn() -> Result<_, MountError>),
            ("/sys", throw_away::objects),
            ("/dev", || throw_away::memory(1 << 20, 0o755)),
        ] {
            self.directory(Path::new(path), 0o755)?;
            let target = within(&self.dir, Path::new(path));
            mount().and_then(|mount| mount.attach(&target)).map_err(said)?;
        }
        let dev = within(&self.dir, Path::new("/dev"));
        for name in DEVICES {
            let (from, target) = (Path::new("/dev").join(name), dev.join(name));
            if from.exists() {
                std::fs::write(&target, b"").or_else(at(&target))?;
                mount_bind(&from, &target).map_err(io::Error::from).or_else(at(&target))?;
            }
        }
        for (name, leads_to) in LINKS {
            symlink(leads_to, dev.join(name)).or_else(at(&dev))?;
        }
        for (name, mount) in [
            ("shm", (|| throw_away::memory(256 << 20, 0o1777)) as fn() -> Result<_, MountError>),
            ("pts", throw_away::terminals),
        ] {
            let target = dev.join(name);
            std::fs::create_dir(&target).or_else(at(&target))?;
            mount().and_then(|mount| mount.attach(&target)).map_err(said)?;
        }
        Ok(())
    }

    /// Makes the tree that of this process, and of all that it starts. The other one is out of reach.
    pub fn enter(&self) -> Result<(), String> {
        let wrong = |errno: rustix::io::Errno| format!("entering the tree: {}", io::Error::from(errno));
        rustix::process::chdir(&self.dir).map_err(wrong)?;
        // The former root lies over the new one at the same place, and is taken from there.
        rustix::process::pivot_root(".", ".").map_err(wrong)?;
        unmount(".", UnmountFlags::DETACH).map_err(wrong)?;
        rustix::process::chdir("/").map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mount_point_is_found_once_and_the_kernel_s_own_are_left_out() {
        let list = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /dev rw - devtmpfs udev rw\n\
            24 22 0:21 / /run rw,nosuid - tmpfs tmpfs rw\n\
            25 22 8:2 / /srv/a\\040b rw - xfs /dev/sdb rw\n\
            26 22 8:3 / /srv/a\\040b rw - ext4 /dev/sdc rw\n\
            27 23 0:30 / /dev/shm rw - tmpfs tmpfs rw\n\
            28 22 0:31 / /mnt/x rw - fuse.sshfs host rw\nbroken\n";
        let found = mount_points(list);
        let shown: Vec<_> = found
            .iter()
            .filter(|(dir, kind)| is_layered(dir, kind))
            .map(|(dir, _)| dir.to_str().unwrap())
            .collect();
        assert_eq!(shown, ["/", "/run", "/srv/a b"]);
    }

    #[test]
    fn a_path_stays_in_the_tree() {
        assert_eq!(within(Path::new("/new"), Path::new("/etc/hosts")), Path::new("/new/etc/hosts"));
        assert_eq!(within(Path::new("/new"), Path::new("/")), Path::new("/new"));
    }
}
