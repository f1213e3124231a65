//! What a server says about itself, as the checks need it. Data only.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The variables that the checks and a replica's configuration read.
pub(crate) const VARIABLES: [&str; 24] = [
    "binlog_expire_logs_seconds",
    "binlog_format",
    "binlog_row_image",
    "character_set_server",
    "collation_server",
    "datadir",
    "explicit_defaults_for_timestamp",
    "gtid_binlog_pos",
    "gtid_domain_id",
    "gtid_strict_mode",
    "hostname",
    "innodb_data_file_path",
    "innodb_page_size",
    "innodb_undo_tablespaces",
    "innodb_checksum_algorithm",
    "log_bin",
    "log_bin_basename",
    "lower_case_table_names",
    "max_allowed_packet",
    "max_heap_table_size",
    "server_id",
    "version",
    "version_comment",
    "wsrep_on",
];

/// The variables of a server by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl Variables {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.text(name), "ON" | "1")
    }
}

/// A table that is not InnoDB's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ForeignTable {
    /// Schema and name.
    pub name: String,
    pub engine: String,
}

/// What a primary says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub variables: Variables,
    /// The account that asked, as `'user'@'host'`.
    pub account: String,
    /// The global privileges of each account.
    pub privileges: BTreeMap<String, BTreeSet<String>>,
    pub foreign_tables: Vec<ForeignTable>,
}
