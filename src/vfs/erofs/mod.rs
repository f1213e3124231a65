//! EROFS images of snapshots: written, and read back.

pub mod dirent;
pub mod image;
pub mod image_file;
pub mod inode;
