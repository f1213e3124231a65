//! A path that shows one snapshot after the other: a mount point, or a symlink to one.
//!
//! At a mount point the next mount is attached beneath the present one, which is then detached (Linux 6.5 and
//! later, as root). Where that is impossible, the path is a symlink that is exchanged by a rename; the mounts
//! are in a hidden directory next to it. Either way a path always leads to one snapshot or the other, and
//! open files stay open.
//!
//! [`follow_mount`] is the loop that moves on to each new snapshot, whichever method makes the mounts: the
//! kernel ([`KernelMounts`]) or FUSE ([`super::served::FuseMounts`]). It prints nothing and reads no clock:
//! it is given a function to wait, and reports to an observer. An error leaves the present mount as it is,
//! and the next look tries again.

use super::error::StageError;
use super::mount::{self, MountOptions};
use super::paths::{absolute, holder, place_of_link, relative, unresolved};
use super::table::{is_mounted, shows};
use super::unmount::unmount;
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::standby::depot::Depot;
use crate::standby::error::FollowError;
use crate::standby::pin;
use crate::support::chain::chain;
use crate::support::env::Env;
use crate::support::private;
use crate::vfs::overlay::{Detached, Old};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Interval between looks for a new snapshot on this host, and for a mount that was removed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time allowed for a process that has resolved the symlink to enter the mount.
const ON_THE_WAY: Duration = Duration::from_millis(20);

/// How a path moves on to the next snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    Beneath,
    Link,
}

/// Returns whether this kernel can mount beneath another mount.
pub(crate) fn can_beneath() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    is_at_least(&release, (6, 5))
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// A path and the snapshot that it shows.
pub struct Live {
    dir: PathBuf,
    swap: Swap,
    shown: Option<PathBuf>,
}

/// The mount that was shown before. Removing it may take seconds, which need not delay anything.
pub enum PreviousMount {
    Mount(Old),
    Place(PathBuf),
}

impl PreviousMount {
    /// Removes the mount. Files that are open in it stay open.
    pub fn retire(self, env: &Env, standby: &Path) -> Result<(), StageError> {
        match self {
            Self::Mount(old) => drop(old),
            Self::Place(place) => {
                // A process may have resolved the symlink but not yet entered the mount.
                env.sleep(ON_THE_WAY);
                unmount(standby, &place, true)?;
            }
        }
        Ok(())
    }
}

