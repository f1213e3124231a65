//! The live tree: walked by directory handles, read until stable. Nothing here follows a symlink, and
//! the tree changes under our hands at any moment: every step expects what it looked at to be gone,
//! grown or something else.

pub mod content;
pub mod data_map;
pub mod disk;
pub mod error;
pub mod exclude;
pub mod filesystem;
pub mod hints;
pub mod node;
pub mod read;
pub mod stat;
pub mod tree;
pub mod walk;
pub mod xattr;
