//! Opening a file that another process may hold a lease on.

use crate::source::node::Node;
use crate::source::tree;
use crate::support::env::Env;
use crate::support::progress::Progress;
use rustix::io::Errno;
use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

/// Time that a lease is waited for.
const LEASE_LIMIT: Duration = Duration::from_secs(60);

/// Opens a file of `dir`. Who holds a lease on it was told by the first try, and has `/proc/sys/fs/lease-break-time` (45 s) to give it
/// up; then the kernel takes it.
pub(super) fn open_patiently(
    dir: &Node,
    name: &CStr,
    env: &Env,
    progress: &Progress,
) -> Result<Arc<dyn tree::File>, Errno> {
    let mut waited = Duration::ZERO;
    loop {
        match dir.handle()?.open_file(name) {
            Err(Errno::AGAIN) if waited < LEASE_LIMIT && !progress.is_stopped() => {
                let pause = (waited / 4).clamp(Duration::from_millis(2), Duration::from_millis(250));
                env.sleep(pause);
                waited += pause;
            }
            // Of a lease that was not given up.
            Err(Errno::AGAIN) => return Err(Errno::BUSY),
            other => return other,
        }
    }
}
