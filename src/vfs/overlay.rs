//! Kernel mounts of a snapshot: its image (EROFS, from the file) and the objects as a data-only layer, joined
//! by an overlay.
//!
//! A mount is made detached, by the mount calls, and only then attached, so that a path never shows a
//! half-made mount. The `mount` program is not used, since it would make loop devices of its own accord.
//!
//! On kernels that take layers by file descriptor (6.15 on), the image's mount is never attached anywhere,
//! and ends with the overlay. Older kernels get layers by paths, from a directory that the image is attached
//! to for a moment.
//!
//! What can race: an image or an object that is removed while it is mounted remains until the mount ends. If
//! another process mounts on the same directory meanwhile, the new mount lies on top of that one.

use super::context::Context;
use super::error::MountError;
use crate::support::mountinfo;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The parts of a mount.
#[derive(Clone, Debug)]
pub struct Layers {
    pub image: PathBuf,
    pub objects: PathBuf,
    /// Text shown as the mount's source.
    pub source: String,
    /// Directories that take changes; without them the mount is read-only.
    pub upper: Option<Upper>,
    /// Whether set-user-id bits and device nodes of the snapshot take effect.
    pub trusted: bool,
}

/// Two directories of one filesystem that take changes.
#[derive(Clone, Debug)]
pub struct Upper {
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// Method of passing layers to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By file descriptors; the image directly from its file.
    Descriptors,
    /// By paths, for kernels before 6.15; the image by a loop device where the kernel or the image's
    /// filesystem needs one.
    Paths,
}

/// A mount that is attached nowhere; it ends when this is dropped.
pub struct Detached(OwnedFd);

/// Checks that this process may mount, and that the kernel supports the filesystems.
pub(crate) fn works() -> Result<(), MountError> {
    Context::open("erofs")?;
    Context::open("overlay").map(|_| ())
}

/// Mounts the layers, attached nowhere.
pub fn mount(layers: &Layers) -> Result<Detached, MountError> {
    match mount_by(layers, Way::Descriptors) {
        // Errors of a kernel that does not support layers by file descriptors.
        Err(MountError::Kernel {
            errno: Errno::INVAL | Errno::NOTBLK | Errno::NOSYS | Errno::OPNOTSUPP,
            ..
        }) => mount_by(layers, Way::Paths),
        other => other,
    }
}

/// Mounts as `mount` does, by one method only.
pub fn mount_by(layers: &Layers, way: Way) -> Result<Detached, MountError> {
    let image = mount_image(&layers.image, way)?;
    match way {
        Way::Descriptors => overlay(layers, image.as_fd(), way),
        Way::Paths => {
            let scratch = Scratch::attach(&image)?;
            overlay(layers, scratch.root.as_fd(), way)
        }
    }
}

