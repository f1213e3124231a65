//! The guard as a process: of its own session, with its memory locked, and with nothing left to read from a
//! disk for what it has to do in time.

use super::client::{GuardError, place};
use super::gate::Gate;
use super::proxy::Proxy;
use super::settings::{STACK_BYTES, Setup};
use super::{control, keeper, listener};
use crate::support::child::THIS;
use crate::support::env::Env;
use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

/// Maximum number of customers' connections.
const CONNECTIONS_MAX: u64 = 4096;
/// Number of file handles that are kept for everything else.
const HANDLES_KEPT: u64 = 96;
/// Bit of the capability to lock memory without a limit.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// Runs a guard until it is asked to stop; `ready` is called once it answers.
///
/// # Errors
/// It could not begin: an address or the socket is taken.
pub(crate) fn run(setup: Setup, env: &Env, ready: impl FnOnce()) -> Result<(), GuardError> {
    // Fails only where this process leads a session already.
    let _ = rustix::process::setsid();
    // The kernel ends others first when memory is short. Only root may ask for that.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let connections_max = connections_max();
    let begin = |source| GuardError::Begin { listen: setup.gate.listen, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(begin)?;
    let bound = place(&setup).bind()?;
    let gate = Arc::new(Gate::new(setup.clone(), env).map_err(begin)?);
    runtime.block_on(async {
        let listener = TcpListener::bind(setup.gate.listen).await.map_err(begin)?;
        let own = bound.listener.try_clone().and_then(UnixListener::from_std).map_err(begin)?;
        let proxy = Proxy::new(&gate).map_err(begin)?;
        gate.memory_is_locked.store(lock_memory(), Ordering::Relaxed);
        keeper::start(gate.clone(), Path::new(THIS)).map_err(begin)?;
        let stop = Arc::new(Notify::new());
        ready();
        tokio::select! {
            () = listener::serve(gate.clone(), listener, proxy, connections_max) => {}
            () = control::serve(gate.clone(), own, stop.clone()) => {}
            () = stop.notified() => {}
        }
        Ok(())
    })
}

/// Returns the maximum number of connections, each of which may need two file handles. Raises the limit of
/// handles as far as this process may.
fn connections_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let handles = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (handles.saturating_sub(HANDLES_KEPT) / 2).clamp(8, CONNECTIONS_MAX) as usize
}

/// Locks this process's memory, also what it takes later. Returns whether it is locked.
///
/// Where the kernel limits how much may be locked, nothing is: a later allocation beyond the limit would fail.
fn lock_memory() -> bool {
    let is_unlimited = getrlimit(Resource::Memlock).current.is_none();
    let may = is_unlimited || capabilities().is_ok_and(|bits| bits & CAP_IPC_LOCK != 0);
    may && rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).is_ok()
}

/// Returns the effective capabilities of this process.
fn capabilities() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.unwrap_or_default().trim(), 16).map_err(io::Error::other)
}
