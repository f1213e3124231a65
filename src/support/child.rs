//! The user's programs: what a hook and a drill's command are given, and as which user they run.
//!
//! They are given a path, a home, a language and the `UNDERSTUDY_*` variables, and nothing else that this
//! process knows: neither its passphrase nor the credentials of its bucket. A relative program is refused: a
//! drill works in a snapshot, which is the tenant's, and a command may be typed in a tenant's tree.
//!
//! This program runs itself once more as an intermediate process. That one begins a session of its own, so
//! that no process in it has the terminal of the user who typed a command, and starts the user's program in
//! it. In this way it can become another user first, and it notices when the process that asked has ended or
//! gives up: its standard input is a pipe that is closed then (the *leash*). It then ends its process group,
//! including itself. For a drill it ends every process that was started, in whichever session that is by now,
//! also when the command itself has ended: orphans become its children. It keeps this process's user, so that
//! another user's signals do not reach it.

use super::env::Env;
use super::failure::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

/// Path of this program, even if its file was replaced or removed.
pub(crate) const THIS: &str = "/proc/self/exe";
/// The hidden command that [`run_confined`] serves.
pub(crate) const CONFINED: &str = "confined";
/// The `PATH` that is used when the environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Id of the user and group that own nothing.
const NOBODY: u32 = 65_534;
/// Maximum time for a killed process to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Exit code by which a shell reports that a program does not exist.
const NOT_STARTED: i32 = 127;
/// Variables that are never handed on.
const SECRETS: [&str; 2] = ["UNDERSTUDY_PASSPHRASE", "UNDERSTUDY_NEW_PASSPHRASE"];

/// The reason why a program is not started.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the path is relative; give an absolute path, or a name on the PATH")]
    Relative,
    #[error("there is no user '{0}' in /etc/passwd; give a name from there, a number, or NUMBER:GROUP")]
    NoUser(String),
    #[error("running it as another user requires root")]
    NotRoot,
}

impl Failure for ChildError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// The user that a program runs as, and what is handed on to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// The user; none for the user of this process.
    pub user: Option<User>,
    /// Whether a process that is not root may run the program as its own user instead.
    pub is_optional: bool,
    /// Whether every process that the program started is ended with it.
    pub ends_all: bool,
    /// Whether the program and its children are kept from gaining further rights.
    pub no_new_privileges: bool,
    /// Names of this process's variables that are handed on.
    pub environment: Vec<String>,
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: PathBuf,
}

impl User {
    pub(crate) fn nobody() -> Self {
        Self { uid: NOBODY, gid: NOBODY, groups: Vec::new(), home: "/".into() }
    }

    /// Finds a user by a name of `/etc/passwd`, a number, or `NUMBER:GROUP`.
    ///
    /// # Errors
    /// [`ChildError::NoUser`].
    pub fn find(name: &str) -> Result<Self, ChildError> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::find_in(name, &read("/etc/passwd"), &read("/etc/group"))
            .ok_or_else(|| ChildError::NoUser(name.to_owned()))
    }

    fn find_in(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let (user, given) = match name.split_once(':') {
            Some((user, group)) => (user, Some(group.parse().ok()?)),
            None => (name, None),
        };
        let known = passwd.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [login, _, uid, gid, _, home, ..] = fields[..] else { return None };
            let is = login == user || (uid == user && user.bytes().all(|b| b.is_ascii_digit()));
            is.then(|| Some((login.to_owned(), uid.parse().ok()?, gid.parse().ok()?, PathBuf::from(home))))?
        });
        let (login, uid, gid, home) = match known {
            Some(known) => known,
            None => (String::new(), user.parse().ok()?, user.parse().ok()?, PathBuf::from("/")),
        };
        let member = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|m| m == login && !login.is_empty()).then(|| gid.parse().ok())?
        };
        let groups = if given.is_none() { group.lines().filter_map(member).collect() } else { Vec::new() };
        Some(Self { uid, gid: given.unwrap_or(gid), groups, home })
    }
}

/// Formats as `UID:GID:GROUP,…`, which the hidden command parses.
impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups: Vec<_> = self.groups.iter().map(u32::to_string).collect();
        write!(f, "{}:{}:{}", self.uid, self.gid, groups.join(","))
    }
}

