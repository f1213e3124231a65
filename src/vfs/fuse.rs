//! A tree that never changes, served to the kernel by FUSE.
//!
//! The kernel keeps every answer as long as it likes: names, attributes, content, and the absence of a name.
//! Files are not opened here, unless their bytes lie in a local file that the kernel can read by itself
//! (passthrough), which requires root.
//!
//! As root the mount is made detached, as in `overlay`, and attached by the caller; for other users
//! `fusermount3` makes it. Several threads serve requests at the same time; the tree must allow that.

use super::context::Context;
use super::error::MountError;
use super::overlay::Detached;
use crate::model::entry::{Attributes, Entry, Kind, Timestamp};
use crate::support::env::Env;
use crate::support::lock::lock;
use fuser::{
    BackingId, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
    Session, SessionACL,
};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DEVICE: &str = "/dev/fuse";
/// Number of requests served at the same time; most of them wait for the repository.
const THREADS: usize = 8;
/// Time for which answers stay valid: the tree never changes.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// An entry, and the number by which the kernel knows it.
#[derive(Clone)]
pub struct Node {
    pub number: u64,
    pub links: u32,
    /// The page that holds the entry, and the entry's index in it.
    pub page: Arc<Vec<Entry>>,
    pub at: usize,
}

impl Node {
    pub fn entry(&self) -> &Entry {
        &self.page[self.at]
    }
}

/// Number of the root directory.
pub const ROOT: u64 = 1;

/// The served tree. Callers use only numbers that the tree itself gave out.
pub trait Tree: Send + Sync + 'static {
    fn node(&self, number: u64) -> Result<Node, Errno>;
    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Option<Node>, Errno>;
    fn parent(&self, directory: u64) -> Result<Node, Errno>;
    /// Returns the entry of a directory at a place, and the next place. The first place is 0; all others are
    /// greater.
    fn child(&self, directory: u64, place: u64) -> Result<Option<(Node, u64)>, Errno>;
    fn attributes(&self, number: u64) -> Result<Attributes, Errno>;
    /// Returns the bytes of a file from an offset on; fewer than asked for at its end.
    fn read(&self, number: u64, offset: u64, length: u32) -> Result<Vec<u8>, Errno>;
    /// Returns the offset of the next data (or the next hole) at or after an offset.
    fn seek(&self, number: u64, offset: u64, hole: bool) -> Result<u64, Errno>;
    /// Returns whether local files may have the bytes of some files.
    fn has_local(&self) -> bool;
    /// Returns a local file with the bytes of a file.
    fn local(&self, number: u64) -> Result<Option<OwnedFd>, Errno>;
    /// Returns the number of entries and of bytes of the whole tree.
    fn totals(&self) -> (u64, u64);
}

/// Options of a mounted tree.
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// Text shown as the mount's source.
    pub source: String,
    /// Whether set-user-id bits and device nodes of the tree take effect.
    pub trusted: bool,
}

/// A tree that is served until it is unmounted.
pub struct Serving(std::thread::JoinHandle<std::io::Result<()>>);

impl Serving {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end for `limit`; false when threads of it are still busy then.
    pub(crate) fn ends_within(&self, env: &Env, limit: Duration) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let looks = limit.as_millis() / LOOK_EVERY.as_millis();
        (0..looks).any(|_| {
            self.is_over() || {
                env.sleep(LOOK_EVERY);
                false
            }
        })
    }

    /// Waits until the mount is no longer visible to any process.
    pub(crate) fn wait(self) -> std::io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread that served it panicked")))
    }
}

/// Returns whether this process may make mounts itself.
pub(crate) fn is_privileged() -> bool {
    Context::open("fuse").is_ok()
}

