//! The hold: decides which runs must not become the standby's truth unless an operator accepts them.

use super::plan::Plan;
use super::tree_path::TreePath;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The filesystem that a root is on, by values that survive a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemId {
    /// `f_type` of statfs.
    pub magic: u64,
    /// `f_fsid` if it is derived from the filesystem's UUID, else 0.
    pub id: u64,
    /// Inode of the store's root.
    pub root_inode: u64,
    /// Directories of the store at which another filesystem or another mount begins.
    ///
    /// None in snapshots of versions that did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "mounts")]
    pub mounts: Option<Vec<TreePath>>,
}

/// Maximum number of mounts in a record: the kernel's default limit for one namespace (`fs.mount-max`).
pub(crate) const MOUNTS_MAX: usize = 100_000;

/// Reads a list of mounts, and stops at the first one above the limit: a short text of commas cannot grow
/// into a gigabyte of memory.
fn mounts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<TreePath>>, D::Error> {
    struct Mounts(Vec<TreePath>);
    struct Reader;
    impl<'de> Visitor<'de> for Reader {
        type Value = Mounts;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "at most {MOUNTS_MAX} mounts")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Mounts, A::Error> {
            let mut mounts = Vec::new();
            while let Some(mount) = from.next_element()? {
                if mounts.len() == MOUNTS_MAX {
                    return Err(A::Error::invalid_length(MOUNTS_MAX + 1, &self));
                }
                mounts.push(mount);
            }
            Ok(Mounts(mounts))
        }
    }
    impl<'de> Deserialize<'de> for Mounts {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_seq(Reader)
        }
    }
    Ok(Option::<Mounts>::deserialize(from)?.map(|mounts| mounts.0))
}

impl FilesystemId {
    /// Returns whether this is another filesystem than `before`, as far as that can be decided.
    ///
    /// Another inode, subvolume or mount of the same filesystem is not another filesystem. Where a filesystem
    /// has no lasting id, only its type is compared.
    pub(crate) fn is_other_than(&self, before: &FilesystemId) -> bool {
        (self.magic, self.id) != (before.magic, before.id)
    }
}

/// The reason why a run was held, with the figures that caused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Hold {
    /// The root is empty, and the last snapshot was not.
    EmptyRoot { entries_before: u64 },
    /// The root is on another filesystem than last time, and more was deleted than the plan's percentage
    /// allows, however few entries that are.
    OtherFilesystem {
        before: Box<FilesystemId>,
        now: Box<FilesystemId>,
        deleted: u64,
        entries_before: u64,
        allowed_percent: u8,
    },
    /// A filesystem was mounted here, and much of its content was deleted.
    VolumeLost { path: String, deleted: u64, entries_before: u64, is_mounted: bool },
    /// More entries were deleted than the plan allows.
    Deletions { deleted: u64, entries_before: u64, allowed_percent: u8 },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::EmptyRoot { entries_before } => write!(
                f,
                "the root is empty, but the last snapshot has {entries_before} entries; is the volume mounted?"
            ),
            Hold::OtherFilesystem { before, now, deleted, entries_before, allowed_percent } => write!(
                f,
                "the root is on another filesystem than last time (type {:#x} id {:#x}, before: type {:#x} id {:#x}), and {deleted} of {entries_before} entries are missing from it (the plan allows {allowed_percent} %); is the right volume mounted?",
                now.magic, now.id, before.magic, before.id
            ),
            Hold::VolumeLost { path, deleted, entries_before, is_mounted } => write!(
                f,
                "{path}: a volume was mounted here last time{}; {deleted} of its {entries_before} entries are missing; {}",
                if *is_mounted { "" } else { ", and none is now" },
                if *is_mounted { "is it the right one?" } else { "should it be mounted?" }
            ),
            Hold::Deletions { deleted, entries_before, allowed_percent } => write!(
                f,
                "{deleted} of {entries_before} entries were deleted; the plan allows {allowed_percent} %"
            ),
        }
    }
}

/// Deletions below a directory at which a filesystem was mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub path: TreePath,
    /// Number of entries below it in the last snapshot.
    pub entries_before: u64,
    /// Number of those entries that were deleted.
    pub deleted: u64,
    /// A filesystem is mounted there now, the same or another.
    pub is_mounted: bool,
}

/// Result of a scan. No count includes the root itself.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub entries_before: u64,
    pub entries_now: u64,
    pub deleted: u64,
    /// The filesystem of the last snapshot, if there is one.
    pub before: Option<&'a FilesystemId>,
    pub now: &'a FilesystemId,
    pub losses: &'a [Loss],
}

