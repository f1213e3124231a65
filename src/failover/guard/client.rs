//! The daemon's side of a guard: starts it, feeds it, asks it, stops it.
//!
//! Each request is one connection with limits on its time, so that a guard that hangs never holds the daemon
//! up. A guard that does not answer is an error, not a closed gate: it may have been killed, and then its
//! services run on, or be stopped for a while, and then it closes by itself.

use super::protocol::{Feed, GuardState, LINE_MAX_BYTES, Refusal, Reply, Request};
use super::settings::Setup;
use crate::support::child;
use crate::support::failure::{Failure, FailureKind};
use crate::support::local_socket::{SocketError, SocketPlace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use thiserror::Error;

/// The hidden command that is a guard.
pub(crate) const GUARD: &str = "guard";
/// Maximum time for a request.
const LIMIT: Duration = Duration::from_secs(2);
/// Maximum time for a guard to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a reason for which a guard did not begin.
const SAID_MAX_BYTES: u64 = 2000;
/// Stack of the thread that waits for a guard's end.
const STACK_BYTES: usize = 64 << 10;

/// The reason why a guard does not do as it is told.
#[derive(Debug, Error)]
pub enum GuardError {
    #[error("{}: no guard is running; the gate of the store is closed to customers, its services may run", .0.display())]
    Gone(PathBuf),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: the guard did not understand, or was not understood: {reason}", path.display())]
    Answer { path: PathBuf, reason: String },
    #[error("the guard did not begin: {0}")]
    NotBegun(String),
    #[error("the gate at {listen}: {source}")]
    Begin { listen: SocketAddr, source: io::Error },
    #[error("{0}")]
    Socket(String),
}

impl Failure for GuardError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Gone(_) | Self::Io { .. } => FailureKind::Unavailable,
            Self::Answer { .. } | Self::NotBegun(_) | Self::Begin { .. } | Self::Socket(_) => {
                FailureKind::Failed
            }
        }
    }
}

impl From<SocketError> for GuardError {
    fn from(error: SocketError) -> Self {
        Self::Socket(error.to_string())
    }
}

/// Returns the place of a guard's socket.
pub(crate) fn place(setup: &Setup) -> SocketPlace {
    let path = &setup.socket;
    SocketPlace {
        dir: path.parent().unwrap_or(Path::new("/")).to_owned(),
        name: path.file_name().unwrap_or_default().to_owned(),
        is_default: setup.socket_is_default,
        listener: "guard",
        key: "store.gate.socket",
    }
}

/// A guard, as the daemon reaches it.
pub struct GuardClient {
    place: SocketPlace,
}

impl GuardClient {
    pub fn new(setup: &Setup) -> Self {
        Self { place: place(setup) }
    }

    /// Starts a guard, and waits until it answers; `this` is this program. It goes on when this process ends.
    ///
    /// # Errors
    /// [`GuardError::NotBegun`], also when a guard of this store is running already.
    pub fn start(setup: &Setup, this: &Path) -> Result<Self, GuardError> {
        let not_begun = |error: io::Error| GuardError::NotBegun(error.to_string());
        let mut command = Command::new(this);
        command.arg0("understudy").arg(GUARD).env_clear().env("PATH", child::own_path()).current_dir("/");
        let services = setup.services.iter().flat_map(|service| &service.environment);
        let named = services.chain(&setup.database.environment).map(String::as_str);
        for name in named.chain(["HOME", "LANG"]).filter(|name| child::may_be_handed_on(name)) {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guard = pipes.spawn().map_err(not_begun)?;
        let begun = begin(&mut guard, setup);
        let said = match &begun {
            Ok(()) => String::new(),
            Err(_) => {
                let _ = guard.kill();
                let mut said = String::new();
                let stderr = guard.stderr.take().map(|stderr| stderr.take(SAID_MAX_BYTES));
                let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut said));
                said.trim().to_owned()
            }
        };
        (guard.stdout, guard.stderr) = (None, None);
        reap(guard);
        match begun {
            Ok(()) => Ok(Self::new(setup)),
            Err(error) if said.is_empty() => Err(not_begun(error)),
            Err(_) => Err(GuardError::NotBegun(said)),
        }
    }

    /// Returns the state of the guard; none if no guard is running.
    ///
    /// # Errors
    /// [`GuardError::Io`] when it does not answer.
    pub fn ask(&self) -> Result<Option<GuardState>, GuardError> {
        match self.request(&Request::Ask) {
            Ok(state) => Ok(Some(state)),
            Err(GuardError::Gone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says what the gate is to do, and until when.
    ///
    /// # Errors
    /// [`GuardError::Refused`] when the guard knows better.
    pub fn feed(&self, feed: &Feed) -> Result<GuardState, GuardError> {
        self.request(&Request::Feed(feed.clone()))
    }

    /// Has the guard close and fence now; [`Self::ask`] tells how that went.
    ///
    /// # Errors
    /// [`GuardError::Gone`], [`GuardError::Io`].
    pub fn fence(&self, reason: &str) -> Result<GuardState, GuardError> {
        self.request(&Request::Fence { reason: reason.to_owned() })
    }

    /// Ends the guard; its gate refuses connections from then on.
    ///
    /// # Errors
    /// [`GuardError::Gone`], [`GuardError::Io`].
    pub fn stop(&self) -> Result<GuardState, GuardError> {
        self.request(&Request::Stop)
    }

    fn request(&self, request: &Request) -> Result<GuardState, GuardError> {
        let wrong = |source| GuardError::Io { path: self.place.path(), source };
        let unclear = |reason: String| GuardError::Answer { path: self.place.path(), reason };
        let Some(mut stream) = self.place.connect().map_err(wrong)? else {
            return Err(GuardError::Gone(self.place.path()));
        };
        stream.set_nonblocking(false).map_err(wrong)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(wrong)?;
        stream.set_write_timeout(Some(LIMIT)).map_err(wrong)?;
        let mut text = serde_json::to_vec(request).map_err(|error| unclear(error.to_string()))?;
        text.push(b'\n');
        stream.write_all(&text).map_err(wrong)?;
        let mut line = Vec::new();
        let mut limited = BufReader::new(stream).take(LINE_MAX_BYTES as u64);
        limited.read_until(b'\n', &mut line).map_err(wrong)?;
        match serde_json::from_slice(&line) {
            Ok(Reply::State(state)) => Ok(*state),
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(Reply::Wrong(reason)) => Err(unclear(reason)),
            Err(error) => Err(unclear(error.to_string())),
        }
    }
}

/// Gives a new guard its setup, and waits until it says that it answers.
fn begin(guard: &mut Child, setup: &Setup) -> io::Result<()> {
    let mut stdin = guard.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    stdin.write_all(&serde_json::to_vec(setup)?)?;
    drop(stdin);
    let stdout = guard.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    let limit = Timespec { tv_sec: BEGIN_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut ends = [PollFd::new(&*stdout, PollFlags::IN)];
    if poll(&mut ends, Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut word = [0; 1];
    stdout.read_exact(&mut word).map_err(|_| io::Error::other("it ended at once"))
}

/// Waits for a guard's end in a thread, so that it leaves no dead process behind.
fn reap(mut guard: Child) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    // Without it the entry in the process table stays until this process ends.
    let _ = thread.spawn(move || guard.wait());
}