fn mount_image(image: &Path, way: Way) -> Result<OwnedFd, MountError> {
    let from = |source: &OsStr, lower: bool| {
        let context = Context::open("erofs")?;
        context.string("source", source)?;
        // Without it a read-only loop device cannot be opened.
        context.flag("ro")?;
        context.create(if lower { "mount the image by a loop device" } else { "mount the image" })?;
        context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    let file = open(image, OFlags::RDONLY)?;
    let direct = from(OsStr::new(&fd_path(&file)), false);
    match (direct, way) {
        (Err(_), Way::Paths) => {
            let device = loop_device(image)?;
            let mounted = from(OsStr::new(&device), true);
            // The device is removed with the mount, or now if there is no mount.
            let _ = Command::new("losetup").args(["--detach", &device]).status();
            mounted
        }
        (other, _) => other,
    }
}

/// Makes a read-only loop device of the image.
fn loop_device(image: &Path) -> Result<String, MountError> {
    let output =
        Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(image).output().map_err(
            |error| MountError::Upper(image.into(), format!("cannot set up a loop device: losetup: {error}")),
        )?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(MountError::Upper(image.into(), format!("cannot set up a loop device: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn overlay(layers: &Layers, image: BorrowedFd, way: Way) -> Result<Detached, MountError> {
    let objects = open(&layers.objects, OFlags::PATH | OFlags::DIRECTORY)?;
    let context = Context::open("overlay")?;
    context.string("source", OsStr::new(&layers.source))?;
    match way {
        Way::Descriptors => {
            context.fd("lowerdir+", image)?;
            context.fd("datadir+", objects.as_fd())?;
        }
        Way::Paths => {
            let layers = format!("{}::{}", fd_path(&image), fd_path(&objects));
            context.string("lowerdir", OsStr::new(&layers))?;
        }
    }
    context.string("metacopy", OsStr::new("on"))?;
    context.string("redirect_dir", OsStr::new("on"))?;
    let mut attributes = MountAttrFlags::empty();
    if !layers.trusted {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    let handles;
    if let Some(Upper { upper, work }) = &layers.upper {
        context.string("index", OsStr::new("on"))?;
        handles =
            [open(upper, OFlags::PATH | OFlags::DIRECTORY)?, open(work, OFlags::PATH | OFlags::DIRECTORY)?];
        for (key, handle) in ["upperdir", "workdir"].into_iter().zip(&handles) {
            match way {
                Way::Descriptors => context.fd(key, handle.as_fd())?,
                Way::Paths => context.string(key, OsStr::new(&fd_path(handle)))?,
            }
        }
    } else {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        context.flag("ro")?;
    }
    context.create("join the image and the objects in an overlay")?;
    Ok(Detached(context.mount(attributes)?))
}

impl Detached {
    pub(crate) fn of(mount: OwnedFd) -> Self {
        Self(mount)
    }

    /// Returns its root directory, for looking at it.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Attaches it at `dir`.
    pub fn attach(&self, dir: &Path) -> Result<(), MountError> {
        self.move_to(dir, MoveMountFlags::empty()).map_err(MountError::path(dir, "mount on it"))
    }

    /// Replaces the mount at `dir`: attaches this one beneath it, then detaches the old one.
    ///
    /// A reader finds the old or the new mount, never neither. Files open in the old one stay open; it ends
    /// when the returned value is dropped.
    pub(crate) fn replace(&self, dir: &Path) -> Result<Old, MountError> {
        let wrong = |action| MountError::path(dir, action);
        let old =
            rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(wrong("open the mount that is there"))?;

        self.move_to(dir, MoveMountFlags::MOVE_MOUNT_BENEATH).map_err(|errno| MountError::Kernel {
            action: "mount beneath",
            errno,
            hint: match errno {
                Errno::INVAL => " (it requires Linux 6.5, and a mount at exactly this path)".into(),
                _ => String::new(),
            },
        })?;
        unmount(dir, UnmountFlags::DETACH).map_err(wrong("detach the previous mount"))?;
        Ok(Old(old))
    }

    fn move_to(&self, dir: &Path, flags: MoveMountFlags) -> Result<(), Errno> {
        move_mount(&self.0, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | flags)
    }
}

/// A mount that was replaced. Dropping it may take seconds, if a million of its files were looked at.
pub struct Old(#[allow(dead_code)] OwnedFd);

/// Detaches the mount at `dir`; with `force` also while files in it are open.
pub fn detach(dir: &Path, force: bool) -> Result<(), MountError> {
    let flags = if force { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    unmount(dir, flags | UnmountFlags::NOFOLLOW).map_err(MountError::path(
        dir,
        "unmount it (--lazy detaches it; files that are open in it stay usable)",
    ))
}

/// Aborts the connection of the FUSE mount at `dir`, and detaches the mount.
///
/// Every request that waits for its server fails immediately. Without root this does nothing.
pub(crate) fn abort_fuse(dir: &Path) {
    let _ = unmount(dir, UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
}

/// Detaches a mount like `detach`, including one that `fusermount3` made for a user without privileges.
pub(crate) fn detach_fuse(dir: &Path, force: bool) -> Result<(), MountError> {
    match detach(dir, force) {
        Err(MountError::Path { errno: Errno::PERM, .. }) => {}
        other => return other,
    }
    let mut helper = Command::new("fusermount3");
    helper.args(if force { &["-u", "-z"][..] } else { &["-u"] }).arg("--").arg(dir);
    match helper.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(MountError::Upper(dir.into(), said))
        }
        Err(_) => Err(MountError::Helper),
    }
}

/// A mount from `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub dir: PathBuf,
    pub source: String,
    pub kind: String,
    pub upper: Option<PathBuf>,
    pub objects: Option<PathBuf>,
}

/// Returns the mounts whose source begins with `prefix`, in the order they were made.
pub fn mounts(prefix: &str) -> Result<Vec<MountEntry>, MountError> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = std::fs::read(PATH).map_err(|error| {
        MountError::path(PATH, "read it")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(parse_mount).filter(|mount| mount.source.starts_with(prefix)).collect())
}

/// Parses a line: id, parent, device, root, directory, options, optional fields, `-`, kind, source, more
/// options. Names in it are bytes.
fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let dir = mountinfo::unescape(fields.nth(4)?);
    fields.find(|field| *field == b"-")?;
    let (kind, source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let option = |name: &[u8]| {
        let value = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(name));
        value.map(|path| PathBuf::from(OsString::from_vec(mountinfo::unescape(path))))
    };
    Some(MountEntry {
        dir: PathBuf::from(OsString::from_vec(dir)),
        source: String::from_utf8_lossy(&mountinfo::unescape(source)).into_owned(),
        kind: String::from_utf8_lossy(kind).into_owned(),
        upper: option(b"upperdir="),
        objects: option(b"datadir+="),
    })
}

pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, MountError> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(MountError::path(path, "open it"))
}

/// Returns a path to an open file. It is short, since the kernel takes no more than 255 bytes.
pub(super) fn fd_path(handle: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd())
}

/// A directory that an image is attached to while an overlay takes it as a layer.
struct Scratch {
    dir: PathBuf,
    root: OwnedFd,
}

impl Scratch {
    fn attach(image: &OwnedFd) -> Result<Self, MountError> {
        let dir =
            std::env::temp_dir().join(format!("understudy-{}-{}", std::process::id(), image.as_raw_fd()));
        rustix::fs::mkdirat(CWD, &dir, Mode::RWXU).map_err(MountError::path(&dir, "create it"))?;
        let attached = move_mount(image, "", CWD, &dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        let root = attached.map_err(MountError::path(&dir, "mount on it"));
        let root = root.and_then(|()| open(&dir, OFlags::PATH | OFlags::DIRECTORY));
        match root {
            Ok(root) => Ok(Self { dir, root }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(CWD, &dir, rustix::fs::AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The overlay holds the layer; the path is no longer needed.
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
        let _ = rustix::fs::unlinkat(CWD, &self.dir, rustix::fs::AtFlags::REMOVEDIR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = br"40 27 0:33 / /mnt/a\040b\134c\012d ro,relatime shared:1 - overlay understudy:s@7 ro,lowerdir+=/x,upperdir=/u\040p";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.dir, Path::new("/mnt/a b\\c\nd"));
        assert_eq!((mount.source.as_str(), mount.kind.as_str()), ("understudy:s@7", "overlay"));
        assert_eq!(mount.upper.as_deref(), Some(Path::new("/u p")));
        assert_eq!(parse_mount(b"no such line"), None);
        let line = b"40 27 0:33 / /mnt/m\xff\xfe ro - fuse understudy:s@7 ro";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.dir, Path::new(OsStr::from_bytes(b"/mnt/m\xff\xfe")));
        assert_eq!(
            mountinfo::unescape(br"a\9b\777c\04"),
            br"a\9b\777c\04",
            "what is no octal number of a byte stays"
        );
    }
}
