//! A drill's second process: looks at what the drill mounted, and removes the mount when the drill has ended.
//!
//! It is a process of its own because the drill serves a FUSE mount by its own threads, and a process that
//! waits for itself cannot be killed: the threads that would answer the pending request are dead by then, the
//! thread that waits for it never ends, and so the FUSE device stays open whose closing would end the wait.
//! The second process serves nothing: when the drill is killed, the kernel ends the mount and every wait in
//! it.
//!
//! It is given a directory and no secret: neither an environment nor the repository. It reads entries as
//! lines of JSON from its standard input and answers with one line, the result of the comparison. Its
//! standard input is a leash as well: when that is closed, the drill has ended, in whichever way. Then it
//! unmounts what is still mounted there and removes the pin. It leads a session of its own, so that signals
//! from a terminal do not end it.

use crate::model::entry::{Entry, Kind};
use crate::model::id::ContentHash;
use crate::model::tree_path::TreePath;
use crate::mounts::unmount::unmount;
use crate::support::child::{self, THIS};
use crate::support::env::Env;
use crate::support::program;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The hidden command that [`run`] serves.
pub(crate) const LOOK: &str = "look";
/// Number of bytes that a writable pipe takes without blocking (`PIPE_BUF`).
const PIPE_BYTES: usize = 4096;
/// Maximum length of an answer in bytes.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// Interval between checks whether the drill is asked to end.
const STOP_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Maximum time for the process to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A line that the process reads.
#[derive(Serialize, Deserialize)]
enum Told {
    Entry(Wanted),
    /// The end of the entries.
    End,
}

/// An entry as the snapshot has it.
#[derive(Serialize, Deserialize)]
struct Wanted {
    path: TreePath,
    mode: u16,
    kind: WantedKind,
    /// Whether the file is read and compared with its hash.
    is_read: bool,
}

#[derive(Serialize, Deserialize)]
enum WantedKind {
    Directory,
    File { size_bytes: u64, hash: ContentHash },
    Symlink,
    Other,
}

/// The line that the process writes.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// All entries are as the snapshot has them.
    Same,
    Differs {
        path: String,
        reason: String,
    },
}

/// The reason why no further entry is looked up.
#[derive(Debug)]
pub(crate) enum LookError {
    Stopped,
    Differs {
        path: String,
        reason: String,
    },
    /// The process has ended, or its line is not a valid answer.
    Lost,
}

/// The second process, as the drill sees it.
pub(crate) struct Looker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Lines that are not written yet.
    lines: Vec<u8>,
}

