//! A drill of a failover: all of it, on copies, while the store is served elsewhere and replication goes on.
//!
//! The daemon's or the command's process ([`run`]) has the keys. It measures by their dry form the steps that touch the
//! world ([`dry`]), copies the database, and starts another program in namespaces of its own ([`stage`]): there the
//! last snapshot is mounted writable at the store's path, the database opens, services start and probes are asked
//! ([`perform`]).
//!
//! Why nothing gets out:
//! - The network namespace has its loopback alone, and every address is this host there ([`network`]). A resolver
//!   answers each name with one address, where a [`sink`] takes mails and calls, and counts them.
//! - Each filesystem is seen through a layer that keeps changes in memory ([`root`]). So a mail that is put into a
//!   queue stays there, and no socket of this host's programs is reached: its file in the layer is another one.
//! - Processes see no other ones, and get no capability by which they could leave: no mounts, no namespaces, no
//!   devices, no modules.
//!
//! Why nothing is left: all of it belongs to the first process of a process namespace. That one ends when its standard
//! input is closed, in whichever way the drill ended, and the kernel ends all others, and every mount, with it. What
//! lies on a disk is named by [`place`], and removed by the next drill, or when a daemon starts.
//!
//! What can race: a real failover. Nothing that it needs is held by a drill, and the drill gives way.

pub(crate) mod capabilities;
pub(crate) mod dry;
pub(crate) mod due;
pub(crate) mod network;
pub(crate) mod perform;
pub(crate) mod place;
pub(crate) mod report;
pub(crate) mod resolver;
pub(crate) mod root;
pub(crate) mod run;
pub(crate) mod services;
pub mod settings;
pub(crate) mod sink;
pub(crate) mod stage;
pub(crate) mod task;
pub(crate) mod trace;
