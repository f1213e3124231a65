//! The server that has a directory's data, whoever started it.
//!
//! A server locks its files, and the kernel says which process holds the lock: nothing is found by name, and a
//! number that another process has by now is never taken for the server's. A process is ended through a handle,
//! after the kernel was asked a second time.

use super::error::DatabaseError;
use crate::support::env::Env;
use rustix::process::{
    Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal,
};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// The file that a server holds a lock on as long as it may write.
const LOCKED: &str = "ibdata1";
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Who has the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    Process(Pid),
    /// One that this process cannot see: of another container.
    Unseen,
}

/// Returns who has the data.
///
/// # Errors
/// The kernel was not asked, for example because the directory belongs to another user.
pub fn holder(data: &Path) -> Result<Holder, DatabaseError> {
    let path = data.join(LOCKED);
    let file = |source| DatabaseError::File { path: path.clone(), source };
    let opened = match File::open(&path) {
        Ok(opened) => opened,
        // Without it no server runs.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(file(error)),
    };
    let asked =
        fcntl_getlk(&opened, &Flock::from(FlockType::WriteLock)).map_err(|errno| file(errno.into()))?;
    Ok(match asked {
        None => Holder::Nobody,
        Some(lock) => lock.pid.map_or(Holder::Unseen, Holder::Process),
    })
}

/// Kills the server that has the data, and returns once nobody has it.
///
/// # Errors
/// Somebody still has it after `limit`, or the process may not be killed.
pub fn kill(data: &Path, env: &Env, limit: Duration) -> Result<(), DatabaseError> {
    let begun = env.stopwatch();
    loop {
        match holder(data)? {
            Holder::Nobody => return Ok(()),
            Holder::Process(id) => kill_once(data, id)?,
            Holder::Unseen => {}
        }
        if begun.elapsed() >= limit {
            return Err(DatabaseError::Held(format!(
                "{}: its server was to be killed, and still has its files after {} s",
                data.display(),
                limit.as_secs()
            )));
        }
        env.sleep(LOOK_EVERY);
    }
}

fn kill_once(data: &Path, id: Pid) -> Result<(), DatabaseError> {
    let failed =
        |errno: rustix::io::Errno| DatabaseError::File { path: data.to_owned(), source: errno.into() };
    let handle = match pidfd_open(id, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    // The handle is of the process that has the data, not of one that got its number since.
    if holder(data)? != Holder::Process(id) {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}
