//! The guard of a store on a host: a small process that is the gate in front of the store's web server and
//! the dead-man's fence of the host.
//!
//! The daemon feeds it: whether requests pass, in which epoch, and until when. The guard does not need the
//! daemon for closing: it is a process of its own session, reads the clock that goes on while a machine
//! sleeps before each answer and each piece of one, and when its time has passed it refuses, resets what is
//! open, and stops the store's services.
//!
//! - [`protocol`] is what is said at its socket, [`state`] the pure machine behind it.
//! - [`gate`] shares the state between the guard's threads. [`keeper`] is the thread that waits for the time,
//!   and [`fence`] what it does then, which [`mark`] keeps for the next guard if this one ends; [`ports`] are the packets that it has rejected.
//! - [`listener`], [`connection`], [`proxy`], [`body`], [`headers`] and [`tunnel`] carry HTTP.
//! - [`control`] answers at the socket, [`client`] asks there, [`process`] is the process as a whole.

pub mod body;
pub mod client;
pub mod connection;
pub mod control;
pub mod fence;
pub mod gate;
pub mod headers;
pub mod keeper;
pub mod listener;
mod mark;
pub mod ports;
pub mod process;
pub mod protocol;
pub mod proxy;
pub mod settings;
pub mod state;
pub mod tunnel;
