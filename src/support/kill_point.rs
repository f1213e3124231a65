//! Points at which a test ends this process as a power failure would: at once, with nothing cleaned up.
//!
//! Only builds for tests have them.

use rustix::process::{Signal, getpid, kill_process};
use std::fmt::Display;
use std::io::Write;

/// Kills this process if `UNDERSTUDY_TEST_KILL_AT` names this step. Each step is added as a line to the file that
/// `UNDERSTUDY_TEST_STEPS` names, so that a test knows all there are.
pub(crate) fn reached(step: impl Display) {
    if !cfg!(debug_assertions) {
        return;
    }
    let step = step.to_string();
    if let Ok(path) = std::env::var("UNDERSTUDY_TEST_STEPS")
        && let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{step}");
    }
    if std::env::var("UNDERSTUDY_TEST_KILL_AT").is_ok_and(|wanted| wanted == step) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