/// Serves a tree on a mount that is attached nowhere yet. It requires root.
pub fn serve_detached(tree: impl Tree, options: &FuseOptions) -> Result<(Detached, Serving), MountError> {
    let device = open_device()?;
    let context = Context::open("fuse")?;
    let set = |key: &str, value: &str| context.string(key, OsStr::new(value));
    set("source", &options.source)?;
    set("subtype", "understudy")?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", "40000")?;
    set("user_id", "0")?;
    set("group_id", "0")?;
    for key in ["default_permissions", "allow_other", "ro"] {
        context.flag(key)?;
    }
    context.create("mount a FUSE filesystem")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if !options.trusted {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let mount = context.mount(attributes)?;
    let session = Session::from_fd(Served::new(tree, true), device, SessionACL::All, config(Vec::new()))
        .map_err(wrong(Path::new(DEVICE), "start serving it"))?;
    Ok((Detached::of(mount), Serving(std::thread::spawn(move || session.run()))))
}

/// Serves a tree on a mount at `dir` that `fusermount3` makes, for users without privileges. Only that user
/// can see it.
pub(crate) fn serve_by_helper(
    tree: impl Tree,
    options: &FuseOptions,
    dir: &Path,
) -> Result<Serving, MountError> {
    open_device()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists()) {
        return Err(MountError::Helper);
    }
    let options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("understudy".into()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::DefaultPermissions,
    ];
    let session = Session::new(Served::new(tree, false), dir, &config(options))
        .map_err(wrong(dir, "have fusermount3 mount on it"))?;
    Ok(Serving(std::thread::spawn(move || session.run())))
}

fn open_device() -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, DEVICE, flags, Mode::empty()).map_err(MountError::path(
        DEVICE,
        "open it; FUSE needs this device, accessible to all users as udev makes it (in a container: --device /dev/fuse; otherwise: modprobe fuse)",
    ))
}

fn config(mount_options: Vec<MountOption>) -> Config {
    let mut config = Config::default();
    config.mount_options = mount_options;
    config.n_threads = Some(THREADS);
    config
}

fn wrong(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::Fuse { path, action, source }
}

/// The tree as `fuser` calls it.
struct Served<T> {
    tree: T,
    /// Before `init`, whether the kernel may be asked to read local files by itself; after it, whether the
    /// kernel can.
    passthrough: bool,
    /// Local files that are open in the kernel, and how many times.
    backing: Mutex<HashMap<u64, (Arc<BackingId>, u32)>>,
}

impl<T: Tree> Served<T> {
    fn new(tree: T, may_pass: bool) -> Self {
        // With passthrough files have to be opened here, which costs two requests a file.
        let passthrough = may_pass && tree.has_local();
        Self { tree, passthrough, backing: Mutex::default() }
    }

    fn add_children(
        &self,
        number: u64,
        mut place: u64,
        mut add: impl FnMut(&Node, &[u8], u64) -> bool,
    ) -> Result<(), Errno> {
        // Places 0 and 1 are those of `.` and `..`; the tree's begin with 2.
        if place == 0 {
            let node = self.tree.node(number)?;
            if add(&node, b".", 1) {
                return Ok(());
            }
            place = 1;
        }
        if place == 1 {
            let node = self.tree.parent(number)?;
            if add(&node, b"..", 2) {
                return Ok(());
            }
            place = 2;
        }
        while let Some((node, next)) = self.tree.child(number, place - 2)? {
            let name = node.entry().path.split().map_or(&b""[..], |(_, name)| name);
            if add(&node, name, next + 2) {
                return Ok(());
            }
            place = next + 2;
        }
        Ok(())
    }

    /// Gives the kernel a local file with these bytes; returns `None` when that is not possible.
    fn open_backing(&self, number: u64, reply: &ReplyOpen) -> Option<Arc<BackingId>> {
        let mut backing = lock(&self.backing);
        if let Some((id, opens)) = backing.get_mut(&number) {
            *opens += 1;
            return Some(id.clone());
        }
        let file = self.tree.local(number).ok()??;
        let id = Arc::new(reply.open_backing(&file).ok()?);
        backing.insert(number, (id.clone(), 1));
        Some(id)
    }
}

fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

