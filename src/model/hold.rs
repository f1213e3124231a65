//! The hold: what does not become the standby's truth unless an operator accepts it.

use super::plan::Plan;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The filesystem that a root is on, as far as it survives a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemId {
    /// `f_type` of statfs.
    pub magic: u64,
    /// `f_fsid` where it is made from the filesystem's UUID, else 0.
    pub id: u64,
    /// Inode of the store's root.
    pub root_inode: u64,
}

/// Why a run was held, with the figures that caused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Hold {
    /// The root holds nothing, and the last snapshot held something.
    EmptyRoot { entries_before: u64 },
    /// The root is on another filesystem, or is another directory, than last time.
    OtherFilesystem { before: FilesystemId, now: FilesystemId },
    /// More was deleted than the plan allows.
    Deletions { deleted: u64, entries_before: u64, allowed_percent: u8 },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::EmptyRoot { entries_before } => {
                write!(f, "the root is empty, and the last snapshot holds {entries_before} entries")
            }
            Hold::OtherFilesystem { before, now } => write!(
                f,
                "the root is on another filesystem than last time (type {:#x} id {:#x} inode {}, before: type {:#x} id {:#x} inode {}); is the volume mounted?",
                now.magic, now.id, now.root_inode, before.magic, before.id, before.root_inode
            ),
            Hold::Deletions { deleted, entries_before, allowed_percent } => write!(
                f,
                "{deleted} of {entries_before} entries are gone, and the plan allows {allowed_percent} %"
            ),
        }
    }
}

/// What is known before the tree is walked.
pub fn before_scan(before: Option<&FilesystemId>, now: &FilesystemId) -> Option<Hold> {
    let before = before?;
    (before != now).then(|| Hold::OtherFilesystem { before: before.clone(), now: now.clone() })
}

/// What the scan has counted. Neither count includes the root itself.
pub fn after_scan(plan: &Plan, entries_before: u64, entries_now: u64, deleted: u64) -> Option<Hold> {
    if entries_before > 0 && entries_now == 0 {
        return Some(Hold::EmptyRoot { entries_before });
    }
    let over = u128::from(deleted) * 100 > u128::from(entries_before) * u128::from(plan.max_deleted_percent);
    (over && deleted > plan.max_deleted_floor).then_some(Hold::Deletions {
        deleted,
        entries_before,
        allowed_percent: plan.max_deleted_percent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::PlanName;

    #[test]
    fn deletions_above_the_plan_are_held() {
        let plan = PlanName::Private.plan();
        assert_eq!(after_scan(&plan, 1000, 700, 300), None);
        assert!(matches!(after_scan(&plan, 1000, 699, 301), Some(Hold::Deletions { .. })));
        assert_eq!(after_scan(&plan, 100, 1, 99), None);
        assert!(matches!(after_scan(&plan, 100, 0, 100), Some(Hold::EmptyRoot { .. })));
        assert_eq!(after_scan(&plan, 0, 0, 0), None);
    }
}
