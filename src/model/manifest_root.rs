//! The root of a manifest, and the objects that a record vouches for.

use super::id::ChunkId;
use serde::{Deserialize, Serialize};

/// The root of a manifest's tree of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRoot {
    pub page: ChunkId,
    /// Height of the tree; 0 if the root page is a leaf.
    pub height: u8,
    /// Number of entries, including the root directory.
    pub entries: u64,
    /// Sum of the files' logical sizes.
    pub size_bytes: u64,
}

/// A pack or index segment that a record vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef<Id> {
    pub id: Id,
    pub size_bytes: u64,
}