impl<T: Tree> Filesystem for Served<T> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without these capabilities an older kernel is only slower; but without ACLs the mode's bits alone
        // apply.
        for capability in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ] {
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_background(64);
        self.passthrough = self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent.0, name.as_bytes()) {
            Ok(Some(node)) => reply.entry(&FOREVER, &attr(&node), Generation(0)),
            // With number 0 the kernel may remember that the name does not exist.
            Ok(None) => reply.entry(&FOREVER, &NOTHING, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.node(ino.0) {
            Ok(node) => reply.attr(&FOREVER, &attr(&node)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.tree.node(ino.0) {
            Ok(node) => match &node.entry().kind {
                Kind::Symlink { target } => reply.data(target),
                _ => reply.error(fuser::Errno::EINVAL),
            },
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if !self.passthrough {
            // After this answer the kernel opens files by itself, without a request.
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.open_backing(ino.0, &reply) {
            Some(id) => reply.opened_passthrough(FileHandle(ino.0), FopenFlags::empty(), &id),
            None => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut backing = lock(&self.backing);
        if let Some((_, opens)) = backing.get_mut(&handle.0) {
            *opens -= 1;
            if *opens == 0 {
                backing.remove(&handle.0);
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree.read(ino.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // SEEK_DATA and SEEK_HOLE; the kernel handles the others.
        let hole = match whence {
            3 => false,
            4 => true,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        match u64::try_from(offset).map_err(|_| Errno::INVAL).and_then(|at| self.tree.seek(ino.0, at, hole)) {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // As for files; the kernel then keeps listings.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let add = |node: &Node, name: &[u8], next: u64| {
            reply.add(INodeNo(node.number), next, file_type(&node.entry().kind), OsStr::from_bytes(name))
        };
        match self.add_children(ino.0, offset, add) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let add = |node: &Node, name: &[u8], next: u64| {
            let (number, name) = (INodeNo(node.number), OsStr::from_bytes(name));
            reply.add(number, next, name, &FOREVER, &attr(node), Generation(0))
        };
        match self.add_children(ino.0, offset, add) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (entries, size_bytes) = self.tree.totals();
        reply.statfs(size_bytes.div_ceil(4096), 0, 0, entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.tree.attributes(ino.0) {
            Ok(list) => match list.iter().find(|(n, _)| *n == name.as_bytes()) {
                Some((_, value)) => send(value, size, reply),
                None => reply.error(fuser::Errno::ENODATA),
            },
            Err(error) => reply.error(errno(error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.tree.attributes(ino.0) {
            Ok(list) => {
                let names: Vec<u8> =
                    list.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
                send(&names, size, reply);
            }
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// Sends an attribute's bytes, or, for a size of 0, their number.
fn send(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(bytes.len() as u32),
        size if bytes.len() <= size as usize => reply.data(bytes),
        _ => reply.error(fuser::Errno::ERANGE),
    }
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File(_) => FileType::RegularFile,
        Kind::Symlink { .. } => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice { .. } => FileType::CharDevice,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
    }
}

const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};

fn attr(node: &Node) -> FileAttr {
    let entry = node.entry();
    let time = system_time(entry.mtime);
    let size = match &entry.kind {
        Kind::File(file) => file.size_bytes,
        Kind::Symlink { target } => target.len() as u64,
        Kind::Directory => 4096,
        _ => 0,
    };
    let rdev = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            crate::vfs::erofs::inode::device_number(major, minor)
        }
        _ => 0,
    };
    FileAttr {
        ino: INodeNo(node.number),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        kind: file_type(&entry.kind),
        perm: entry.mode,
        // For a directory, 1 means that its subdirectories were not counted.
        nlink: node.links,
        uid: entry.uid,
        gid: entry.gid,
        rdev,
        ..NOTHING
    }
}

/// Converts a time; one that the system cannot represent becomes the beginning of 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole =
        if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let nanos = Duration::from_nanos(time.nanos.into());
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}
