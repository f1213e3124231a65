//! The edge: what sends a store's customers to the host that is its primary.
//!
//! A store may have several edges (CloudFront, HAProxy, nginx, Route 53, a command of the user's). Each keeps a [`mark::Mark`]: the
//! epoch, the host and the address that it was given last. The mark is what makes a switch safe to repeat and
//! what fences: a host that finds a mark of a higher epoch changes nothing and is fenced. Values that come from
//! the log are parsed into types whose text cannot contain a blank, a line break or a `;` before any of them
//! reaches a socket, a file or a program.
//!
//! Races: two processes of one machine take turns by a lock beside the edge's file. Between machines nothing is
//! locked: CloudFront and Route 53 refuse a change of what was changed meanwhile, and a command of the user's must compare
//! the epochs itself.
//!
//! An edge is never believed: what it was told is read back, and a switch is done only when the customers'
//! address shows the new epoch ([`customer`]).

pub mod address;
pub(crate) mod ask;
pub(crate) mod aws;
pub mod cloudfront;
pub mod command;
pub mod config;
pub mod context;
pub mod customer;
pub mod edges;
pub mod error;
pub mod haproxy;
pub(crate) mod held;
pub mod mark;
pub mod nginx;
pub mod route53;
pub mod switch;
