//! SIGTERM and SIGINT. Every command handles them, also as the first process of a container, which the kernel
//! does not end by a signal that it does not handle.
//!
//! A command that has steps stops at the next one; a command without steps that matter ends at once. So does
//! every command at the second signal, and when its time limit is over. A command that ends at once leaves
//! the same state as a killed one, which the next run handles.
//!
//! A thread of its own waits for the signals. It prints nothing and takes no lock that other threads hold for
//! long, so nothing keeps it from ending this process.
//! this process.

use super::error::{Context as _, Result};
use super::exit::Exit;
use crate::support::env::{Env, Stopwatch};
use crate::support::lock::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How a command ends when it is asked to.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// Maximum time in which the command ends by itself.
    pub within: Duration,
    /// Exit code when the command has to be ended; none if it may have committed something, and then the exit
    /// code only names the signal.
    pub code: Option<Exit>,
}

impl Ending {
    /// For a command that reads, or writes what the next run continues with: it has failed, with no further
    /// effect.
    pub(crate) const AT_ONCE: Self = Self { within: Duration::ZERO, code: Some(Exit::Failed) };
    /// For a command that commits one record or two, which exist or do not.
    pub(crate) const COMMITS_AT_ONCE: Self = Self { within: Duration::ZERO, code: None };

    pub(crate) const fn within(seconds: u64) -> Self {
        Self { within: Duration::from_secs(seconds), code: None }
    }
}

/// Time after the first signal during which further signals count as the same one.
const SAME: Duration = Duration::from_millis(300);

/// This module has an environment of its own, since it waits for signals before any other part is set up.
static ENV: LazyLock<Env> = LazyLock::new(Env::system);
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static AT_ONCE: AtomicBool = AtomicBool::new(false);
static ACTS: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Listens for signals from now on.
pub(super) fn listen(ending: Ending) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("waiting for signals")?;
    let mut signals = {
        let _entered = runtime.enter();
        let (int, term) = (SignalKind::interrupt(), SignalKind::terminate());
        (signal(int).context("waiting for signals")?, signal(term).context("waiting for signals")?)
    };
    let wait = async move {
        let mut first: Option<Stopwatch> = None;
        loop {
            let number = tokio::select! {
                _ = signals.0.recv() => SignalKind::interrupt(),
                _ = signals.1.recv() => SignalKind::terminate(),
            };
            // A shell reports a process that a signal ended by the same code.
            let code = ending.code.map_or(128 + number.as_raw_value(), |exit| i32::from(exit.code()));
            ASKED.store(true, Ordering::Relaxed);
            match &first {
                // The kernel reports a parent's end once for each of its threads.
                Some(first) if first.elapsed() < SAME => continue,
                None if !ending.within.is_zero() && !AT_ONCE.load(Ordering::Relaxed) => {}
                _ => std::process::exit(code),
            }
            first = Some(ENV.stopwatch());
            std::thread::spawn(move || {
                ENV.sleep(ending.within);
                std::process::exit(code);
            });
            std::thread::spawn(|| {
                let acts = std::mem::take(&mut *lock(&ACTS));
                acts.into_iter().for_each(|act| act());
            });
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || runtime.block_on(wait)).context("waiting for signals")?;
    Ok(())
}

/// Registers `act` to be called once this process is asked to end.
pub(super) fn on_end(act: impl FnOnce() + Send + 'static) {
    let mut acts = lock(&ACTS);
    match is_asked() {
        true => {
            drop(acts);
            act();
        }
        false => acts.push(Box::new(act)),
    }
}

/// Marks that the rest of the command has no steps, so that it ends at once.
pub(super) fn at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
    if is_asked() {
        std::process::exit(1);
    }
}

pub(super) fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Returns the flag that is set once this process is asked to end.
pub(super) fn flag() -> Arc<AtomicBool> {
    ASKED.clone()
}

/// Sleeps for `time`. Returns false as soon as this process is asked to end.
pub(super) fn sleep(time: Duration) -> bool {
    let begun = ENV.stopwatch();
    while !is_asked() {
        match time.checked_sub(begun.elapsed()) {
            Some(left) if !left.is_zero() => ENV.sleep(left.min(Duration::from_millis(100))),
            _ => return true,
        }
    }
    false
}
