//! Reading and writing of file content: from chunks, from other files and from a standby's objects.

pub mod attributes;
pub mod error;
pub mod large;
pub mod local_objects;
pub mod reuse;
pub mod scattered;
pub mod write;
