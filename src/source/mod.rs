//! The live tree: walked by directory handles, read until stable.
//!
//! Nothing here follows a symlink. The tree changes at any moment: every step expects that an entry it looked
//! at was removed, grew, or became another entry.

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
