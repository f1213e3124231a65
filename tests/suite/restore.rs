//! Restores into places that do not accept everything: whatever cannot be as it was is named, whatever can be
//! is there, and files that do not belong to the restore are left alone. Tested with the real kernel (mounts,
//! small and foreign filesystems, other users) and with errors at every call that creates something.

use crate::support::command::{ok, understudy};
use crate::support::facts::{self, Facts, assert_same};
use crate::support::forge::{leaf, payload, restore_page_to};
use crate::support::mount::MountPoint;
use crate::support::objects::{Damage, damage, keys};
use crate::support::rig::{self, Rig, entry};
use crate::support::tree::{all_kinds, random, sample_tree};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use understudy::model::entry::{Entry, Kind, Xattrs};
use understudy::model::snapshot_ref::Moment;
use understudy::model::tree_path::TreePath;
use understudy::restore::error::RestoreError;
use understudy::restore::request::{RestoreReport, RestoreRequest};
use understudy::restore::shortfall::Shortfalls;

fn run(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A mount that is removed when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &[args, &[at.to_str().unwrap()]].concat(), Path::new("/"));
        Self(at)
    }

    fn bind(from: &Path, at: PathBuf) -> Self {
        Self::new(&["--bind", from.to_str().unwrap()], at)
    }

    /// Mounts a filesystem in a file.
    fn image(dir: &Path, make: &[&str], options: &str) -> Self {
        let image = dir.join(format!("image-{}", rig::nonce()));
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let image = image.to_str().unwrap();
        run(make[0], &[&make[1..], &[image]].concat(), Path::new("/"));
        Self::new(&["-o", options, image], dir.join("disk"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A file that is immutable as long as this value lives.
struct Attribute(PathBuf, &'static str);

impl Attribute {
    fn set(path: PathBuf, flag: &'static str) -> Self {
        run("chattr", &[&format!("+{flag}"), path.to_str().unwrap()], Path::new("/"));
        Self(path, flag)
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).status();
    }
}

fn restored(rig: &Rig, request: &RestoreRequest) -> RestoreReport {
    rig::restore_at(&rig.store(), Moment::Latest, request).unwrap()
}

fn over(rig: &Rig, to: &str) -> RestoreRequest {
    RestoreRequest { existing: understudy::restore::request::Existing::Mirror, ..rig.restore_request(to) }
}

fn named(warnings: &Shortfalls) -> Vec<&str> {
    warnings.first.iter().map(|warning| warning.path.as_str()).collect()
}

/// Returns a store in a repository on the disk, for the real binary.
fn shop(make: impl Fn(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("source")).unwrap();
    make(&dir.path().join("source"));
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    dir
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn below_a_set_group_id_directory_and_a_default_list_everything_is_as_it_was() {
    let rig = Rig::new();
    all_kinds(&rig.source());
    for (name, bits) in [("secret", 0o600), ("shared", 0o640), ("open", 0o664)] {
        write(rig.source().join("etc").join(name), name);
        mode(rig.source().join("etc").join(name), bits);
    }
    rig.resync();
    let parent = rig.dir.path().join("www");
    let trap = |at: &Path| {
        std::fs::create_dir_all(at).unwrap();
        std::os::unix::fs::chown(at, None, Some(33)).unwrap();
        mode(at, 0o2775);
        run("setfacl", &["-d", "-m", "u:33:rwx,g:33:rwx,o:rwx", "."], at);
    };
    trap(&parent);
    // Built next to it and renamed; over an empty directory; over one that has such directories itself.
    assert_eq!(restored(&rig, &rig.restore_request("www/new")).warnings, Default::default());
    assert_same(&rig.source(), &parent.join("new"), "a new directory");
    trap(&parent.join("empty"));
    assert_eq!(restored(&rig, &rig.restore_request("www/empty")).warnings, Default::default());
    assert_same(&rig.source(), &parent.join("empty"), "an empty one");
    for at in ["over", "over/a", "over/etc"] {
        trap(&parent.join(at));
    }
    write(parent.join("over/etc/secret"), "other");
    assert_eq!(restored(&rig, &over(&rig, "www/over")).warnings, Default::default());
    assert_same(&rig.source(), &parent.join("over"), "over what is there");
    // Built in place.
    trap(&parent.join("volume"));
    let _mounted = Mounted::bind(&parent.join("volume"), parent.join("mounted"));
    assert_eq!(restored(&rig, &rig.restore_request("www/mounted")).warnings, Default::default());
    assert_same(&rig.source(), &parent.join("mounted"), "in place");
}

#[test]
fn a_filesystem_that_hands_groups_down_does_not_change_them() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let disk = Mounted::image(rig.dir.path(), &["mkfs.ext4", "-q"], "loop,grpid");
    std::os::unix::fs::chown(&disk.0, None, Some(33)).unwrap();
    let restore = |to: PathBuf| {
        let request = RestoreRequest { destination: to, ..rig.restore_request("") };
        assert_eq!(restored(&rig, &request).warnings, Default::default());
        facts::of(&request.destination)
    };
    // Its root has a directory of the filesystem's own, and counts as empty.
    let mut root = restore(disk.0.clone());
    assert!(root.remove(&b"lost+found"[..]).is_some());
    assert_eq!(root, facts::of(&rig.source()));
    std::os::unix::fs::chown(&disk.0, None, Some(33)).unwrap();
    assert_eq!(restore(disk.0.join("below")), facts::of(&rig.source()));
    // `--delete` leaves it alone as well.
    assert_eq!(restored(&rig, &over(&rig, "disk")).removed, 1);
    assert!(disk.0.join("lost+found").exists() && !disk.0.join("below").exists());
}

#[test]
fn no_umask_changes_a_mode() {
    let dir = shop(all_kinds);
    for umask in ["000", "022", "077", "777"] {
        let script = format!("umask {umask}; exec \"$0\" restore acme out-{umask} --quiet");
        let mut shell = Command::new("sh");
        let binary = understudy(dir.path());
        shell.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(dir.path());
        ok(shell.args(["-c", &script]).arg(binary.get_program()));
        assert_same(&dir.path().join("source"), &dir.path().join(format!("out-{umask}")), umask);
    }
}

#[test]
fn deletion_does_not_reach_into_another_mount() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    write(rig.source().join("replaced"), "a file in the snapshot");
    write(rig.source().join("media/kept"), "in the snapshot");
    rig.resync();
    let out = rig.dir.path().join("out");
    let precious = rig.dir.path().join("precious");
    write(precious.join("deep/file"), "irreplaceable");
    write(out.join("old/gone"), "x");
    write(out.join("old/deeper/gone"), "x");
    let same = Mounted::bind(&precious, out.join("old/deeper/same"));
    let other = Mounted::new(&["-t", "tmpfs", "tmpfs"], out.join("other"));
    write(other.0.join("file"), "irreplaceable");
    let instead = Mounted::bind(&precious, out.join("replaced"));
    let media = Mounted::new(&["-t", "tmpfs", "tmpfs"], out.join("media"));
    write(media.0.join("deep/theirs"), "irreplaceable");
    std::fs::create_dir_all(media.0.join("kept/is a directory")).unwrap();
    let file = out.join("a/mounted file");
    write(&file, "");
    run("mount", &["--bind", precious.join("deep/file").to_str().unwrap(), file.to_str().unwrap()], &out);
    let file = Mounted(file);

    let warnings = restored(&rig, &over(&rig, "out")).warnings;
    for kept in [
        precious.join("deep/file"),
        same.0.join("deep/file"),
        other.0.join("file"),
        instead.0.join("deep/file"),
        media.0.join("deep/theirs"),
        media.0.join("kept/is a directory"),
        file.0.clone(),
    ] {
        assert!(kept.exists(), "{}: {warnings:?}", kept.display());
    }
    // Each of them is named, and all else that does not belong is removed.
    let paths = named(&warnings);
    for path in ["a/mounted file", "media", "media/kept", "old/deeper/same", "other", "replaced"] {
        assert!(paths.contains(&path), "{path}: {warnings:?}");
    }
    assert!(!out.join("old/gone").exists() && !out.join("old/deeper/gone").exists());
    let leftover = walkdir::WalkDir::new(&out).into_iter().map(|e| e.unwrap().into_path());
    let leftover: Vec<_> = leftover.filter(|p| p.to_string_lossy().contains(".understudy")).collect();
    assert_eq!(leftover, Vec::<PathBuf>::new());
    for mount in [same, other, instead, media, file] {
        drop(mount);
    }
    assert_eq!(restored(&rig, &over(&rig, "out")).warnings, Default::default());
    assert_same(&rig.source(), &out, "once nothing is mounted there");
}

#[test]
fn an_empty_directory_that_cannot_be_renamed_over_is_filled_in_place() {
    let rig = Rig::new();
    all_kinds(&rig.source());
    rig.resync();
    let dir = rig.dir.path();
    std::fs::create_dir(dir.join("volume")).unwrap();
    let bound = Mounted::bind(&dir.join("volume"), dir.join("bound"));
    let tmpfs = Mounted::new(&["-t", "tmpfs", "tmpfs"], dir.join("tmpfs"));
    for to in ["bound", "tmpfs/"] {
        assert_eq!(restored(&rig, &rig.restore_request(to)).warnings, Default::default());
        assert_same(&rig.source(), &dir.join(to), to);
        let again = rig::restore_at(&rig.store(), Moment::Latest, &rig.restore_request(to));
        assert!(matches!(again, Err(RestoreError::NotEmpty(_))), "{to}");
    }
    drop((bound, tmpfs));
    // An empty directory that can be renamed over is, also with a slash after its name or through a symlink
    // to its parent.
    std::os::unix::fs::symlink(".", dir.join("here")).unwrap();
    for to in ["plain", "slash//", "here/behind"] {
        std::fs::create_dir(dir.join(to)).unwrap();
        let inode = std::fs::metadata(dir.join(to)).unwrap().ino();
        restored(&rig, &rig.restore_request(to));
        assert_same(&rig.source(), &dir.join(to), to);
        assert_ne!(std::fs::metadata(dir.join(to)).unwrap().ino(), inode, "{to}");
    }
    std::os::unix::fs::symlink("plain", dir.join("link")).unwrap();
    for to in ["link", "link/"] {
        let through = rig::restore_at(&rig.store(), Moment::Latest, &over(&rig, to));
        assert!(matches!(through, Err(RestoreError::NotADirectory(_))), "{to}");
    }
    assert_eq!(hidden_names(dir), Vec::<String>::new());
}

fn hidden_names(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(".understudy")).collect()
}

#[test]
fn the_working_directory_is_filled_in_place() {
    let dir = shop(sample_tree);
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let inode = std::fs::metadata(&work).unwrap().ino();
    ok(understudy(dir.path()).args(["restore", "acme", ".", "--quiet"]).current_dir(&work));
    assert_same(&dir.path().join("source"), &work, ".");
    std::fs::remove_dir_all(&work).unwrap();
    std::fs::create_dir(&work).unwrap();
    ok(understudy(dir.path()).args(["restore", "acme", "../work", "--quiet"]).current_dir(&work));
    assert_same(&dir.path().join("source"), &work, "../work");
    let _ = inode;
    assert_eq!(hidden_names(dir.path()), Vec::<String>::new());
}

#[test]
fn what_is_filled_in_place_and_killed_goes_on_and_no_other_snapshot_does() {
    let dir = shop(|source| {
        sample_tree(source);
        std::fs::write(source.join("c/large"), random(b"large", 6 << 20)).unwrap();
    });
    let (source, to) = (dir.path().join("source"), dir.path().join("mounted"));
    let wanted = facts::of(&source);
    std::fs::create_dir(dir.path().join("volume")).unwrap();
    let _mounted = Mounted::bind(&dir.path().join("volume"), to.clone());
    let restore = |snapshot: &str| {
        let mut command = understudy(dir.path());
        command.args(["restore", snapshot, "mounted", "--json"]);
        command
    };
    write(source.join("later"), "x");
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    std::fs::remove_file(source.join("later")).unwrap();
    // Killed when a part of the tree is there.
    let mut killed = 0;
    for _ in 0..40 {
        let mut child = restore("acme@1").stdout(std::process::Stdio::null()).spawn().unwrap();
        let micros = 20_000 + getrandom::u64().unwrap() % 60_000;
        std::thread::sleep(std::time::Duration::from_micros(micros));
        let _ = child.kill();
        child.wait().unwrap();
        let marked = hidden_names(&to).iter().any(|name| name.starts_with(".understudy-restoring-"));
        let count = std::fs::read_dir(&to).unwrap().count();
        if marked && count > 1 {
            killed += 1;
            let other = restore("acme@2").output().unwrap();
            assert_eq!(other.status.code(), Some(2), "{}", text(&other));
            let output = ok(&mut restore("acme@1"));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["resumed"], true);
        } else if marked || count == 0 {
            ok(&mut restore("acme@1"));
        }
        // Time and mode of the root are right as well, although the marker was removed last.
        assert_eq!(facts::of(&to), wanted);
        for entry in std::fs::read_dir(&to).unwrap() {
            let path = entry.unwrap().path();
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
        if killed > 2 {
            break;
        }
    }
    assert!(killed > 0, "no run was killed while it wrote");
}

#[test]
fn an_error_before_anything_was_written_leaves_nothing_behind() {
    let dir = shop(sample_tree);
    let before = facts::of(dir.path()).into_keys().filter(|k| !k.starts_with(b"cache")).collect::<Vec<_>>();
    std::fs::create_dir(dir.path().join("volume")).unwrap();
    let mounted = Mounted::bind(&dir.path().join("volume"), dir.path().join("mounted"));
    for to in ["new", "deep/er/new", "volume", "mounted"] {
        let output =
            understudy(dir.path()).args(["restore", "acme", to, "--path", "no/such"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    }
    assert_eq!(std::fs::read_dir(&mounted.0).unwrap().count(), 0);
    drop(mounted);
    std::fs::remove_dir(dir.path().join("mounted")).unwrap();
    std::fs::remove_dir(dir.path().join("volume")).unwrap();
    let after = facts::of(dir.path()).into_keys().filter(|k| !k.starts_with(b"cache")).collect::<Vec<_>>();
    assert_eq!(before, after);
}

#[test]
fn what_is_immutable_is_named_and_the_rest_is_restored() {
    let rig = Rig::new();
    for number in 0..300 {
        write(rig.source().join(format!("many/f{number:03}")), "new");
    }
    write(rig.source().join("locked/inside"), "new");
    write(rig.source().join("locked/deep/inside"), "new");
    write(rig.source().join("log"), "new");
    write(rig.source().join("same"), "same");
    write(rig.source().join("dir/file"), "new");
    // Its first name cannot be made, so the second becomes the first.
    write(rig.source().join("hard1"), "linked");
    std::fs::hard_link(rig.source().join("hard1"), rig.source().join("hard2")).unwrap();
    std::fs::hard_link(rig.source().join("hard1"), rig.source().join("hard3")).unwrap();
    rig.resync();
    let out = rig.dir.path().join("out");
    for old in ["many/f007", "log", "dir", "hard1", "extra/stays"] {
        write(out.join(old), "old");
    }
    write(out.join("same"), "same");
    std::fs::create_dir(out.join("locked")).unwrap();
    let _held = [
        ("many/f007", "i"),
        ("log", "a"),
        ("dir", "i"),
        ("hard1", "i"),
        ("locked", "i"),
        ("same", "i"),
        ("extra/stays", "i"),
    ]
    .map(|(name, flag)| Attribute::set(out.join(name), flag));

    let warnings = restored(&rig, &over(&rig, "out")).warnings;
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let new = (0..300).filter(|n| read(&format!("many/f{n:03}")) == "new").count();
    assert_eq!(new, 299);
    for (name, content) in
        [("many/f007", "old"), ("log", "old"), ("hard1", "old"), ("hard2", "linked"), ("extra/stays", "old")]
    {
        assert_eq!(read(name), content);
    }
    let inode = |name: &str| std::fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!(inode("hard2"), inode("hard3"));
    let paths = named(&warnings);
    for path in ["many/f007", "log", "dir", "hard1", "locked/inside", "locked/deep", "extra/stays", "same"] {
        assert!(paths.contains(&path), "{path}: {warnings:?}");
    }
    // Entries below a directory that cannot be made are counted, but not named.
    assert!(!paths.contains(&"dir/file") && !paths.contains(&"locked/deep/inside"), "{warnings:?}");
    assert_eq!((warnings.missing, warnings.left), (8, 1), "{warnings:?}");
    assert_eq!(hidden_names(&out), Vec::<String>::new());
}

#[test]
fn a_file_with_too_many_names_becomes_several() {
    let dir = shop(|source| {
        write(source.join("n0"), "content");
        for number in 1..10 {
            std::fs::hard_link(source.join("n0"), source.join(format!("n{number}"))).unwrap();
        }
        run("mknod", &["p0", "p"], source);
        std::fs::hard_link(source.join("p0"), source.join("p1")).unwrap();
    });
    let links = |to: &str, name: &str| std::fs::metadata(dir.path().join(to).join(name)).unwrap().nlink();
    // When the fourth link is refused, six names remain; when all are, no names are linked.
    for (to, when, joined) in [("one", "4", [4, 4, 6, 6, 2]), ("all", "1+", [1; 5])] {
        let inject = format!("inject=linkat:error=EMLINK:when={when}");
        let trace = ["-e", "trace=linkat", "-e", &inject];
        let (output, _) = traced(dir.path(), &trace, &["restore", "acme", to, "--json"]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let separate = if to == "one" { 1 } else { 10 };
        assert_eq!(
            (&report["warnings"]["separate"], &report["warnings"]["missing"]),
            (&separate.into(), &0.into())
        );
        assert_eq!(["n0", "n3", "n4", "n9", "p0"].map(|name| links(to, name)), joined, "{to}");
        for number in 0..10 {
            let name = format!("{to}/n{number}");
            assert_eq!(std::fs::read_to_string(dir.path().join(&name)).unwrap(), "content", "{name}");
        }
    }
}

#[test]
fn an_attribute_that_does_not_fit_is_named() {
    let rig = Rig::new();
    let large = vec![(b"user.large".to_vec(), vec![7; 60_000]), (b"user.small".to_vec(), b"x".to_vec())];
    let file = Entry { xattrs: Xattrs::Inline(large), mode: 0o640, ..payload("f") };
    let foreign = vec![(b"nowhere.to_be".to_vec(), b"x".to_vec())];
    let link = Entry {
        xattrs: Xattrs::Inline(foreign.clone()),
        ..entry("link", Kind::Symlink { target: b"f".to_vec() })
    };
    let dir = Entry { xattrs: Xattrs::Inline(foreign), ..entry("dir", Kind::Directory) };
    let page = leaf(&[entry("", Kind::Directory), dir, payload("dir/file"), file, link, payload("z")]);
    let disk = Mounted::image(rig.dir.path(), &["mkfs.ext4", "-q", "-O", "^ea_inode"], "loop");
    let request = RestoreRequest { destination: disk.0.join("out"), ..rig.restore_request("") };
    let warnings = restore_page_to(&rig, &page, 0, &request).unwrap().warnings;
    assert_eq!((warnings.attributes, warnings.total()), (3, 3), "{warnings:?}");
    assert_eq!(named(&warnings), ["dir", "f", "link"]);
    let out = &request.destination;
    assert_eq!(facts::attributes(&out.join("f")), [("user.small".to_owned(), b"x".to_vec())]);
    assert_eq!(std::fs::metadata(out.join("f")).unwrap().mode() & 0o777, 0o640);
    assert!(out.join("dir/file").exists() && out.join("z").exists());
}

#[test]
fn without_its_access_list_a_file_does_not_open_to_its_group() {
    // user::rw-, user:33:rw-, group::---, mask::rw-, other::---, which a mode shows as 660.
    let dir = shop(|source| {
        write(source.join("env"), "secret");
        mode(source.join("env"), 0o600);
        run("setfacl", &["-m", "u:33:rw", "env"], source);
        assert_eq!(std::fs::metadata(source.join("env")).unwrap().mode() & 0o777, 0o660);
    });
    let inject = ["-e", "trace=fsetxattr", "-e", "inject=fsetxattr:error=EOPNOTSUPP"];
    let output = traced(dir.path(), &inject, &["restore", "acme", "out", "--json"]).0;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("env: attribute not restored: cannot set attribute system.posix_acl_access")
    );
    assert_eq!(std::fs::metadata(dir.path().join("out/env")).unwrap().mode() & 0o777, 0o600);
}

/// Runs the real binary with failing system calls; returns its output and the trace.
fn traced(dir: &Path, trace: &[&str], args: &[&str]) -> (Output, String) {
    let binary = understudy(dir);
    let log = dir.join(format!("trace-{}", rig::nonce()));
    let mut command = Command::new("strace");
    command.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(dir);
    command.args(["-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o"]).arg(&log).args(trace);
    let output = command.arg(binary.get_program()).args(args).output().unwrap();
    let trace = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    (output, trace)
}

/// Mounts a filesystem without modes, owners, links and case-sensitive names at `usb`.
fn exfat(dir: &Path) -> Mounted {
    let image = dir.join("image");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.exfat", &[image.to_str().unwrap()], dir);
    std::fs::create_dir(dir.join("usb")).unwrap();
    let device = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().unwrap().stdout;
    let device = String::from_utf8(device).unwrap().trim().to_owned();
    run("mount.exfat-fuse", &[&device, "usb"], dir);
    // The loop device is removed with the mount.
    run("losetup", &["-d", &device], dir);
    Mounted(dir.join("usb"))
}

#[test]
fn a_filesystem_without_modes_links_and_some_names_gets_all_content_and_says_what_is_lost() {
    let dir = shop(|source| {
        sample_tree(source);
        for (name, bits) in
            [("secret", 0o600), ("Upper", 0o644), ("upper", 0o644), ("a:b", 0o644), ("dot.", 0o644)]
        {
            write(source.join("x").join(name), name);
            mode(source.join("x").join(name), bits);
        }
        write(source.join("x/DIR/file"), "of DIR");
        write(source.join("x/dir/file"), "of dir");
        run("mknod", &["fifo", "p"], source);
    });
    let usb = exfat(dir.path());
    let out = usb.0.join("out");
    for (round, flags) in [("first", &[][..]), ("second", &["--overwrite", "--delete"])] {
        let output = understudy(dir.path())
            .args(["restore", "acme", "usb/out", "--json"])
            .args(flags)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{round}: {}", text(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = &report["warnings"];
        let names: Vec<_> =
            warnings["first"].as_array().unwrap().iter().map(|w| w["path"].as_str().unwrap()).collect();
        // Files that others can read now are named before files that are merely different.
        for path in ["x/secret", "x/a:b", "a/link", "fifo", "x/upper", "x/dir", "c/hard"] {
            assert!(names.contains(&path), "{round}: {path}: {warnings:#}");
        }
        assert!(text(&output).contains("more accessible than before"), "{round}: {}", text(&output));
        // Of two names that are one on this filesystem, neither overwrote the other.
        assert_eq!(std::fs::read_to_string(out.join("x/Upper")).unwrap(), "Upper", "{round}");
        assert_eq!(std::fs::read_to_string(out.join("x/DIR/file")).unwrap(), "of DIR", "{round}");
        for name in ["a/b/f39", "c/medium", "c/hard", "x/secret"] {
            let read = |at: &Path| std::fs::read(at.join(name)).unwrap();
            assert!(read(&out) == read(&dir.path().join("source")), "{round}: {name}");
        }
    }
}

#[test]
fn what_has_another_entry_s_name_in_other_letters_is_not_deleted() {
    let dir = shop(|source| {
        write(source.join("readme"), "new");
        write(source.join("other"), "new");
    });
    let usb = exfat(dir.path());
    write(usb.0.join("out/README"), "old");
    write(usb.0.join("out/extra"), "old");
    let restore = |flags: &[&str]| {
        let args = [&["restore", "acme", "usb/out", "--json", "--overwrite"], flags].concat();
        let output = understudy(dir.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let report = restore(&["--delete"]);
    assert_eq!(
        (&report["warnings"]["missing"], &report["warnings"]["left"]),
        (&1.into(), &1.into()),
        "{report:#}"
    );
    for (name, content) in [("README", "old"), ("other", "new"), ("extra", "old")] {
        assert_eq!(std::fs::read_to_string(usb.0.join("out").join(name)).unwrap(), content);
    }
    std::fs::remove_file(usb.0.join("out/README")).unwrap();
    let report = restore(&["--delete"]);
    assert_eq!((&report["warnings"]["missing"], &report["removed"]), (&0.into(), &1.into()), "{report:#}");
    assert_eq!(std::fs::read_to_string(usb.0.join("out/readme")).unwrap(), "new");
}

/// Returns the real binary as an unprivileged user.
fn as_user(dir: &Path, groups: &str, args: &[&str]) -> Output {
    let binary = understudy(dir);
    let mut command = Command::new("setpriv");
    command.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(dir);
    command.args(["--reuid", "1000", "--regid", "1000"]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.env("XDG_CACHE_HOME", dir.join("home/cache")).env("HOME", dir.join("home"));
    // A key file that this user may read.
    command.env("UNDERSTUDY_KEY_FILE", rig::key_file());
    command.arg(binary.get_program()).args(args).output().unwrap()
}

#[test]
fn a_user_without_privileges_gets_all_content_and_is_told_the_rest() {
    let dir = shop(|source| {
        for (name, bits, uid, gid) in [
            ("plain", 0o644, 0, 0),
            ("group", 0o640, 0, 33),
            ("suid", 0o4755, 0, 0),
            ("mine", 0o660, 1000, 1000),
            ("theirs", 0o660, 1000, 44),
            ("read-only/file", 0o444, 1000, 1000),
        ] {
            write(source.join(name), name);
            std::os::unix::fs::chown(source.join(name), Some(uid), Some(gid)).unwrap();
            mode(source.join(name), bits);
        }
        std::os::unix::fs::chown(source.join("read-only"), Some(1000), Some(1000)).unwrap();
        mode(source.join("read-only"), 0o555);
    });
    mode(dir.path(), 0o755);
    run("chmod", &["-R", "a+rX", "repository"], dir.path());
    for at in ["home", "setgid"] {
        std::fs::create_dir(dir.path().join(at)).unwrap();
        std::os::unix::fs::chown(dir.path().join(at), Some(1000), Some(33)).unwrap();
        mode(dir.path().join(at), 0o2775);
    }
    // In groups 33 and 44, below a set-group-id directory of group 33.
    let output = as_user(dir.path(), "33,44", &["restore", "acme", "setgid/out", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let out = dir.path().join("setgid/out");
    let found = |name: &str| {
        let found = std::fs::metadata(out.join(name)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!(found("mine"), (0o660, 1000, 1000), "not the directory's group");
    assert_eq!(found("theirs"), (0o660, 1000, 44));
    assert_eq!(found("group"), (0o640, 1000, 33), "as much as a member may set");
    assert_eq!(found("suid"), (0o755, 1000, 1000), "it does not run as somebody else");
    assert_eq!(found("read-only"), (0o555, 1000, 1000));
    assert_eq!(report["warnings"]["wider"], 0, "{report:#}");
    assert_eq!(report["warnings"]["missing"], 0, "{report:#}");
    // In no group: members of group 1000 can then read what members of 33 could.
    let output = as_user(dir.path(), "", &["restore", "acme", "home/out", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let wider: Vec<_> =
        report["warnings"]["first"].as_array().unwrap().iter().filter(|w| w["kind"] == "wider").collect();
    assert_eq!(report["warnings"]["wider"], 2, "{report:#}");
    assert_eq!((&wider[0]["path"], &wider[1]["path"]), (&"group".into(), &"theirs".into()));
    // A second time, over a directory that its owner may not write to.
    std::fs::write(out.join("read-only/file"), "changed").unwrap();
    let output = as_user(dir.path(), "33,44", &["restore", "acme", "setgid/out", "--overwrite", "--quiet"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(out.join("read-only/file")).unwrap(), "read-only/file");
    assert_eq!(found("read-only"), (0o555, 1000, 1000));
    // The user's own directory, with a parent of another user.
    std::fs::create_dir(dir.path().join("own")).unwrap();
    std::os::unix::fs::chown(dir.path().join("own"), Some(1000), Some(1000)).unwrap();
    let output = as_user(dir.path(), "", &["restore", "acme", "own", "--quiet"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(dir.path().join("own/mine")).unwrap(), "mine");
    assert_eq!(hidden_names(&dir.path().join("own")), Vec::<String>::new());
}

#[test]
fn entries_without_their_directory_come_back_in_one_that_only_its_owner_sees() {
    let rig = Rig::new();
    let root = Entry { uid: 5, gid: 6, ..entry("", Kind::Directory) };
    let page =
        leaf(&[root, payload("a"), payload("vendor/deep/er/f1"), payload("vendor/deep/f2"), payload("z")]);
    let report = restore_page_to(&rig, &page, 0, &rig.restore_request("out")).unwrap();
    let out = rig.dir.path().join("out");
    for name in ["a", "vendor/deep/er/f1", "vendor/deep/f2", "z"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), b"payload", "{name}");
    }
    assert_eq!(named(&report.warnings), ["vendor", "vendor/deep", "vendor/deep/er"], "{:?}", report.warnings);
    let vendor = std::fs::metadata(out.join("vendor")).unwrap();
    assert_eq!((vendor.mode() & 0o7777, vendor.uid(), vendor.gid()), (0o700, 5, 6));
    // Even the root's own entry may be missing. Other files in such a directory are not deleted.
    write(out.join("vendor/more"), "x");
    let page = leaf(&[payload("a"), payload("vendor/f3")]);
    let report = restore_page_to(&rig, &page, 0, &over(&rig, "out")).unwrap();
    assert_eq!(report.warnings.orphaned, 2, "{:?}", report.warnings);
    assert!(out.join("vendor/f3").exists() && out.join("vendor/more").exists() && out.join("z").exists());
}

#[test]
fn a_damaged_file_is_left_as_it_was_and_the_rest_is_restored() {
    let rig = Rig::new();
    for number in 0..20 {
        std::fs::write(rig.source().join(format!("f{number:02}")), random(&[number], 200_000)).unwrap();
    }
    rig.resync();
    let wanted = facts::of(&rig.source());
    let pack = &keys(&rig, "/packs/")[0];
    damage(&rig, pack, Damage::Flip);
    let report = restored(&rig, &rig.restore_request("out"));
    let lost = report.warnings.first[0].path.clone();
    assert_eq!((report.warnings.damaged, report.warnings.total()), (1, 1), "{:?}", report.warnings);
    let without = |facts: Facts| facts.into_iter().filter(|(k, _)| k != lost.as_bytes()).collect::<Facts>();
    assert_eq!(facts::of(&rig.dir.path().join("out")), without(wanted.clone()));
    // An existing file of that name stays.
    std::fs::write(rig.dir.path().join("out").join(&lost), "older").unwrap();
    let report = restored(&rig, &over(&rig, "out"));
    assert_eq!(report.warnings.damaged, 1);
    assert_eq!(std::fs::read_to_string(rig.dir.path().join("out").join(&lost)).unwrap(), "older");
    assert_eq!(without(facts::of(&rig.dir.path().join("out"))), without(wanted));
}

#[test]
fn what_would_meet_every_entry_ends_a_restore_and_the_next_goes_on() {
    let dir = shop(sample_tree);
    for (call, errno) in
        [("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("pwrite64", "EROFS"), ("mkdirat", "EMFILE")]
    {
        let to = format!("{call}-{errno}");
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}:when=2"));
        let restore = ["restore", "acme", &to, "--quiet"];
        let (output, _) = traced(dir.path(), &["-e", &trace, "-e", &inject], &restore);
        assert_eq!(output.status.code(), Some(1), "{to}: {}", text(&output));
        assert!(!dir.path().join(&to).exists(), "{to}");
        ok(understudy(dir.path()).args(restore));
        assert_same(&dir.path().join("source"), &dir.path().join(&to), &to);
    }
    assert_eq!(hidden_names(dir.path()), Vec::<String>::new());
}

/// Restores with an error injected; every difference must be named, and without a warning there must be none.
fn strike(dir: &Path, wanted: &Facts, call: &str, errno: &str, at: u64, to: &str, flags: &[&str]) -> bool {
    let args = [&["restore", "acme", to, "--json"], flags].concat();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}:when={at}"));
    let (output, log) = traced(dir, &["-e", &trace, "-e", &inject], &args);
    let what = format!("{call} {errno} at {at}: {}", text(&output));
    let struck = log.contains("(INJECTED)");
    let report: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    match (output.status.code(), report) {
        (Some(0), Some(_)) => assert_eq!(&facts::of(&dir.join(to)), wanted, "{what}"),
        (Some(3), Some(report)) => {
            let named = report["warnings"]["first"].as_array().unwrap().iter();
            let named: Vec<_> = named.map(|w| w["path"].as_str().unwrap()).collect();
            let shown = |path: &[u8]| TreePath::parse(path).unwrap().to_string();
            let parts = |fact: &String| {
                let (fact, rest) = fact.split_once(" link ").unwrap();
                let (link, attributes) = rest.split_once(" attributes ").unwrap();
                (link.to_owned(), format!("{fact} {attributes}"))
            };
            // Of two names of one file either may be missing, and the other is then alone. What the file
            // lacks is reported for one of its names.
            let alone = |fact: &String| parts(fact).1;
            let told_links = wanted.iter().filter(|(path, _)| named.contains(&&*shown(path)));
            let told_links: Vec<_> = told_links.map(|(_, fact)| parts(fact).0).collect();
            let found = facts::of(&dir.join(to));
            // The path itself or a directory above it is named. (A warning about the root says nothing about
            // its content.)
            let told = |path: &[u8]| {
                let path = TreePath::parse(path).unwrap();
                let top = |at| path.components().take(at).fold(TreePath::root(), |top, name| top.join(name));
                let tops = (0..=path.components().count()).map(|at| top(at).to_string());
                tops.filter(|top| top != "." || path.is_root()).any(|top| named.contains(&&*top))
            };
            for (path, fact) in wanted {
                let link = parts(fact).0;
                let told = told(path) || (link != "None" && told_links.contains(&link));
                assert!(
                    told || found.get(path).map(alone) == Some(alone(fact)),
                    "{what}: {}\n{fact}\n{:?}",
                    String::from_utf8_lossy(path),
                    found.get(path)
                );
            }
            // Entries that were left are named, and their directories stay with them.
            for path in found.keys().filter(|path| !wanted.contains_key(*path)) {
                let above = format!("{}/", shown(path));
                assert!(told(path) || named.iter().any(|name| name.starts_with(&above)), "{what}: {above}");
            }
        }
        (Some(1), _) => assert!(text(&output).contains("understudy: "), "{what}"),
        other => panic!("{what}: {other:?}"),
    }
    struck
}

/// The calls that create something, with errors that they may return.
const CALLS: [(&str, &str); 12] = [
    ("mkdirat", "EPERM"),
    ("symlinkat", "EPERM"),
    ("linkat", "EMLINK"),
    ("mknodat", "EOPNOTSUPP"),
    ("fchownat,fchown", "EPERM"),
    ("fchmod", "EPERM"),
    ("chmod,fchmodat", "EPERM"),
    ("fsetxattr", "ENOSPC"),
    ("setxattr", "EDQUOT"),
    ("utimensat", "EPERM"),
    ("renameat,renameat2", "EPERM"),
    ("unlinkat", "EBUSY"),
];

/// Injects an error at every call's first, second, ... time; returns the number of failures.
fn strike_everywhere(flags: &[&str], before: impl Fn(&Path)) -> usize {
    let dir = shop(|source| {
        all_kinds(source);
        std::fs::remove_file(source.join("c/medium")).unwrap();
    });
    let wanted = facts::of(&dir.path().join("source"));
    let mut struck = 0;
    for (call, errno) in CALLS {
        for at in [1, 2, 4, 8] {
            let to = format!("out-{}-{at}", call.replace(',', "-"));
            before(&dir.path().join(&to));
            struck += usize::from(strike(dir.path(), &wanted, call, errno, at, &to, flags));
        }
    }
    struck
}

#[test]
fn whatever_call_fails_what_is_not_as_it_was_is_named() {
    let struck = strike_everywhere(&[], |_| {});
    assert!(struck > 20, "{struck} calls failed");
}

#[test]
fn whatever_call_fails_over_a_tree_what_is_not_as_it_was_is_named() {
    let struck = strike_everywhere(&["--overwrite", "--delete"], |to| {
        for name in ["a/b/f1", "a/b/f3", "extra", "dangling", "empty/extra/deep", "old/deep/er"] {
            write(to.join(name), "old");
        }
    });
    assert!(struck > 30, "{struck} calls failed");
}

#[test]
fn a_restore_that_deletes_leaves_what_understudy_keeps_there() {
    let rig = Rig::new();
    write(rig.source().join("shop/index.php"), "shop");
    write(rig.source().join("local/other"), "other");
    rig.resync();
    let out = rig.dir.path().join("out");
    write(out.join("local/share/repository/packs/ab"), "all snapshots");
    write(out.join("local/stray"), "stray");
    // By another name of the same place.
    std::os::unix::fs::symlink(&out, rig.dir.path().join("alias")).unwrap();
    let own = vec![rig.dir.path().join("alias/local/share/repository"), rig.dir.path().join("nowhere")];
    let report = restored(&rig, &RestoreRequest { own: own.clone(), ..over(&rig, "out") });
    assert_eq!(std::fs::read(out.join("local/share/repository/packs/ab")).unwrap(), b"all snapshots");
    assert!(!out.join("local/stray").exists());
    assert_eq!((report.warnings.left, named(&report.warnings)), (1, vec!["local/share"]));
    // Nothing is restored into the place itself.
    let inside = RestoreRequest { own, ..over(&rig, "out/local/share/repository/packs") };
    let error = rig::restore_at(&rig.store(), Moment::Latest, &inside).unwrap_err().to_string();
    assert!(error.contains("a directory of understudy's own"), "{error}");
}

#[test]
fn what_is_restored_to_a_mount_with_owners_of_its_own_is_there() {
    let dir = tempfile::tempdir().unwrap();
    crate::support::tree::sample_tree(&dir.path().join("source"));
    let fifo = dir.path().join("source/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for name in ["back", "shared"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    // NFS shows files of root's like this where root is squashed to `nobody`.
    ok(Command::new("bindfs")
        .args(["--force-user=65534", "--force-group=65534", "--chown-ignore"])
        .args([dir.path().join("back"), dir.path().join("shared")]));
    let _mount = MountPoint(dir.path().join("shared"));
    let output = understudy(dir.path()).args(["restore", "acme", "shared/out", "--quiet"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "owners are not kept: {}", text(&output));
    let out = dir.path().join("shared/out");
    assert_eq!(std::fs::read_link(out.join("a/link")).unwrap(), Path::new("b/f1"));
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(
        &out.join("fifo").symlink_metadata().unwrap().file_type()
    ));
}
