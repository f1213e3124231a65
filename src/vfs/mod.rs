//! A snapshot as a filesystem: its image, and the kernel's mounts of it.

mod context;
pub mod erofs;
pub mod error;
pub mod fuse;
pub mod overlay;
pub mod throw_away;
