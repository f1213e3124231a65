//! Notifications: who is told when something of a store is wrong, and when it is over; and of each run.
//!
//! ```text
//!  statuses ──▶ trouble, reign ──▶ ledger ──▶ queue ──▶ message ──▶ webhook, Slack, e-mail
//!  runs     ──▶ ping ─────────────────────────────────────────────▶ a ping's address
//! ```
//!
//! All that decides is pure; [`notifier`] has the threads, the disk and the network.

pub(crate) mod attempts;
pub(crate) mod deliver;
pub(crate) mod email;
pub mod event;
pub(crate) mod ledger;
pub(crate) mod message;
pub(crate) mod notifier;
pub(crate) mod ping;
pub(crate) mod post;
pub(crate) mod queue;
pub(crate) mod reign;
pub mod settings;
pub(crate) mod sign;
pub(crate) mod smtp;
pub(crate) mod trouble;

#[cfg(test)]
mod tests;
