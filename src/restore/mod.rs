//! Restoring a snapshot as plain files.

pub mod access;
pub mod at;
pub mod beside;
pub mod context;
pub mod destination;
pub mod directory;
pub mod error;
pub mod file;
pub mod filesystem;
pub mod leftovers;
pub mod links;
pub mod metadata;
pub mod remove;
pub mod request;
pub mod run;
pub mod salvage;
pub mod session;
pub mod settle;
pub mod shortfall;
pub mod special;
pub mod spot;
pub mod tree;