impl FromStr for User {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split(':');
            let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let groups = parts.next()?.split(',').filter(|group| !group.is_empty());
            Some(Self {
                uid,
                gid,
                groups: groups.map(|g| g.parse().ok()).collect::<Option<_>>()?,
                home: "/".into(),
            })
        };
        parse().ok_or("UID:GID:GROUPS")
    }
}

/// Returns whether a variable may be handed on.
pub(crate) fn may_be_handed_on(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !SECRETS.contains(&name)
}

/// Returns the command that runs `program` with these settings; `this` is this program.
///
/// # Errors
/// A relative program, and another user where this process is not root.
pub(crate) fn command(
    this: &Path,
    program: &str,
    arguments: &[String],
    how: &Confinement,
) -> Result<Command, ChildError> {
    if program.contains('/') && !program.starts_with('/') {
        return Err(ChildError::Relative);
    }
    let own = rustix::process::geteuid();
    let user = match &how.user {
        Some(user) if user.uid == own.as_raw() => None,
        Some(_) if !own.is_root() && how.is_optional => None,
        Some(_) if !own.is_root() => return Err(ChildError::NotRoot),
        other => other.as_ref(),
    };
    let mut command = Command::new(this);
    command.arg0("understudy").args([CONFINED, "--leashed"]);
    command.args(how.ends_all.then_some("--ends-all"));
    command.args(["--umask", &format!("{:o}", super::private::given_umask())]);
    if let Some(user) = user {
        command.args(["--user", &user.to_string()]);
    }
    command.args(how.no_new_privileges.then_some("--no-new-privileges"));
    command.arg("--").arg(program).args(arguments);
    command.env_clear();
    let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    command.env("PATH", own_path());
    let home = user.map(|user| user.home.clone().into_os_string()).or_else(|| own("HOME"));
    command.envs(home.map(|home| ("HOME", home))).envs(own("LANG").map(|lang| ("LANG", lang)));
    for name in how.environment.iter().filter(|name| may_be_handed_on(name)) {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    Ok(command)
}

/// Returns this process's `PATH` as it is given to other programs.
pub(crate) fn own_path() -> OsString {
    clean_path(std::env::var_os("PATH").as_deref())
}

/// Removes the entries that mean the current directory.
fn clean_path(path: Option<&OsStr>) -> OsString {
    let whole = std::env::split_paths(path.unwrap_or_default()).filter(|dir| dir.is_absolute());
    match std::env::join_paths(whole) {
        Ok(path) if !path.is_empty() => path,
        _ => DEFAULT_PATH.into(),
    }
}

/// The arguments of the hidden command.
pub struct Told {
    /// Whether the process that asks holds the other end of standard input and waits; else the hidden command
    /// becomes the program at once.
    pub is_leashed: bool,
    pub umask: u32,
    pub user: Option<User>,
    pub no_new_privileges: bool,
    pub ends_all: bool,
    pub program: Vec<OsString>,
}

/// Runs the program as an intermediate process, or becomes it. Ends this process; returns the reason if
/// neither was possible.
pub(crate) fn run_confined(told: &Told, again: &[OsString]) -> io::Error {
    if !told.is_leashed {
        return become_it(told);
    }
    // The process is the leader of its group already only if a user typed this command.
    let _ = rustix::process::setsid();
    if told.ends_all
        && let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
    {
        return errno.into();
    }
    let mut child = match Command::new(THIS).arg0("understudy").args(again).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => return error,
    };
    let leash = io::stdin();
    let id = Pid::from_raw(child.id().try_into().unwrap_or_default());
    // Kernels before 5.3 have no pidfd; there the process is polled.
    let other = id.and_then(|id| rustix::process::pidfd_open(id, PidfdFlags::empty()).ok());
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return error,
        }
        let time = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut ends = vec![PollFd::new(&leash, PollFlags::IN)];
        ends.extend(other.as_ref().map(|other| PollFd::new(other, PollFlags::IN)));
        match poll(&mut ends, if other.is_some() { None } else { Some(&time) }) {
            Ok(_) if !ends[0].revents().is_empty() => {
                if told.ends_all {
                    end_all();
                }
                let _ = rustix::process::kill_current_process_group(Signal::KILL);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return errno.into(),
        }
    };
    if told.ends_all {
        end_all();
    }
    // A shell reports a process that a signal ended by the same code.
    std::process::exit(status.code().unwrap_or(128 + status.signal().unwrap_or_default()))
}

