//! Whether a store serves its customers, and what follows from that: pure decisions, and the probes.
//!
//! - [`settings`] is what the user configures, [`probe`] asks once.
//! - [`tally`] turns single answers into up and down, so that one slow answer is no failure.
//! - [`verdict`] is what a watcher concludes about a primary from all that it sees. Only [`verdict::Verdict::Dead`]
//!   is voted for.
//! - [`health`] is what a primary does about itself: its services are started again twice, then it hands over.
//! - [`readiness`] says whether a standby would take over by itself, [`item`] by item; [`surroundings`] has those that
//!   only deserve a look.
//! - [`words`] are what watchers and the primary say to each other.
//! - [`limits`] hold automatic failovers back: too many of one store, or more than one host at once.
//!
//! # Why it is safe
//!
//! Nothing here can make two hosts serve: that is up to the lease and to the log (see `failover::decide`). What
//! is decided here is only whether a failover is wanted. So a mistake costs an outage of seconds, or a failover
//! that nobody needed, and no data. A watcher that does not reach the repository votes for nothing: whoever is
//! cut off cannot tell a dead host from its own cable.

pub mod health;
pub mod item;
pub mod limits;
pub mod probe;
pub mod readiness;
pub mod settings;
pub mod surroundings;
pub mod tally;
pub mod verdict;
pub mod words;
