//! The failover agents of this daemon's stores, and the parts of this host that they direct.
//!
//! - [`around`] is the daemon, as far as they need it.
//! - [`registry`] starts and ends an agent for each store of which this host is a member.
//! - [`parts`] is what an agent directs: it joins the guard's gate ([`gate`]), the store's tree and snapshots
//!   ([`files`]), services, database commands and edges ([`commands`]).
//! - [`attested`] keeps what a person has said of former primaries.
//! - [`back`] keeps what a person has the store go back to.
//! - [`incarnations`] knows which earlier daemons of this host have ended.
//! - [`replica`] keeps the read-only instance of a hot standby.
//! - [`status`] says what an agent does, for the API.
//! - [`trailing`] is what the database had a few seconds ago.
//!
//! Why it is safe: nothing here decides. Each part does what the machine asks for, as often as it asks, and
//! reports an error otherwise. What can race: the daemon's own runs of the store. They follow the agent's
//! phase ([`crate::service::board::Duty`]), and the runs that an agent makes itself wait for them.

pub(crate) mod around;
pub(crate) mod attested;
mod back;
pub(crate) mod commands;
mod database;
pub(crate) mod files;
pub(crate) mod gate;
pub(crate) mod incarnations;
pub(crate) mod parts;
mod peers;
pub(crate) mod registry;
pub(crate) mod replica;
pub(crate) mod status;
mod trailing;
