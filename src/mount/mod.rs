//! A snapshot as a filesystem: its image, and the kernel's mounts of it.

mod context;
pub mod dirent;
pub mod error;
pub mod fuse;
pub mod image;
pub mod image_file;
pub mod inode;
pub mod kernel;
