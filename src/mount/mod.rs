//! A snapshot as a filesystem: its image, and the kernel's mounts of it.

pub mod dirent;
pub mod error;
pub mod image;
pub mod inode;
pub mod kernel;
