//! Whether the disk of this host's state takes writes.
//!
//! A host whose disk hangs has a network that works: its lease would be renewed for ever, though nothing that writes
//! is served. So a thread writes and syncs a few bytes now and then, and the keeper of the lease stops renewing
//! while such a write has not come back. A write that *fails* is no hang: what does not work then is found by
//! probes, and handed over without loss.
//!
//! What can race: a process that was stopped finds an old beginning when it goes on. The write comes back at once,
//! and costs at most one renewal.

use crate::support::clock::BootNanos;
use crate::support::env::Env;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Time after which a write counts as hanging: longer than a disk under heavy load takes.
const HANGS_AFTER: Duration = Duration::from_secs(15);
const NAME: &str = "disk-pulse";

/// The last write to a directory. Its thread ends when this is dropped, and the write has come back.
pub(crate) struct DiskPulse {
    dir: PathBuf,
    /// When the write began that has not come back; 0 while there is none.
    begun: Arc<AtomicU64>,
}

impl DiskPulse {
    /// Starts to write a file into `dir`.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(crate) fn start(env: &Env, dir: &Path) -> io::Result<Self> {
        let (begun, path, env) = (Arc::<AtomicU64>::default(), dir.join(NAME), env.clone());
        let weak = Arc::downgrade(&begun);
        std::thread::Builder::new().name(NAME.into()).spawn(move || {
            while let Some(begun) = weak.upgrade() {
                let now = env.boot();
                begun.store(now.0.max(1), Ordering::Relaxed);
                if let Err(error) = write(&path, now) {
                    tracing::debug!(path = %path.display(), %error, "the disk's pulse was not written");
                }
                begun.store(0, Ordering::Relaxed);
                drop(begun);
                env.sleep(WRITE_EVERY);
            }
        })?;
        Ok(Self { dir: dir.to_owned(), begun })
    }

    /// Returns that the disk hangs, if it does.
    pub(crate) fn hangs(&self, now: BootNanos) -> Option<String> {
        let waited = waited(self.begun.load(Ordering::Relaxed), now)?;
        Some(format!("a write to {} has not come back for {} s", self.dir.display(), waited.as_secs()))
    }
}

/// Returns for how long the write that began then hangs; none if it does not.
fn waited(begun: u64, now: BootNanos) -> Option<Duration> {
    let waited = now.since(BootNanos(begun));
    (begun != 0 && waited >= HANGS_AFTER).then_some(waited)
}

fn write(path: &Path, now: BootNanos) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&now.0.to_le_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::nanos;

    #[test]
    fn only_a_write_that_does_not_come_back_hangs() {
        let second = nanos(Duration::from_secs(1));
        assert_eq!(waited(0, BootNanos(900 * second)), None);
        assert_eq!(waited(885 * second + 1, BootNanos(900 * second)), None);
        assert_eq!(waited(870 * second, BootNanos(900 * second)), Some(Duration::from_secs(30)));
        // A clock that was read on another core.
        assert_eq!(waited(901 * second, BootNanos(900 * second)), None);
    }

    #[test]
    fn a_disk_that_takes_writes_or_refuses_them_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::system();
        for dir in [dir.path(), Path::new("/proc/nowhere")] {
            let pulse = DiskPulse::start(&env, dir).unwrap();
            env.sleep(Duration::from_millis(50));
            assert_eq!(pulse.hangs(env.boot()), None);
        }
        assert_eq!(std::fs::read(dir.path().join(NAME)).unwrap().len(), 8);
    }
}
