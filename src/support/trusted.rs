//! Files that this process obeys (a configuration) or keeps secret (a key, a passphrase, a token): read only
//! if a trusted user wrote them.
//!
//! The trusted users are its own and root. Such a file must belong to one of them, and so must the directory
//! that holds it, and no other user may write to either; otherwise that user would choose what runs here, and
//! where to. Symlinks are followed, and each directory on the way that holds a name is checked as well:
//! Kubernetes shows secrets in this way (`..data`). In a directory that all may write to and that is sticky
//! (`/tmp`, a Secret of Kubernetes), or that is root's and mounted read-only (a ConfigMap), no user can
//! exchange another user's names, so that only the name itself must belong to a trusted user.
//!
//! What can race: nothing. Each step uses a handle, and the inode that was checked is the one that is read.
//!
//! Read access is another matter. A group may have it (a pod without root reads its secrets in this way). A
//! secret that all users of the host may read is reported ([`exposure`]), not refused: engines show secrets
//! so by default, inside one container.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Maximum number of symlinks that are followed: the kernel's own limit.
const LINKS_MAX: usize = 40;
const STICKY: u32 = 0o1000;
const WRITABLE: u32 = 0o022;

/// Reason why a file, or the directory that holds it, is not trusted.
#[derive(Debug, Error)]
pub enum Distrust {
    #[error("{} belongs to user {owner}, not to root or this user ({own}), so that user could change it; if its content is right: chown {own} {}", path.display(), path.display())]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("{}: other users can write to it (mode {mode:o}); if its content is right: chmod go-w {}", path.display(), path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} is neither a file nor a pipe", .0.display())]
    Kind(PathBuf),
    #[error("{} is a symlink, and what is mounted behind it would be elsewhere; name the directory itself", .0.display())]
    Link(PathBuf),
}

impl From<Distrust> for io::Error {
    fn from(distrust: Distrust) -> Self {
        io::Error::new(ErrorKind::PermissionDenied, distrust)
    }
}

/// Returns whether an error says that a file is not trusted.
pub(crate) fn is_distrust(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Distrust>())
}

/// Reads the text of a trusted file.
///
/// # Errors
/// `PermissionDenied` with a [`Distrust`] that names the problem and its remedy; else the error of opening or
/// reading it.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a trusted file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    let found = find(path)?;
    let stat = rustix::fs::fstat(&found.handle)?;
    match FileType::from_raw_mode(stat.st_mode) {
        // The process that started this one handed the pipe over.
        FileType::Fifo if found.given => {}
        FileType::RegularFile | FileType::Fifo => judge(&found.path, &stat)?,
        // Its mode is not checked: bytes that others write to a device are not read back by its name.
        FileType::CharacterDevice => judge_owner(&found.path, stat.st_uid)?,
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(Distrust::Kind(found.path).into()),
    }
    // The same inode, opened only after the check, so that no other user's pipe is waited for.
    let again = format!("/proc/self/fd/{}", found.handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, again.as_str(), flags, Mode::empty())?.into())
}

/// Checks, before such a file is made, that its directory is one from which the file would be accepted.
///
/// # Errors
/// As [`open`].
pub(crate) fn look_at_dir(dir: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let holder = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    judge_holder(holder.as_fd(), dir, dir, rustix::process::geteuid().as_raw())
}

/// Checks that no other user can lead this process elsewhere on the way to a directory that it mounts on: each
/// directory above it is trusted, and no name in its path is a symlink. The directory itself may be anybody's,
/// and need not exist.
///
/// # Errors
/// As [`open`].
pub(crate) fn look_at_way(path: &Path) -> io::Result<()> {
    let whole = std::path::absolute(path)?;
    for entry in whole.ancestors() {
        let (Some(dir), Some(name)) = (entry.parent(), entry.file_name()) else { continue };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let holder = match rustix::fs::openat(CWD, dir, flags, Mode::empty()) {
            // It is made by this process.
            Err(Errno::NOENT) => continue,
            holder => holder?,
        };
        let owner = match rustix::fs::statat(&holder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                return Err(Distrust::Link(entry.to_owned()).into());
            }
            Ok(stat) => stat.st_uid,
            Err(Errno::NOENT) => rustix::process::geteuid().as_raw(),
            Err(errno) => return Err(errno.into()),
        };
        judge_holder(holder.as_fd(), dir, entry, owner)?;
    }
    Ok(())
}

