//! SIGTERM and SIGINT: every command hears them, also as the first process of a container, which the kernel ends by no signal that it does
//! not handle.
//!
//! A command that has steps stops at the next one; what has none that matters ends at once, and so does every one at the second signal,
//! and when its time is over. Whatever ends at once leaves what a killed one does, which is nothing that the next run minds.
//!
//! They are waited for by a thread of their own, which prints nothing and takes no lock that others hold for long: nobody keeps it from ending
//! this process.

use super::error::{Context as _, Result};
use super::exit::Exit;
use crate::support::env::{Env, Stopwatch};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How a command ends when it is asked to.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// It ends by itself within so long.
    pub within: Duration,
    /// How it has ended when it has to be ended; of what may have committed something only the signal is told.
    pub code: Option<Exit>,
}

impl Ending {
    /// Reads, or writes what the next run goes on with: it has failed, and that is all.
    pub const AT_ONCE: Self = Self { within: Duration::ZERO, code: Some(Exit::Failed) };
    /// A record, or two, that are there or not.
    pub const COMMITS_AT_ONCE: Self = Self { within: Duration::ZERO, code: None };

    pub const fn within(seconds: u64) -> Self {
        Self { within: Duration::from_secs(seconds), code: None }
    }
}

/// Signals that come within so long of the first are the first.
const SAME: Duration = Duration::from_millis(300);

/// Signals are waited for before there is anything else.
static ENV: LazyLock<Env> = LazyLock::new(Env::system);
static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static AT_ONCE: AtomicBool = AtomicBool::new(false);
static ACTS: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Listens from now on.
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
            // As a shell counts those that a signal ended.
            let code = ending.code.map_or(128 + number.as_raw_value(), |exit| i32::from(exit.code()));
            ASKED.store(true, Ordering::Relaxed);
            match &first {
                // The kernel tells of a parent's end once for each of its threads.
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
                let acts = std::mem::take(&mut *ACTS.lock().unwrap_or_else(PoisonError::into_inner));
                acts.into_iter().for_each(|act| act());
            });
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || runtime.block_on(wait)).context("waiting for signals")?;
    Ok(())
}

/// Has `act` called once this process is asked to end.
pub(super) fn on_end(act: impl FnOnce() + Send + 'static) {
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    match is_asked() {
        true => {
            drop(acts);
            act();
        }
        false => acts.push(Box::new(act)),
    }
}

/// What follows has no steps: it ends at once.
pub(super) fn at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
    if is_asked() {
        std::process::exit(1);
    }
}

pub(super) fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// What is set once this process is asked to end.
pub(super) fn flag() -> Arc<AtomicBool> {
    ASKED.clone()
}

/// Sleeps for so long, or until this process is asked to end: then it returns false.
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
