//! What only a former primary has: it is committed to the log before anything of it is overwritten, and a
//! person takes it over or gives it up.
//!
//! - [`former`] finds in the log what replaced a host.
//! - [`rejoin`] runs on the replaced host: it scans its tree against the snapshot that the new primary began
//!   with, ships what the store lacks, and decides `Stranded`. It only reads the tree.
//! - [`class`] and [`compare`] tell what happened to each path: pure, over three manifests.
//! - [`stated`] compares what was found with what the promotion stated that it loses.
//! - [`tree`] is one stranded tree in the repository, [`chosen`] what a person chose of it, and [`take`] puts
//!   that into a tree in use.
//!
//! Nothing here races with the new primary: its snapshots are other records. A pruning that moves data which
//! a rejoin relied on makes it begin again, as it does a resync.

pub mod chosen;
pub mod class;
pub mod compare;
pub mod error;
pub mod former;
pub(crate) mod list;
pub mod rejoin;
pub mod stated;
pub mod take;
pub mod tree;
