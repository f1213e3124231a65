//! The extended attributes of an entry.

use crate::format::attrs;
use crate::model::entry::{Attributes, Entry, Xattrs};
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;

/// Returns an entry's attributes, reading their chunk if they are stored in one.
pub(crate) fn attributes_of(chunks: &ChunkReader, entry: &Entry) -> Result<Attributes, RepositoryError> {
    match &entry.xattrs {
        Xattrs::None => Ok(Attributes::new()),
        Xattrs::Inline(list) => Ok(list.clone()),
        Xattrs::Chunk(id) => {
            let bytes = chunks.read(*id)?;
            attrs::decode_chunk(&bytes).map_err(RepositoryError::format(&entry.path))
        }
    }
}
