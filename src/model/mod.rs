//! The nouns: ids, paths, entries, the order of manifests, differences, log records and their fold.
//!
//! Pure data and pure functions; nothing here reads a clock, a file or the network.

pub mod access;
pub mod authority;
pub mod closed;
pub mod closure;
pub mod decider;
pub mod decision;
pub mod diff;
pub mod entry;
pub mod escape;
pub mod gtid;
pub mod hold;
pub mod id;
pub mod lease;
pub mod manifest_root;
pub mod member;
pub mod plan;
pub mod record;
pub mod reread;
pub mod retention;
pub mod rivals;
pub mod role;
pub mod signed;
pub mod snapshot_ref;
pub mod tree_path;
pub mod vote;

#[cfg(test)]
mod tests;
