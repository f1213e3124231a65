//! The decisions of failover, as pure functions.
//!
//! [`step::step`] is the whole machine of one host for one store: it takes what the host knows ([`view::View`]),
//! one thing that happened ([`input::Input`]) and the time, and returns what the host knows now and what it
//! has to do ([`output::Output`]). It reads no clock, draws no number and does no I/O. The daemon, the seeded
//! simulation and the model checker run the same code.
//!
//! # Why two hosts never serve
//!
//! - **The log names one primary.** A host serves only after a read of the log that began after it held its
//!   lease, and that named it.
//! - **A host that becomes primary waits for every host that may still serve** (the reigns of
//!   [`log_view::LogView`]). For each one it needs a proof: the host's own statement that it is closed, made
//!   after its last reign began; a person's or a command's word; or its broken lease.
//! - **A lease is broken by taking its next number.** Renewal and break are the creation of the same object,
//!   so one of them fails. If the break wins, the holder's last renewal was sent before the number was seen
//!   here, so it ends before `ttl` has passed here, as long as the two clocks differ by no more than the margin
//!   in [`timing::Timing`]. Breaks for other stores may lie between the two: they are others' numbers, each of
//!   which was read, and say nothing about when the holder renewed.
//! - **A promise holds a candidate back.** While the repository cannot be reached, a primary continues as long
//!   as every candidate promises to open nothing for `ttl`. A candidate that starts has forgotten its promises,
//!   and which numbers it saw: it counts `ttl` from the first number that it sees after its start.
//! - **A handover is one-way until the log says otherwise.** A primary that hands over closes first, and opens
//!   again only after it won a record that cancels the handover. Statements of being closed name the position
//!   of the log at which they were made, and a cancellation makes the earlier ones void.
//!
//! # What can race
//!
//! Messages arrive late, twice or never. Each append and each lease number is created at most once, whoever
//! asked for it, and whoever does not know the result reads it before it goes on.

pub mod absence;
pub mod input;
pub mod log_view;
pub mod output;
pub mod reason;
pub mod step;
pub mod timing;
pub mod view;

mod settle;
