//! The database of a store: on the primary's host the server that customers reach, on a standby a replica that
//! applies what the primary's has committed.
//!
//! The reference is MariaDB (10.11 and later). A seed travels through the repository like files; from its
//! position on, the replica follows the primary's server itself. Only committed transactions are applied, in the
//! server's own way; nothing here skips one. On the primary, what the server commits can be archived in the
//! repository; a seed and the archive make the database as it was at any moment.
//!
//! - [`role`] is what a server may be on this host, [`role_file`] the note of it, [`orders`] what changes it.
//! - [`supervisor`] runs the server: as a [`replica`], which a promotion ([`promote`]) ends, or [`serving`].
//! - [`go_back`] has a restored database take the place of a replica's, when a person wants an earlier moment.
//! - [`received`] is what a replica's server had received when it ended, and must not lose.
//! - [`drill`] proves that a replica's data is a database: on a copy, which a second server opens.
//! - [`site_copy`] opens a copy as the primary's server is, for a drill of a failover.
//! - [`points`] are the moments to which files and database come together; [`media`] says what the one has of the other.
//! - [`hold`] has a replica stand at the position of a snapshot of the files.
//! - [`reporting`] lets reports read from a replica, and only from that: through a door, by an account of their own.
//! - [`fence`] ends a server that customers reach, whether or not its supervisor lives.
//!
//! What can race: a second supervisor of the same server is stopped by the first one's lock. A primary that is
//! no longer the primary is not followed: the log is read before each start of replication.

pub mod archive;
mod archive_start;
mod background;
pub mod binlog_files;
pub mod check;
pub mod client;
pub mod customers;
pub mod cutter;
pub mod decide;
pub mod desk;
mod door;
pub mod drill;
pub mod drill_at;
pub mod drill_command;
mod drill_copy;
pub mod drill_fault;
pub mod drill_note;
mod drill_place;
pub mod error;
pub mod facts;
pub mod fence;
pub mod found;
mod go_back;
mod handshake;
pub mod hold;
pub mod holder;
pub mod lag;
pub mod media;
pub mod minimal;
mod note;
pub mod orders;
mod own_files;
pub mod play;
pub mod points;
pub(crate) mod points_read;
pub mod private_server;
pub mod process;
pub mod promote;
pub mod received;
pub mod recover;
pub mod replay;
pub mod replica;
pub mod report;
pub mod report_account;
pub mod reporting;
pub mod restored;
pub mod role;
pub mod role_file;
pub mod seed;
pub mod server;
pub mod serving;
pub mod site_copy;
mod still;
pub mod stranded;
pub mod supervisor;
pub mod target;
