//! A replica's server that stands still while a drill copies its data.
//!
//! The supervisor stops the server's process by a signal and continues it. What lies on the disk meanwhile is what a
//! server that was killed at this moment would leave, and a server recovers from that. Nothing is asked of the
//! server, so that nothing of it changes.
//!
//! It is continued whatever is killed. A drill holds a lock as long as it copies, and the kernel frees it with the
//! drill; the supervisor sees that. A server whose supervisor is killed is killed with it, also while it is stopped.
//!
//! What can race: the server may be continued before the copy is whole, since an order came, or after a time. The
//! supervisor removes a mark before it continues the server, and a new supervisor before it starts one. A copy is
//! whole only if the mark is the same afterwards.

use super::decide::State;
use super::desk::Desk;
use super::error::DatabaseError;
use super::minimal::Place;
use super::orders::{Answer, Asked};
use super::process::Process;
use super::report::Report;
use super::role::Role;
use super::server::Server;
use crate::model::gtid::GtidPosition;
use crate::support::files;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a server's threads to stand: those that write finish that first.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Maximum time that a server stands still.
const STILL_LIMIT: Duration = Duration::from_secs(900);
/// Interval between looks whether the copy is made.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Interval between reports meanwhile.
const TELL_EVERY: Duration = Duration::from_secs(5);
const PRIVATE_MODE: u32 = 0o600;

/// Takes a lock, which is free again when the result is dropped; none if another process has it.
pub(super) fn try_lock(path: &Path) -> Result<Option<OwnedFd>, DatabaseError> {
    let file = |errno: Errno| DatabaseError::File { path: path.to_owned(), source: errno.into() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(path, flags, Mode::from_raw_mode(PRIVATE_MODE)).map_err(file)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(file(errno)),
    }
}

/// Returns what the mark says while a server stands still; none otherwise.
pub(super) fn mark(place: &Place) -> Option<Vec<u8>> {
    std::fs::read(place.still()).ok()
}

/// Removes the mark of a server that was killed while it stood still.
pub(super) fn forget(place: &Place) {
    let _ = std::fs::remove_file(place.still());
}

/// A server that stands still; it goes on when this is dropped.
struct Standing {
    process: OwnedFd,
    mark: PathBuf,
}

impl Drop for Standing {
    fn drop(&mut self) {
        // A copy that is not whole yet must be known for one before anything changes.
        let _ = std::fs::remove_file(&self.mark);
        let _ = pidfd_send_signal(&self.process, Signal::CONT);
    }
}

/// Has a replica's server stand still, as an order says, until the copy is made.
pub(super) fn stand_still(
    desk: &mut Desk,
    process: &mut Process,
    server: &Server,
    (acks, customers_wait): (bool, bool),
    asked: Asked,
) {
    let may = desk.obey(&asked.order, |_| {}).and_then(|note| match note.role {
        Role::Follow if !acks || customers_wait => Ok(()),
        Role::Follow => Err(DatabaseError::Held(
            "this replica acknowledges what it receives, and customers' commits would wait while it stands still; drill on another standby, or let them wait: --customers-wait".into(),
        )),
        _ => Err(DatabaseError::Held("this host's server is to serve, and stands still for nobody".into())),
    });
    match may.and_then(|()| begin(desk, process, server)) {
        Ok((standing, position)) => {
            asked.answer(Answer::done(Some(position.clone())));
            wait(desk, process, &position);
            drop(standing);
        }
        Err(error) => asked.answer(Answer::failed(&error)),
    }
}

/// Stops the server. Returns what it had applied at least.
fn begin(desk: &Desk, process: &Process, server: &Server) -> Result<(Standing, GtidPosition), DatabaseError> {
    let mark = desk.settings.place.still();
    let file = |source| DatabaseError::File { path: mark.clone(), source };
    let Some(id) = process.id() else {
        return Err(DatabaseError::Start("the server has not said its process's id".into()));
    };
    let handle = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| file(errno.into()))?;
    // The handle is of the server, not of a process that got its number since.
    if process.id() != Some(id) {
        return Err(DatabaseError::Start("it ends".into()));
    }
    let position = server.applied_position()?.of_store();
    let standing = Standing { process: handle, mark: mark.clone() };
    pidfd_send_signal(&standing.process, Signal::STOP).map_err(|errno| file(errno.into()))?;
    let begun = desk.env().stopwatch();
    while !stands(id) {
        if begun.elapsed() >= STOP_LIMIT {
            return Err(DatabaseError::Held(format!(
                "a thread of the server has not stood still for {} s; its disk may hang",
                STOP_LIMIT.as_secs()
            )));
        }
        desk.env().sleep(Duration::from_millis(1));
    }
    files::replace(&mark, format!("{:016x}", desk.env().nonce()).as_bytes()).map_err(file)?;
    Ok((standing, position))
}

/// Returns whether every thread of a process is stopped. One within a write finishes it first.
fn stands(id: Pid) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", id.as_raw_nonzero()));
    let is_stopped = |task: std::fs::DirEntry| {
        let Ok(stat) = std::fs::read(task.path().join("stat")) else { return true };
        let behind = stat.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 2);
        matches!(stat.get(behind), Some(b'T' | b't' | b'Z' | b'X'))
    };
    tasks.is_ok_and(|tasks| tasks.flatten().all(is_stopped))
}

/// Waits until the copy is made, or something else comes first.
fn wait(desk: &mut Desk, process: &mut Process, position: &GtidPosition) {
    let place = desk.settings.place.clone();
    let (begun, mut told) = (desk.env().stopwatch(), None);
    while !desk.stops() && process.ended().is_none() && begun.elapsed() < STILL_LIMIT {
        // Whoever copied has finished, or was killed.
        if !matches!(try_lock(&place.still_lock()), Ok(None)) {
            return;
        }
        if !desk.note().is_ok_and(|note| note.role == Role::Follow) {
            return;
        }
        if let Some(asked) = desk.next(LOOK_EVERY) {
            desk.waiting.push_front(asked);
            return;
        }
        if told.as_ref().is_none_or(|told: &crate::support::env::Stopwatch| told.elapsed() >= TELL_EVERY) {
            told = Some(desk.env().stopwatch());
            let text = "it stands still while a drill copies it, and goes on by itself".to_owned();
            let applied = position.clone();
            let report = Report { applied, ..Report::of(State::Waiting, Some(text), desk.env().wall()) };
            desk.tell(report);
        }
    }
}
