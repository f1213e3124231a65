//! The guard of a store on a host: a small process that is the gate in front of the store's web server and
//! the dead-man's fence of the host.

pub mod settings;
