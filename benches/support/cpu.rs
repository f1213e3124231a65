//! CPU time, which other work on the machine disturbs less than elapsed time.

use rustix::time::{ClockId, clock_gettime};

/// Returns the seconds of CPU time that this thread or process, by `clock`, has used so far.
pub fn cpu_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