impl Looker {
    /// Starts the process for a directory on which nothing is mounted yet.
    pub(crate) fn start(standby: &Path, dir: &Path) -> io::Result<Self> {
        let mut command = Command::new(THIS);
        command.arg0("understudy").args([LOOK.as_ref(), standby.as_os_str(), dir.as_os_str()]);
        command.env_clear().env("PATH", child::own_path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        Ok(Self { child, stdin, stdout, lines: Vec::new() })
    }

    /// Has the process look up an entry. An error may concern an earlier entry.
    pub(crate) fn look(
        &mut self,
        entry: &Entry,
        is_read: bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), LookError> {
        let kind = match &entry.kind {
            Kind::Directory => WantedKind::Directory,
            Kind::File(file) => WantedKind::File { size_bytes: file.size_bytes, hash: file.hash },
            Kind::Symlink { .. } => WantedKind::Symlink,
            _ => WantedKind::Other,
        };
        self.tell(&Told::Entry(Wanted { path: entry.path.clone(), mode: entry.mode, kind, is_read }));
        match self.lines.len() {
            waiting if waiting < 4 * PIPE_BYTES => Ok(()),
            _ => self.write(stop),
        }
    }

    /// Waits until all entries were looked up; the first one that differs from the snapshot is the error.
    pub fn finish(&mut self, stop: &dyn Fn() -> bool) -> Result<(), LookError> {
        self.tell(&Told::End);
        self.write(stop)?;
        match self.wait(PollFlags::empty(), stop)? {
            Ready::Answer => self.answer(),
            Ready::Room => Err(LookError::Lost),
        }
    }

    fn tell(&mut self, told: &Told) {
        self.lines.extend(serde_json::to_vec(told).unwrap_or_default());
        self.lines.push(b'\n');
    }

    fn write(&mut self, stop: &dyn Fn() -> bool) -> Result<(), LookError> {
        let lines = std::mem::take(&mut self.lines);
        for part in lines.chunks(PIPE_BYTES) {
            match self.wait(PollFlags::OUT, stop)? {
                Ready::Answer => return self.answer(),
                Ready::Room => {}
            }
            let stdin = self.stdin.as_mut().ok_or(LookError::Lost)?;
            stdin.write_all(part).map_err(|_| LookError::Lost)?;
        }
        Ok(())
    }

    /// Waits until the process answers or, with `OUT`, until the pipe has room for [`PIPE_BYTES`].
    fn wait(&self, flags: PollFlags, stop: &dyn Fn() -> bool) -> Result<Ready, LookError> {
        let stdin = self.stdin.as_ref().ok_or(LookError::Lost)?;
        while !stop() {
            let mut ends = [PollFd::new(&self.stdout, PollFlags::IN), PollFd::new(stdin, flags)];
            match poll(&mut ends, Some(&STOP_EVERY)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(LookError::Lost),
            }
            let [answer, room] = ends.map(|end| end.revents());
            if !answer.is_empty() {
                return Ok(Ready::Answer);
            }
            if room.contains(PollFlags::ERR) {
                return Err(LookError::Lost);
            }
            if room.contains(PollFlags::OUT) {
                return Ok(Ready::Room);
            }
        }
        Err(LookError::Stopped)
    }

    /// Reads the answer, which is one short line.
    fn answer(&mut self) -> Result<(), LookError> {
        let mut line = Vec::new();
        let read = io::BufReader::new((&mut self.stdout).take(ANSWER_MAX_BYTES)).read_until(b'\n', &mut line);
        match read.ok().and_then(|_| serde_json::from_slice(&line).ok()) {
            Some(Answer::Same) => Ok(()),
            Some(Answer::Differs { path, reason }) => Err(LookError::Differs { path, reason }),
            None => Err(LookError::Lost),
        }
    }

    /// Ends the process. It removes the mount itself if `is_mounted`; else it is killed.
    pub(crate) fn end(mut self, env: &Env, is_mounted: bool) {
        if !is_mounted {
            let _ = self.child.kill();
        }
        drop(self.stdin.take());
        if program::wait(env, &mut self.child, END_LIMIT).is_none() {
            let _ = self.child.kill();
        }
    }
}

/// The event that ended [`Looker::wait`].
enum Ready {
    Answer,
    Room,
}

/// Runs the second process until its standard input is closed.
pub(crate) fn run(standby: &Path, dir: &Path) -> io::Result<()> {
    // The process is the leader of its group already only if a user typed this command.
    let _ = rustix::process::setsid();
    let mut has_answered = false;
    let say = |answer: Answer| {
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        // The drill may have ended, or read its answer already.
        let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    };
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A read error counts as the end of the input.
        if input.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
            break;
        }
        if is_leash_gone() {
            break;
        }
        if has_answered {
            continue;
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Told::Entry(wanted)) => match look(dir, &wanted) {
                Ok(()) => continue,
                Err(reason) => Answer::Differs { path: wanted.path.to_string(), reason },
            },
            Ok(Told::End) => Answer::Same,
            Err(_) => break,
        };
        say(answer);
        has_answered = true;
    }
    match unmount(standby, dir, true) {
        Ok(_) => Ok(()),
        // The drill has usually removed the mount already.
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Returns whether the drill has ended, also when it wrote data before that.
fn is_leash_gone() -> bool {
    let input = io::stdin();
    let mut ends = [PollFd::new(&input, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&now)).is_ok_and(|_| ends[0].revents().contains(PollFlags::HUP))
}

/// Compares an entry with what is mounted; the error describes the difference.
fn look(dir: &Path, wanted: &Wanted) -> Result<(), String> {
    let path = dir.join(std::ffi::OsStr::from_bytes(wanted.path.as_bytes()));
    let meta = std::fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
    let kind = meta.file_type();
    let is_same_kind = match &wanted.kind {
        WantedKind::Directory => kind.is_dir(),
        WantedKind::File { size_bytes, .. } => kind.is_file() && meta.len() == *size_bytes,
        WantedKind::Symlink => kind.is_symlink(),
        // A mount may show devices as entries that cannot be opened.
        WantedKind::Other => !kind.is_dir() && !kind.is_file(),
    };
    let is_same_mode = meta.mode() & 0o777 == u32::from(wanted.mode) & 0o777 || kind.is_symlink();
    if !is_same_kind || !is_same_mode {
        return Err("it differs from the snapshot's entry".into());
    }
    let WantedKind::File { hash, .. } = &wanted.kind else { return Ok(()) };
    if !wanted.is_read {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    let mut opened = std::fs::File::open(&path).map_err(|error| error.to_string())?;
    let mut part = vec![0; 1 << 20];
    loop {
        if is_leash_gone() {
            return Err("it was not read: the drill has ended".into());
        }
        match opened.read(&mut part) {
            Ok(0) => break,
            Ok(count) => hasher.update(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.to_string()),
        };
    }
    match *hasher.finalize().as_bytes() == hash.0 {
        true => Ok(()),
        false => Err("its bytes differ from the snapshot's".into()),
    }
}
