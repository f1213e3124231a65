//! The damage that a verification finds.

use crate::model::authority::Irregulars;
use crate::model::id::{ChunkId, IndexId, PackId, Sequence};
use crate::model::record::ManifestRoot;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Maximum number of files that are listed. All are counted.
const NAMED_MAX: usize = 1000;

/// A damaged object.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedObject {
    pub key: String,
    pub problem: String,
}

/// A file that cannot be restored whole from a snapshot. The path is empty if a page of many files is lost.
#[derive(Clone, Debug, Serialize)]
pub struct Touched {
    pub snapshot: Sequence,
    pub path: String,
    pub reason: String,
}

/// The findings of a verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    pub records: u64,
    /// Records that have no effect, or whose writer was not admitted.
    pub irregular: Irregulars,
    pub snapshots: u64,
    pub index_segments: u64,
    pub packs: u64,
    pub packs_read: u64,
    pub read_bytes: u64,
    /// Last pack that was read. The next reading begins after it.
    pub read_until: Option<PackId>,
    /// Whether the reading passed the last pack, and began with the first again.
    pub came_round: bool,
    pub files: u64,
    /// Segments of the database's archive, and how many of them were read.
    pub archive_segments: u64,
    pub archive_read: u64,
    pub problems: Vec<DamagedObject>,
    pub touched_count: u64,
    pub touched: Vec<Touched>,
}

impl VerifyReport {
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.touched_count == 0
    }

    pub(crate) fn problem(&mut self, key: impl ToString, problem: impl ToString) {
        self.problems.push(DamagedObject { key: key.to_string(), problem: problem.to_string() });
    }

    pub(crate) fn touch(&mut self, snapshot: Sequence, path: String, reason: String) {
        self.touched_count += 1;
        if self.touched.len() < NAMED_MAX {
            self.touched.push(Touched { snapshot, path, reason });
        }
    }
}

/// Damage that is known before the manifests are walked.
#[derive(Default)]
pub(crate) struct Broken {
    /// Packs that are missing or damaged, with the reason.
    pub packs: HashMap<PackId, String>,
    /// Packs that are missing completely.
    pub missing: HashSet<PackId>,
    pub chunks: HashSet<ChunkId>,
    pub segments: BTreeSet<IndexId>,
}

/// The result of examining a store's objects.
pub(crate) struct Examined {
    /// The trees of the snapshots, and those of former primaries, by their records.
    pub trees: BTreeMap<Sequence, ManifestRoot>,
    /// The segments that are sound.
    pub index: Arc<Index>,
    pub broken: Broken,
    pub report: VerifyReport,
}

/// Returns the text of an error without the key, which is shown next to it.
pub(super) fn plain(error: &RepositoryError) -> String {
    match error {
        RepositoryError::Format { source, .. } => source.to_string(),
        RepositoryError::MissingObject { .. } => "is missing".into(),
        other => other.to_string(),
    }
}
