//! The database of a store on its standby: a replica that applies what the primary's server has committed.
//!
//! The reference is MariaDB (10.11 and later). A seed travels through the repository like files; from its
//! position on, the replica follows the primary's server itself. Only committed transactions are applied, in the
//! server's own way; nothing here skips one.
//!
//! What can race: a second supervisor of the same replica is stopped by the server's own lock on its files. A
//! primary that is no longer the primary is not followed: the log is read before each start of replication.

pub mod check;
pub mod client;
pub mod decide;
pub mod error;
pub mod facts;
pub mod lag;
pub mod minimal;
pub mod process;
pub mod replica;
pub mod seed;
pub mod server;