/// Returns a warning if all users of this host may read a secret; none if a directory above it keeps them
/// out.
pub(crate) fn exposure(path: &Path) -> Option<String> {
    let real = std::fs::canonicalize(path).ok()?;
    let meta = std::fs::metadata(&real).ok()?;
    let reach = |dir: &Path| std::fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    let is_exposed = meta.is_file() && meta.mode() & 0o004 != 0 && real.ancestors().skip(1).all(reach);
    let shown = path.display();
    is_exposed.then(|| format!("{shown}: all users of this host can read this secret: chmod go-r {shown}"))
}

/// A name's inode, and its location.
struct Found {
    handle: OwnedFd,
    path: PathBuf,
    /// Whether the path named a descriptor of this process.
    given: bool,
}

fn find(path: &Path) -> io::Result<Found> {
    let (mut base, mut rest, mut shown): (Option<OwnedFd>, _, _) = (None, path.to_owned(), path.to_owned());
    for _ in 0..LINKS_MAX {
        let at = base.as_ref().map_or(CWD, AsFd::as_fd);
        let name = rest.file_name().ok_or(Errno::ISDIR)?;
        let dir = match rest.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let holder = rustix::fs::openat(at, dir, flags | OFlags::DIRECTORY, Mode::empty())?;
        let entry = rustix::fs::openat(&holder, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(&entry)?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if is_link && rustix::fs::fstatfs(&holder)?.f_type == PROC_SUPER_MAGIC {
            // The link leads to an open file, whatever its text says.
            let handle = rustix::fs::openat(&holder, name, flags, Mode::empty())?;
            return Ok(Found { handle, path: shown, given: true });
        }
        judge_holder(holder.as_fd(), shown.parent().unwrap_or(Path::new(".")), &shown, stat.st_uid)?;
        if !is_link {
            return Ok(Found { handle: entry, path: shown, given: false });
        }
        let target = rustix::fs::readlinkat(&entry, c"", Vec::new())?.into_bytes();
        rest = PathBuf::from(std::ffi::OsString::from_vec(target));
        shown = shown.parent().unwrap_or(Path::new("")).join(&rest);
        base = Some(holder);
    }
    Err(Errno::LOOP.into())
}

/// Checks a directory, and where others may write to it the owner of the name in it.
fn judge_holder(holder: BorrowedFd, dir: &Path, entry: &Path, entry_owner: u32) -> io::Result<()> {
    let stat = rustix::fs::fstat(holder)?;
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let is_sticky = stat.st_mode & STICKY != 0;
    // A pod's configuration is a directory of root's with all rights, mounted read-only into the pod.
    let is_shown = stat.st_uid == 0
        && rustix::fs::fstatvfs(holder)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    if !is_sticky && !is_shown {
        return Ok(judge(dir, &stat)?);
    }
    judge_owner(dir, stat.st_uid)?;
    match stat.st_mode & WRITABLE {
        0 => Ok(()),
        _ => Ok(judge_owner(entry, entry_owner)?),
    }
}

/// Returns whether a user is this process's own, or root, which it trusts.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn judge_owner(path: &Path, owner: u32) -> Result<(), Distrust> {
    match is_trusted(owner) {
        true => Ok(()),
        false => {
            let own = rustix::process::geteuid().as_raw();
            Err(Distrust::Owner { path: path.to_owned(), owner, own })
        }
    }
}

