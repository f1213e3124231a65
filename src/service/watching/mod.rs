//! Watching: what this daemon does about stores whose plan leaves failover to watchers.
//!
//! - [`watcher`] looks at a store's primary from here, and votes.
//! - [`candidate`] counts the votes while this host stands by, and takes over.
//! - [`attendant`] looks at the store while this host is its primary: it starts services again, and hands over.
//! - [`ready`] says whether this host would take over by itself; [`surroundings`] looks at what it has to offer.
//! - [`alone`] keeps watchers of stores that this host only watches.
//! - [`status`] says all of it, for the API.
//!
//! Each is a thread a store: a probe that hangs delays nothing but itself. Why it is safe: see `failover::watch`.
//! What can race: a watcher's votes and the primary that comes back. A renewal of its lease makes them void.

pub(crate) mod alone;
pub(crate) mod attendant;
pub(crate) mod candidate;
pub(crate) mod ready;
pub(crate) mod status;
mod surroundings;
pub(crate) mod watcher;
