//! The stranded transactions of a store's database: what a former primary's server has committed and the new
//! primary's never had.
//!
//! They lie in the former primary's binary logs, behind the branch: the position at which the new primary stopped
//! being a replica. [`find`] looks for them there, [`summary`] counts their rows, [`keep`] writes them to files of
//! their own, and [`rejoin`] takes them back, so that the server can follow again, only after they are kept.
//!
//! The numbers of stranded transactions are those of the new primary's own ones. So what is behind the branch is
//! looked up in the server's own history, where the branch must be exactly, and nothing is compared across servers.

pub mod columns;
pub mod find;
pub mod journal;
pub mod keep;
pub mod kept;
pub mod rejoin;
pub mod rewind;
pub mod summary;
pub mod visit;
