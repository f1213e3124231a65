//! The progress line of a long command.

use super::{Global, show};
use crate::support::env::Env;
use crate::support::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::time::Duration;

/// Runs `work`, with a progress line if standard error is a terminal.
pub(super) fn watched<T>(
    global: &Global,
    env: &Env,
    progress: &Progress,
    verb: &str,
    work: impl FnOnce() -> T,
) -> T {
    let bar = ProgressBar::new_spinner();
    if global.quiet || global.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if bar.is_hidden() {
        return work();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let started = env.stopwatch();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let entries = Progress::get(&progress.entries);
                let expected = Progress::get(&progress.expected_entries);
                let read = Progress::get(&progress.read_bytes);
                let seconds = started.seconds();
                let rate = (read as f64 / seconds.max(0.001)) as u64;
                let left = match expected.checked_sub(entries) {
                    Some(left) if entries > 0 && left > 0 => {
                        let seconds = seconds * left as f64 / entries as f64;
                        format!(", about {} left", show::age(seconds))
                    }
                    _ => String::new(),
                };
                bar.set_message(format!(
                    "{} entries {verb}, {} read ({}/s), {} shipped{left}",
                    show::count(entries),
                    show::bytes(read),
                    show::bytes(rate),
                    show::bytes(Progress::get(&progress.shipped_bytes)),
                ));
                bar.tick();
                env.sleep(Duration::from_millis(100));
            }
            bar.finish_and_clear();
        });
        let result = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })
}
