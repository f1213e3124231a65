//! A file's content: its extents read, and written to a file of this host from chunks, other files and objects.

pub mod attributes;
pub mod error;
pub mod large;
pub mod local_objects;
pub mod reuse;
pub mod scattered;
pub mod write;