impl Live {
    /// Takes over a path.
    ///
    /// `dir` must be a directory; for a symlink it must not exist, or be the symlink of an earlier run. A
    /// snapshot of the same store that an earlier run left there is moved on from.
    pub fn new(dir: &Path, swap: Swap, store: &StoreName) -> Result<Self, StageError> {
        if swap == Swap::Beneath {
            let dir = absolute(dir)?;
            let shown = shows(&dir, store)?.then(|| dir.clone());
            return Ok(Self { dir, swap, shown });
        }
        let dir = unresolved(dir)?;
        let mut shown = None;
        match std::fs::symlink_metadata(&dir) {
            Ok(found) if found.is_symlink() => {
                let target = std::fs::read_link(&dir).map_err(FollowError::io(&dir, "read it"))?;
                let Some(place) = place_of_link(&dir, &target) else {
                    return Err(StageError::InTheWay(dir));
                };
                shown = shows(&place, store)?.then_some(place);
            }
            Ok(_) => return Err(StageError::InTheWay(dir)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(FollowError::io(&dir, "stat it")(error).into()),
        }
        Ok(Self { dir, swap, shown })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns whether the snapshot that was shown last is still mounted; another process may have unmounted
    /// it.
    pub fn is_there(&self) -> Result<bool, StageError> {
        self.shown.as_deref().map_or(Ok(false), is_mounted)
    }

    /// Returns the directory that a snapshot's mount is made on.
    pub(crate) fn place(&self, sequence: Sequence) -> Result<PathBuf, StageError> {
        if self.swap == Swap::Beneath {
            return Ok(self.dir.clone());
        }
        // The symlink may be in a directory that other users can write to.
        let holder = holder(&self.dir);
        private::passage(&holder).map_err(FollowError::io(&holder, "use it"))?;
        let place = holder.join(sequence.to_string());
        std::fs::create_dir_all(&place).map_err(FollowError::io(&place, "create it"))?;
        Ok(place)
    }

    /// Shows a mount at `place`; without one, the snapshot that is mounted there already.
    pub(crate) fn show(
        &mut self,
        place: PathBuf,
        mount: Option<Detached>,
    ) -> Result<Option<PreviousMount>, StageError> {
        let before = match mount {
            Some(mount) if self.shown.as_ref() == Some(&place) => {
                Some(PreviousMount::Mount(mount.replace(&place)?))
            }
            Some(mount) => {
                mount.attach(&place)?;
                None
            }
            None => None,
        };
        let shown = self.shown.replace(place.clone());
        if self.swap == Swap::Beneath {
            return Ok(before);
        }
        let new = holder(&self.dir).join("next");
        let _ = std::fs::remove_file(&new);
        std::os::unix::fs::symlink(relative(&place), &new).map_err(FollowError::io(&new, "create it"))?;
        std::fs::rename(&new, &self.dir).map_err(FollowError::io(&self.dir, "rename a symlink to it"))?;
        Ok(shown.filter(|shown| *shown != place).map(PreviousMount::Place).or(before))
    }
}

/// A method of mounting one store's snapshots.
pub(crate) trait Method {
    /// Finds the snapshot that `moment` means.
    fn find(&mut self, moment: Moment) -> Result<Sequence, StageError>;

    /// Mounts a snapshot that was found in the place of what `live` shows; returns the previous mount.
    fn show(&mut self, snapshot: Sequence, live: &mut Live) -> Result<Option<PreviousMount>, StageError>;

    /// Returns whether the mount was removed, by whichever process.
    fn is_over(&self, live: &Live) -> Result<bool, StageError>;

    /// Returns the interval between checks whether the mount was removed.
    fn look_every(&self) -> Duration;

    /// Returns the standby directory of this host, where pins are.
    fn standby(&self) -> PathBuf;

    fn env(&self) -> Env;
}

/// An event for the observer of [`follow_mount`].
pub(crate) enum News<'a> {
    /// The mount shows this snapshot now.
    Moved(Sequence),
    /// The mount still shows `snapshot`; the next look tries again. The same error is reported once.
    Stays { snapshot: Sequence, error: &'a StageError },
}

/// The reason why [`follow_mount`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `wait` returned false. The mount stays.
    Asked,
    /// The mount was removed.
    Removed,
}

/// Moves a mount, which shows `shown`, on to each new snapshot.
///
/// It looks for one every `every`; without `every` it only waits for the end of the mount. `wait` sleeps for
/// a time, and returns false once this process must end.
pub(crate) fn follow_mount(
    method: &mut dyn Method,
    live: &mut Live,
    mut shown: Sequence,
    every: Option<Duration>,
    wait: &dyn Fn(Duration) -> bool,
    observe: &mut dyn FnMut(News),
) -> Result<End, StageError> {
    let look_every = method.look_every();
    let mut waited = Duration::ZERO;
    let mut last_error = String::new();
    loop {
        if !wait(look_every) {
            return Ok(End::Asked);
        }
        if method.is_over(live)? {
            return Ok(End::Removed);
        }
        waited += look_every;
        if every.is_none_or(|every| waited < every) {
            continue;
        }
        waited = Duration::ZERO;
        let moved = method.find(Moment::Latest).and_then(|latest| match latest == shown {
            true => Ok(None),
            false => Ok(Some((latest, method.show(latest, live)?))),
        });
        match moved {
            Ok(None) => {}
            Ok(Some((latest, before))) => {
                shown = latest;
                last_error.clear();
                observe(News::Moved(shown));
                if let Some(before) = before {
                    let (env, standby) = (method.env(), method.standby());
                    // A large mount may take seconds. After an error, `umount` can still remove it.
                    std::thread::spawn(move || before.retire(&env, &standby));
                }
            }
            // The present mount stays; the next look may succeed.
            Err(error) => {
                let text = chain(&error);
                if text != last_error {
                    observe(News::Stays { snapshot: shown, error: &error });
                    last_error = text;
                }
            }
        }
    }
}

/// Mounts by the kernel of the snapshots in a depot. They outlive this process.
pub(crate) struct KernelMounts<'a> {
    pub depot: &'a Depot,
    pub store: &'a StoreName,
    pub options: MountOptions,
    pub env: &'a Env,
}

impl KernelMounts<'_> {
    /// Interval between looks for a new snapshot, which only read a directory of this host.
    pub(crate) const EVERY: Duration = LOOK_EVERY;
}

impl Method for KernelMounts<'_> {
    fn find(&mut self, moment: Moment) -> Result<Sequence, StageError> {
        mount::find(self.depot, self.store, moment)
    }

    fn show(&mut self, snapshot: Sequence, live: &mut Live) -> Result<Option<PreviousMount>, StageError> {
        move_on(self.depot, self.store, snapshot, live, &self.options)
    }

    fn is_over(&self, live: &Live) -> Result<bool, StageError> {
        Ok(!live.is_there()?)
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY
    }

    fn standby(&self) -> PathBuf {
        self.depot.standby().to_owned()
    }

    fn env(&self) -> Env {
        self.env.clone()
    }
}

/// Mounts a snapshot by the kernel in the place of what `live` shows.
pub fn move_on(
    depot: &Depot,
    store: &StoreName,
    sequence: Sequence,
    live: &mut Live,
    options: &MountOptions,
) -> Result<Option<PreviousMount>, StageError> {
    let wanted = SnapshotRef { store: store.clone(), moment: Moment::At(sequence) };
    let place = live.place(sequence)?;
    let before =
        mount::prepare(depot, &wanted, &place, options, |_, mount| live.show(place.clone(), Some(mount)))?;
    pin::keep_only(depot, &place, sequence)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels_are_compared_by_number() {
        for (release, wanted) in
            [("6.18.1-amd64", true), ("6.5.0", true), ("6.4.99", false), ("5.15", false), ("10.0", true)]
        {
            assert_eq!(is_at_least(release, (6, 5)), wanted, "{release}");
        }
    }
}
