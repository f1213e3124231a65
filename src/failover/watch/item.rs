//! One thing that an automatic failover depends on. Data only.

use serde::{Deserialize, Serialize};

/// How an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Green,
    Amber,
    Red,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub item: String,
    pub level: Level,
    /// What is so.
    pub why: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}