/// Kills all children until none is left. The children of a killed process become this process's and are
/// killed as well.
fn end_all() {
    // This is the intermediate process; it has no environment but the system's.
    let env = Env::system();
    let begun = env.stopwatch();
    while begun.elapsed() < END_LIMIT {
        for child in children() {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => env.sleep(Duration::from_millis(2)),
            Err(_) => return,
        }
    }
}

/// Returns this process's children, found in `/proc/*/stat`: the parent is the second field after the
/// program's name, which may contain any character.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let child = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let parent = std::str::from_utf8(&stat[behind..]).ok()?.split_ascii_whitespace().nth(1)?;
        (parent.parse() == Ok(own)).then(|| Pid::from_raw(id))?
    };
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| child(entry.ok()?)).collect()
}

/// Replaces this process by the program. The process has a single thread, so settings of the thread hold for
/// the process.
fn become_it(told: &Told) -> io::Error {
    let Some((program, arguments)) = told.program.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    rustix::process::umask(Mode::from_raw_mode(told.umask & 0o777));
    if let Some(user) = &told.user
        && let Err(errno) = become_user(user)
    {
        let advice = match errno {
            Errno::PERM => {
                "; this requires CAP_SETUID and CAP_SETGID: grant them, or set `user` to one that it may run as"
            }
            _ => "",
        };
        let text = format!("cannot become user {}: {}{advice}", user.uid, io::Error::from(errno));
        return io::Error::new(errno.kind(), text);
    }
    if told.no_new_privileges
        && let Err(errno) = set_no_new_privs(true)
    {
        return errno.into();
    }
    let error = Command::new(program).args(arguments).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}

fn become_user(user: &User) -> Result<(), Errno> {
    let groups: Vec<_> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    let (gid, uid) = (Gid::from_raw(user.gid), Uid::from_raw(user.uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Ends this process with the exit code of a program that was not started.
pub(crate) fn not_started() -> ! {
    std::process::exit(NOT_STARTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34:web:/var/www:/bin/false\n";
        let group = "root:x:0:\nssl:x:107:web,other\nmail:x:8:other\n";
        let find = |name| User::find_in(name, passwd, group);
        let web = User { uid: 33, gid: 34, groups: vec![107], home: "/var/www".into() };
        assert_eq!(find("web"), Some(web.clone()));
        assert_eq!(find("33"), Some(web.clone()));
        assert_eq!(find("33:7"), Some(User { gid: 7, groups: vec![], ..web.clone() }));
        assert_eq!(find("4000"), Some(User { uid: 4000, gid: 4000, groups: vec![], home: "/".into() }));
        assert_eq!((find("nosuch"), find(""), find("web:"), find("web:x")), (None, None, None, None));
        let told: User = web.to_string().parse().unwrap();
        assert_eq!(told, User { home: "/".into(), ..web });
    }

    #[test]
    fn a_path_leads_nowhere_by_chance_and_a_program_neither() {
        assert_eq!(clean_path(Some(OsStr::new("/bin::.:x/y:/opt/bin"))), "/bin:/opt/bin");
        for none in [None, Some(OsStr::new("")), Some(OsStr::new(".:bin"))] {
            assert_eq!(clean_path(none), DEFAULT_PATH);
        }
        let made = |program| command(Path::new(THIS), program, &[], &Confinement::default());
        for relative in ["bin/check", "./check", "../check"] {
            assert!(matches!(made(relative), Err(ChildError::Relative)), "{relative}");
        }
        let command = made("sh").unwrap();
        let names: Vec<_> = command.get_envs().map(|(name, _)| name.to_str().unwrap()).collect();
        assert!(names.iter().all(|name| ["PATH", "HOME", "LANG"].contains(name)), "{names:?}");
        assert!(!may_be_handed_on("UNDERSTUDY_PASSPHRASE") && may_be_handed_on("MYSQL_PWD"));
    }
}
