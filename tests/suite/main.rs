//! Claims about the whole, proven against real trees, real servers and the real binary.

mod cli;
mod damage;
mod deltas;
mod facts;
mod faults;
mod faulty;
mod fuse;
mod hints;
mod hostile;
mod house;
mod judges;
mod keys;
mod kill;
mod live_tree;
mod races;
mod restore;
mod rig;
mod roundtrip;
mod seeds;
mod servers;
mod service;
mod simulation;
mod standby;
mod swaps;
mod upkeep;
mod years;
