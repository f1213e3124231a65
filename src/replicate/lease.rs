//! Opens a file on which another process may hold a lease.

use crate::source::node::Node;
use crate::source::tree;
use crate::support::env::Env;
use crate::support::progress::Progress;
use rustix::io::Errno;
use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

/// Maximum time to wait for a lease.
const LEASE_LIMIT: Duration = Duration::from_secs(60);

/// Opens a file of `dir`, waiting for a lease on it.
///
/// The first attempt notifies the holder of the lease, which has `/proc/sys/fs/lease-break-time` (45 s) to
/// give it up. Then the kernel takes it.
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
            // The lease was not given up.
            Err(Errno::AGAIN) => return Err(Errno::BUSY),
            other => return other,
        }
    }
}
