//! A file's content: its extents read, and written to a file of this host from chunks, other files and objects.

pub mod extents;
pub mod large;
pub mod reuse;
pub mod scattered;
