//! The agent of a store on a host: it runs the failover machine, and carries out what the machine asks for.
//!
//! One thread ([`run`]) gives inputs to the machine and hands its outputs on; it waits for nothing else. Each
//! kind of output has a thread of its own ([`hands`], [`worker`]): so a disk, a service or a peer that hangs delays what
//! it concerns, and never the renewal of the lease, which [`lease_keeper`] does for all stores of the host.
//!
//! - [`log_desk`] reads the log and appends to it, [`watch_desk`] reads and breaks other hosts' leases.
//! - [`participants`] are the host's own parts: its gate, files, services, database and edge.
//! - [`disk_pulse`] says whether the host's disk hangs: then the lease is not renewed.
//! - [`journal`] keeps the steps of what the host does, with their times.
//! - [`terms`] turns the machine's events into decisions of the log. Pure.
//!
//! Why it is safe: the machine is told of a thing only after it happened, and of nothing that a later output
//! undid. Each output has a number ([`orders`]); a result that is older than an output which opens what it closed,
//! or the other way around, is dropped, and the machine asks again. A failure is no input: the machine asks
//! again by itself.
//!
//! What can race: an agent that ends leaves the gate as it is. The gate closes by its own clock.

pub(crate) mod disk_pulse;
pub mod hands;
pub mod journal;
pub(crate) mod lease_judge;
pub mod lease_keeper;
pub(crate) mod lease_lines;
pub(crate) mod log_desk;
pub(crate) mod message;
pub(crate) mod orders;
pub mod participants;
pub mod run;
pub mod terms;
pub(crate) mod watch_desk;
pub(crate) mod worker;
