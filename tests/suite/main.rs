//! Tests of the whole program's promises, with real trees, real servers and the real binary.

// Tests print failures and figures.
#![allow(clippy::disallowed_macros)]
// The binary and the kernel use their own clocks, and so do tests of them.
#![allow(clippy::disallowed_methods)]

mod adversary;
mod agents;
mod api;
mod archive;
mod attacker;
mod bad_days;
mod bad_days_private;
mod bounds;
mod cli;
mod clock;
mod clocks;
mod cloudfront;
mod cloudfront_hosts;
mod damage;
mod database;
mod database_daemon;
mod database_damage;
mod database_drill;
mod database_failover;
mod database_hold;
mod database_reports;
mod database_roles;
mod database_stranded;
mod database_supervise;
mod deltas;
mod disagree;
mod disk;
mod docs;
mod drills;
mod edge;
mod failover_model;
mod failover_set;
mod failover_simulation;
mod failures;
mod faults;
mod fuse;
mod guard;
mod hints;
mod hooks;
mod host;
mod hostile;
mod house;
mod judges;
mod keys;
mod kill;
mod kill_points;
mod live_tree;
mod media;
mod members;
mod notify;
mod output;
mod outsiders;
mod panel;
mod panel_browser;
mod points;
mod races;
mod remote_failover;
mod replica;
mod restore;
mod roles;
mod roundtrip;
mod route53;
mod seeds;
mod semi_sync;
mod service;
mod services;
mod signals;
mod simulation;
mod site_drills;
mod standby;
mod stranded;
#[path = "../support/mod.rs"]
mod support;
mod swaps;
mod upkeep;
mod watchers;
mod years;
