//! The progress of a run.

use crate::support::progress::Progress;
use serde::{Deserialize, Serialize};

/// Figures of a run that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressFigures {
    /// Number of entries that were scanned.
    pub entries: u64,
    /// Number of entries of the last snapshot; 0 when there is none.
    pub expected_entries: u64,
    pub read_bytes: u64,
    pub shipped_bytes: u64,
}

impl From<&Progress> for ProgressFigures {
    fn from(progress: &Progress) -> Self {
        Self {
            entries: Progress::get(&progress.entries),
            expected_entries: Progress::get(&progress.expected_entries),
            read_bytes: Progress::get(&progress.read_bytes),
            shipped_bytes: Progress::get(&progress.shipped_bytes),
        }
    }
}
