//! The databases of the daemon's stores: what is observed of each, and what is done for the one whose primary this
//! host is.
//!
//! - [`here`] is what a host has of a store's database, and [`observed`] what is known of it.
//! - [`archiving`] archives what the server commits; [`seeding`] makes the seeds, and prunes them.
//! - [`drilling`] proves that a standby's replica opens.
//! - [`due`] decides, and [`keeper`] runs it.
//!
//! Nothing here runs a server: that is [`crate::database::supervisor`], a process of its own, so that no restart of a
//! daemon ends the customers' server. `supervising` starts that process where the configuration says so.

pub mod archiving;
mod caught;
pub mod drilling;
pub mod due;
pub mod here;
pub mod keeper;
pub mod observed;
pub mod seeding;
mod supervising;