/// Decides whether the run is held, by what would be lost.
///
/// A tree that moved, or whose filesystem has another id, is not held for that alone.
pub(crate) fn after_scan(plan: &Plan, found: &Found) -> Option<Hold> {
    let Found { entries_before, entries_now, deleted, .. } = *found;
    if entries_before > 0 && entries_now == 0 {
        return Some(Hold::EmptyRoot { entries_before });
    }
    let allowed_percent = plan.max_deleted_percent;
    let is_over =
        |deleted: u64, of: u64| u128::from(deleted) * 100 > u128::from(of) * u128::from(allowed_percent);
    // A volume may hold few of the entries and most of the bytes. So where nothing is mounted now, or nothing
    // is left of the volume, the floor of the plan does not apply.
    let is_lost = |loss: &&Loss| {
        let few_count = !loss.is_mounted || loss.deleted == loss.entries_before;
        is_over(loss.deleted, loss.entries_before) && (few_count || loss.deleted > plan.max_deleted_floor)
    };
    if let Some(loss) = found.losses.iter().find(is_lost) {
        let Loss { deleted, entries_before, is_mounted, .. } = *loss;
        return Some(Hold::VolumeLost { path: loss.path.to_string(), deleted, entries_before, is_mounted });
    }
    if !is_over(deleted, entries_before) {
        return None;
    }
    match found.before {
        Some(before) if found.now.is_other_than(before) => Some(Hold::OtherFilesystem {
            before: Box::new(before.clone()),
            now: Box::new(found.now.clone()),
            deleted,
            entries_before,
            allowed_percent,
        }),
        _ => (deleted > plan.max_deleted_floor).then_some(Hold::Deletions {
            deleted,
            entries_before,
            allowed_percent,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::PlanName;

    fn filesystem(id: u64, root_inode: u64) -> FilesystemId {
        FilesystemId { magic: 0xef53, id, root_inode, mounts: None }
    }

    fn held(
        entries_before: u64,
        entries_now: u64,
        deleted: u64,
        now: &FilesystemId,
        losses: &[Loss],
    ) -> Option<Hold> {
        let before = filesystem(1, 2);
        let found = Found { entries_before, entries_now, deleted, before: Some(&before), now, losses };
        after_scan(&PlanName::Private.plan(), &found)
    }

    #[test]
    fn deletions_above_the_plan_are_held() {
        let same = filesystem(1, 2);
        assert_eq!(held(1000, 700, 300, &same, &[]), None);
        assert!(matches!(held(1000, 699, 301, &same, &[]), Some(Hold::Deletions { .. })));
        assert_eq!(held(100, 1, 99, &same, &[]), None);
        assert!(matches!(held(100, 0, 100, &same, &[]), Some(Hold::EmptyRoot { .. })));
        assert_eq!(held(0, 0, 0, &same, &[]), None);
    }

    #[test]
    fn another_filesystem_is_held_only_for_what_is_not_on_it() {
        assert_eq!(held(100, 100, 0, &filesystem(7, 2), &[]), None);
        // The same filesystem, through another directory: the rules do not change.
        assert_eq!(held(100, 60, 99, &filesystem(1, 900), &[]), None);
        // Few entries, below the plan's floor, but hardly any of them are left.
        assert!(matches!(held(50, 3, 48, &filesystem(7, 2), &[]), Some(Hold::OtherFilesystem { .. })));
    }

    #[test]
    fn more_mounts_than_a_host_has_are_refused_while_they_are_read() {
        let read = |count: usize| {
            let mounts = vec!["a"; count];
            let text =
                serde_json::json!({ "magic": 1, "id": 0, "root_inode": 2, "mounts": mounts }).to_string();
            serde_json::from_str::<FilesystemId>(&text).map(|found| found.mounts.map_or(0, |m| m.len()))
        };
        assert_eq!(read(MOUNTS_MAX).unwrap(), MOUNTS_MAX);
        assert!(read(MOUNTS_MAX + 1).unwrap_err().to_string().contains("at most 100000 mounts"));
        let none = "{\"magic\":1,\"id\":0,\"root_inode\":2}";
        assert_eq!(serde_json::from_str::<FilesystemId>(none).unwrap().mounts, None);
    }

    #[test]
    fn a_volume_that_is_not_mounted_is_held_however_small_its_share() {
        let loss = |deleted, is_mounted| {
            let path = TreePath::root().join(b"media");
            Loss { path, entries_before: 12, deleted, is_mounted }
        };
        let same = filesystem(1, 2);
        let hold = held(100_000, 99_988, 12, &same, &[loss(12, false)]).unwrap();
        assert!(hold.to_string().starts_with("media: a volume was mounted here"), "{hold}");
        // Another volume is mounted, and holds none of the entries.
        assert!(held(100_000, 99_988, 12, &same, &[loss(12, true)]).is_some());
        // Nothing is mounted, and a small file is left in the directory below the mount.
        assert!(held(100_000, 99_989, 11, &same, &[loss(11, false)]).is_some());
        // A customer deletes files; the volume is mounted.
        assert_eq!(held(100_000, 99_989, 11, &same, &[loss(11, true)]), None);
        // The volume was replaced by a copy of its content.
        assert_eq!(held(100_000, 100_000, 0, &same, &[loss(0, false)]), None);
    }
}
