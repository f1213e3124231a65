//! Where snapshots are shown one after the other: a mount point, or a symlink to one.
//!
//! A mount point gets the next mount beneath the one that is there, which is then detached (Linux 6.5 on, as root). Where
//! that cannot be, the path is a symlink that is exchanged by a rename; the mounts lie in a hidden directory beside it.
//! Either way a path leads to the one snapshot or to the other, and what is open stays open.

use super::error::StageError;
use super::mount::{absolute, is_shown, shows, unmount};
use crate::model::id::{Sequence, StoreName};
use crate::standby::error::FollowError;
use crate::support::env::Env;
use crate::support::private;
use crate::vfs::overlay::{Detached, Old};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a path that leads through the symlink is given to arrive.
const ON_THE_WAY: Duration = Duration::from_millis(20);

/// How a path moves on to the next snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    Beneath,
    Link,
}

/// Whether this kernel can mount beneath another mount.
pub fn can_beneath() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    is_at_least(&release, (6, 5))
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// The path, and what it shows.
pub struct Live {
    dir: PathBuf,
    swap: Swap,
    shown: Option<PathBuf>,
}

/// What was shown before. To take it apart may take seconds; nobody has to wait for it.
pub enum Before {
    Mount(Old),
    Place(PathBuf),
}

impl Before {
    /// Takes it apart. What is open in it goes on.
    pub fn retire(self, env: &Env, standby: &Path) -> Result<(), StageError> {
        match self {
            Self::Mount(old) => drop(old),
            Self::Place(place) => {
                // Somebody may have read the symlink and not be in the mount yet.
                env.sleep(ON_THE_WAY);
                unmount(standby, &place, true)?;
            }
        }
        Ok(())
    }
}

impl Live {
    /// `dir` must be a directory, or, for a symlink, not be there, or be a symlink of an earlier run. What an earlier run
    /// left there of the same store is moved on from.
    pub fn new(dir: &Path, swap: Swap, store: &StoreName) -> Result<Self, StageError> {
        if swap == Swap::Beneath {
            let dir = absolute(dir)?;
            let shown = shows(&dir, store)?.then(|| dir.clone());
            return Ok(Self { dir, swap, shown });
        }
        let dir = beside_itself(dir)?;
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

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether what was shown last is there still; somebody may have unmounted it.
    pub fn is_there(&self) -> Result<bool, StageError> {
        self.shown.as_deref().map_or(Ok(false), is_shown)
    }

    /// The directory that a snapshot's mount is made on.
    pub fn place(&self, sequence: Sequence) -> Result<PathBuf, StageError> {
        if self.swap == Swap::Beneath {
            return Ok(self.dir.clone());
        }
        // The symlink that leads there may lie in a directory that is everybody's.
        let holder = holder(&self.dir);
        private::passage(&holder).map_err(FollowError::io(&holder, "use it"))?;
        let place = holder.join(sequence.to_string());
        std::fs::create_dir_all(&place).map_err(FollowError::io(&place, "create it"))?;
        Ok(place)
    }

    /// Shows a mount at `place`; without one, what is mounted there already.
    pub fn show(&mut self, place: PathBuf, mount: Option<Detached>) -> Result<Option<Before>, StageError> {
        let before = match mount {
            Some(mount) if self.shown.as_ref() == Some(&place) => Some(Before::Mount(mount.replace(&place)?)),
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
        Ok(shown.filter(|shown| *shown != place).map(Before::Place).or(before))
    }
}

/// The path, its directory resolved, itself not.
pub(crate) fn beside_itself(dir: &Path) -> Result<PathBuf, FollowError> {
    let full = std::path::absolute(dir).map_err(FollowError::io(dir, "resolve it"))?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => Ok(full),
    }
}

/// Where the mounts that a symlink shows lie.
fn holder(link: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".understudy");
    link.with_file_name(name)
}

fn relative(place: &Path) -> PathBuf {
    place.components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect()
}

/// The place that a symlink of ours leads to; `None` for any other.
pub(crate) fn place_of_link(link: &Path, target: &Path) -> Option<PathBuf> {
    let place = link.parent()?.join(target);
    (place.parent()? == holder(link)).then_some(place)
}

/// Removes an unmounted place, and with the last the directory of places.
pub(crate) fn remove_place(place: &Path) {
    let _ = std::fs::remove_dir(place);
    let _ = place.parent().map(std::fs::remove_dir);
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

    #[test]
    fn a_symlink_is_ours_if_it_leads_beside_itself() {
        let ours = |target: &str| place_of_link(Path::new("/srv/live"), Path::new(target));
        assert_eq!(ours(".live.understudy/42"), Some("/srv/.live.understudy/42".into()));
        assert_eq!(ours("/srv/.live.understudy/42"), Some("/srv/.live.understudy/42".into()));
        assert_eq!((ours("elsewhere/42"), ours(".other.understudy/42")), (None, None));
        assert_eq!(relative(Path::new("/srv/.live.understudy/42")), Path::new(".live.understudy/42"));
    }
}
