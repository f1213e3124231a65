//! The tests' tools. A suite takes its tools from here, and never from another suite.

pub mod cluster;
pub mod command;
pub mod customers;
pub mod dated;
pub mod dice;
pub mod disk;
pub mod facts;
pub mod failover_world;
pub mod faulty;
pub mod forge;
pub mod host;
pub mod http;
pub mod members;
pub mod model_tree;
pub mod mount;
pub mod nginx;
pub mod objects;
pub mod origin;
pub mod outage;
pub mod proxies;
pub mod rig;
pub mod servers;
pub mod stand_in;
pub mod standby;
pub mod tree;
pub mod wait;