fn judge(path: &Path, stat: &Stat) -> Result<(), Distrust> {
    judge_owner(path, stat.st_uid)?;
    let (mode, own) = (stat.st_mode & 0o7777, rustix::process::geteuid().as_raw());
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let is_private = || {
        let [passwd, group, sources] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"].map(read);
        is_private_group(stat.st_gid, own, &passwd, &group, &sources)
    };
    match mode & 0o002 != 0 || (mode & 0o020 != 0 && !is_private()) {
        true => Err(Distrust::Writable { path: path.to_owned(), mode }),
        false => Ok(()),
    }
}

/// Returns whether a group has no members except root and the user `own`.
///
/// Such a group is a user's private one, or the one that a pod's volumes are given (`fsGroup`). If a source
/// other than files defines the members of groups, the members are unknown, and the result is false.
fn is_private_group(gid: u32, own: u32, passwd: &str, group: &str, sources: &str) -> bool {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let users: Vec<_> = passwd.lines().map(fields).filter(|fields| fields.len() >= 4).collect();
    let is_ours = |uid: &str| uid.parse() == Ok(own) || uid == "0";
    let by_name = |name: &str| users.iter().any(|user| user[0] == name && is_ours(&user[2]));
    let groups: Vec<_> = group.lines().map(fields).filter(|fields| fields.len() >= 4).collect();
    let mut members = groups.iter().filter(|group| group[2].parse() == Ok(gid)).flat_map(|group| {
        group[3]
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let from =
        |line: &str| line.split_once(':').is_some_and(|(what, _)| ["group", "passwd"].contains(&what.trim()));
    let mut named =
        sources.lines().filter(|line| from(line)).flat_map(|line| line.split_whitespace().skip(1));
    named.all(|source| ["files", "compat", "systemd"].contains(&source))
        && members.all(|name| by_name(&name))
        && users.iter().all(|user| user[3].parse() != Ok(gid) || is_ours(&user[2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns the reason for a refusal; an empty text if the file is accepted.
    fn said(path: &Path) -> String {
        match read_to_string(path) {
            Ok(text) => {
                assert_eq!(text, "x");
                String::new()
            }
            Err(error) => {
                assert!(is_distrust(&error), "{error}");
                error.to_string()
            }
        }
    }

    #[test]
    fn a_file_is_taken_if_nobody_else_may_say_what_is_in_it() {
        let all = tempfile::tempdir().unwrap();
        let dir = all.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "x").unwrap();
        // Modes of both, their owners, and the expected message.
        for (of_dir, of_file, dir_owner, file_owner, told) in [
            (0o755, 0o644, 0, 0, ""),
            (0o700, 0o440, 0, 0, ""),
            (0o755, 0o646, 0, 0, "chmod go-w"),
            (0o1777, 0o644, 0, 0, ""),
            (0o755, 0o644, 0, 12_345, "belongs to user 12345"),
            (0o755, 0o644, 12_345, 0, "belongs to user 12345"),
        ] {
            chmod(&dir, of_dir);
            chmod(&file, of_file);
            chown(&dir, Some(dir_owner), None).unwrap();
            chown(&file, Some(file_owner), None).unwrap();
            let said = said(&file);
            assert!(
                said.is_empty() == told.is_empty() && said.contains(told),
                "{of_dir:o} {of_file:o}: {said}"
            );
            // A symlink of this user's from another directory gives the same result.
            let link = all.path().join("link");
            let _ = std::fs::remove_file(&link);
            symlink("dir/file", &link).unwrap();
            assert_eq!(self::said(&link).is_empty(), told.is_empty());
        }
    }

    #[test]
    fn a_group_is_private_if_nobody_else_is_in_it_and_files_alone_say_so() {
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/h:/bin/sh\nother:x:1001:1001::/h:/bin/sh\nguest:x:1002:50::/h:/bin/sh\n";
        let group = "me:x:1000:\nshared:x:60:me,other\nalone:x:61:me, root\nstaff:x:50:\n";
        let is = |gid, sources| is_private_group(gid, 1000, passwd, group, sources);
        for gid in [1000, 61, 2000] {
            assert!(is(gid, "") && is(gid, "passwd: files systemd\ngroup: files\nhosts: dns\n"), "{gid}");
            assert!(!is(gid, "group: files sss\n") && !is(gid, "passwd: ldap\n"), "{gid}");
        }
        for gid in [1001, 60, 50] {
            assert!(!is(gid, ""), "{gid}");
        }
    }

    #[test]
    fn what_a_group_of_others_may_write_is_not_taken() {
        let all = tempfile::tempdir().unwrap();
        let dir = all.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "x").unwrap();
        // One group that has a member on every host, and one that has none.
        let daemon = 1;
        for (of_dir, of_file, group, told) in [
            (0o755, 0o664, daemon, "chmod go-w"),
            (0o775, 0o644, daemon, "chmod go-w"),
            (0o2770, 0o660, 4_000_000, ""),
            (0o777, 0o644, 4_000_000, "chmod go-w"),
        ] {
            for path in [&dir, &file] {
                chown(path, None, Some(group)).unwrap();
            }
            chmod(&dir, of_dir);
            chmod(&file, of_file);
            let said = said(&file);
            assert!(
                said.is_empty() == told.is_empty() && said.contains(told),
                "{of_dir:o} {of_file:o}: {said}"
            );
        }
    }

    #[test]
    fn a_symlink_in_a_sticky_directory_is_taken_only_if_it_is_no_other_user_s() {
        let all = tempfile::tempdir().unwrap();
        let (sticky, data) = (all.path().join("sticky"), all.path().join("sticky/..data"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("key"), "x").unwrap();
        chmod(&sticky, 0o1777);
        let link = sticky.join("key");
        symlink("..data/key", &link).unwrap();
        assert_eq!(said(&link), "", "as Kubernetes shows a secret");
        std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
        assert!(said(&link).contains("belongs to user 12345"));
        symlink("loop", all.path().join("loop")).unwrap();
        assert_eq!(open(&all.path().join("loop")).unwrap_err().raw_os_error(), Some(40));
        assert_eq!(open(&all.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_was_handed_over_is_read_and_a_pipe_of_somebody_else_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"x").unwrap();
        drop(writer);
        assert_eq!(said(Path::new(&format!("/dev/fd/{}", reader.as_raw_fd()))), "");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        chown(&fifo, Some(12_345), None).unwrap();
        assert!(said(&fifo).contains("belongs to user 12345"));
    }

    #[test]
    fn a_secret_that_all_may_read_is_told_unless_nobody_gets_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "x").unwrap();
        chmod(&file, 0o644);
        chmod(dir.path(), 0o700);
        assert_eq!(exposure(&file), None, "its directory is this user's alone");
        chmod(dir.path(), 0o755);
        assert!(exposure(&file).unwrap().contains("chmod go-r"));
        chmod(&file, 0o640);
        assert_eq!(exposure(&file), None);
    }

    #[test]
    fn a_way_is_taken_if_nobody_else_can_lead_elsewhere() {
        let all = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(all.path()).unwrap();
        let of = |path: &str| match look_at_way(&root.join(path)) {
            Ok(()) => String::new(),
            Err(error) => {
                assert!(is_distrust(&error), "{error}");
                error.to_string()
            }
        };
        std::fs::create_dir_all(root.join("ours/shop/deep")).unwrap();
        // The directory itself may be the tenant's.
        chown(root.join("ours/shop"), Some(1234), Some(1234)).unwrap();
        assert_eq!((of("ours/shop"), of("ours/new"), of("ours/new/shop")), Default::default());
        assert!(of("ours/shop/deep").contains("belongs to user 1234"));
        symlink(root.join("ours"), root.join("link")).unwrap();
        symlink("/etc", root.join("ours/etc")).unwrap();
        assert!(of("link/shop").contains("is a symlink") && of("ours/etc").contains("is a symlink"));
        chmod(&root.join("ours"), 0o777);
        assert!(of("ours/shop").contains("chmod go-w"));
    }
}
