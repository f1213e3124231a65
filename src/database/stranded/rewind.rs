//! Whether stranded transactions can be undone row by row, and the statements that do it.
//!
//! They can where every change is a row whose images are whole, in tables that take part in a transaction, and where
//! no foreign key has changed other rows by itself: what the engine cascades is in no event. All is undone in one
//! transaction, which also writes a mark, so that after a kill the mark says whether it was done.

use super::columns::are;
use super::find::Found;
use super::summary::{shown, wrong};
use super::visit::{Said, visit};
use crate::database::client::literal;
use crate::database::error::DatabaseError;
use crate::database::server::Server;
use crate::format::binlog_inverse::inverse;
use crate::format::binlog_rows::{Change, TableName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Maximum size of what is undone: all of it is held in memory.
pub const REWIND_MAX_BYTES: u64 = 64 << 20;
/// Time to ask for tables and their keys.
const LIMIT: Duration = Duration::from_secs(60);
/// Time to undo all.
const REWIND_LIMIT: Duration = Duration::from_secs(3600);
/// The table with the mark.
const MARK: &str = "`mysql`.`understudy_rewind`";
/// Maximum number of reasons that are told.
const REASONS_MAX: usize = 8;

/// What the events themselves say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The tables, with the number of their columns and what happened to their rows.
    pub tables: BTreeMap<TableName, Kinds>,
    /// Why they cannot be undone.
    pub reasons: BTreeSet<String>,
}

/// What happened to the rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    pub columns: usize,
    pub updates: bool,
    pub deletes: bool,
}

/// Reads what is to be undone.
///
/// # Errors
/// Those of reading it.
pub fn changes(found: &Found) -> Result<Changes, DatabaseError> {
    let mut changes = Changes::default();
    if found.bytes() > REWIND_MAX_BYTES {
        changes.reasons.insert(format!(
            "it is {} MiB, and at most {} are undone",
            found.bytes() >> 20,
            REWIND_MAX_BYTES >> 20
        ));
        return Ok(changes);
    }
    if found.has_followed {
        changes.reasons.insert("this server has applied transactions of the new primary since".into());
    }
    visit(found, &mut |heard| {
        let gtid = heard.transaction.gtid;
        let reason = match &heard.said {
            Said::Rows { rows, table, .. } => {
                let kinds = changes.tables.entry(table.name.clone()).or_default();
                let is_other = kinds.columns != 0 && kinds.columns != rows.width;
                kinds.columns = rows.width;
                kinds.updates |= rows.change == Change::Update;
                kinds.deletes |= rows.change == Change::Delete;
                match (rows.is_full(), is_other) {
                    (false, _) => Some(format!("{gtid}: its row images are not whole (binlog_row_image)")),
                    (_, true) => Some(format!("{gtid}: the columns of {} were changed", table.name)),
                    _ => None,
                }
            }
            Said::CompressedRows { .. } => {
                Some(format!("{gtid}: its rows are compressed (log_bin_compress)"))
            }
            Said::Statement { text, .. } => Some(format!("{gtid} is a statement: {}", shown(text))),
            Said::Prepared => Some(format!("{gtid} is a transaction in two phases (XA)")),
            Said::Other(kind) => Some(format!("{gtid} has an event of type {kind}")),
            Said::Frame => None,
        };
        changes.reasons.extend(reason);
        Ok(())
    })?;
    Ok(changes)
}

impl Changes {
    fn names(&self, is_wanted: impl Fn(&Kinds) -> bool) -> BTreeSet<TableName> {
        self.tables.iter().filter(|(_, kinds)| is_wanted(kinds)).map(|(name, _)| name.clone()).collect()
    }

    /// Refuses what cannot be undone, by the events and by the server's catalogue.
    ///
    /// # Errors
    /// [`DatabaseError::Held`] with all reasons, and those of the server.
    pub fn check(&self, server: &Server, store: &str) -> Result<(), DatabaseError> {
        let mut reasons = self.reasons.clone();
        let asked = format!(
            "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, IFNULL(t.ENGINE, ''), t.TABLE_TYPE, COUNT(*) \
             FROM information_schema.TABLES t JOIN information_schema.COLUMNS c USING (TABLE_SCHEMA, TABLE_NAME) \
             WHERE {} GROUP BY 1, 2, 3, 4;",
            are(&self.names(|_| true), "t.TABLE_SCHEMA", "t.TABLE_NAME")
        );
        let mut there = BTreeMap::new();
        for row in server.client.ask(&asked, LIMIT)?.rows {
            let Ok([schema, table, engine, kind, columns]) = <[String; 5]>::try_from(row) else { continue };
            there.insert(TableName { schema, table }, (engine, kind, columns));
        }
        for (name, kinds) in &self.tables {
            reasons.extend(match there.get(name) {
                None => Some(format!("{name}: the table is gone")),
                Some((engine, _, _)) if engine != "InnoDB" => {
                    Some(format!("{name}: its engine is {engine}, which knows no transactions"))
                }
                Some((_, kind, _)) if kind != "BASE TABLE" => {
                    Some(format!("{name}: it is a {}", kind.to_lowercase()))
                }
                Some((_, _, columns)) if *columns != kinds.columns.to_string() => {
                    Some(format!("{name}: it has other columns by now"))
                }
                _ if name.schema == "mysql" => Some(format!("{name}: it is the server's own")),
                _ => None,
            });
        }
        reasons.extend(self.cascades(server)?);
        if reasons.is_empty() {
            return Ok(());
        }
        let more = reasons.len().saturating_sub(REASONS_MAX);
        let mut told: Vec<String> = reasons.into_iter().take(REASONS_MAX).collect();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        Err(DatabaseError::Held(format!(
            "what is stranded cannot be undone row by row, and nothing was changed: {}. Begin again from a new seed: on the primary: understudy database seed {store}; then here: understudy database rejoin {store} --reseed",
            told.join("; ")
        )))
    }

    /// Returns the foreign keys by which rows were changed that are in no event.
    fn cascades(&self, server: &Server) -> Result<Vec<String>, DatabaseError> {
        let of =
            |names: &BTreeSet<TableName>| are(names, "UNIQUE_CONSTRAINT_SCHEMA", "REFERENCED_TABLE_NAME");
        let asked = format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, REFERENCED_TABLE_NAME \
             FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE \
             ({} AND DELETE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT')) OR \
             ({} AND UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT'));",
            of(&self.names(|kinds| kinds.deletes)),
            of(&self.names(|kinds| kinds.updates)),
        );
        let rows = server.client.ask(&asked, LIMIT)?.rows;
        let said = rows.into_iter().filter_map(|row| {
            let [schema, table, key, referenced] = <[String; 4]>::try_from(row).ok()?;
            Some(format!(
                "rows of {schema}.{referenced} were changed or deleted, and the foreign key {key} of {schema}.{table} then changes rows without a trace"
            ))
        });
        Ok(said.collect())
    }
}

/// Returns whether the transaction that undoes all was committed.
///
/// # Errors
/// Those of the server.
pub fn is_done(server: &Server, id: &str) -> Result<bool, DatabaseError> {
    let asked = format!(
        "SET sql_log_bin=0; CREATE TABLE IF NOT EXISTS {MARK} (id VARCHAR(64) PRIMARY KEY) ENGINE=InnoDB; \
         SELECT COUNT(*) FROM {MARK} WHERE id = {};",
        literal(id)
    );
    Ok(server.client.ask(&asked, LIMIT)?.first() == Some("1"))
}

/// Undoes all in one transaction, and writes the mark in it.
///
/// # Errors
/// Nothing was undone.
pub fn rewind(server: &Server, id: &str, found: &Found) -> Result<(), DatabaseError> {
    let mut blocks: Vec<(Vec<u8>, String)> = Vec::new();
    visit(found, &mut |heard| {
        if let Said::Rows { rows, table, table_bytes } = &heard.said {
            let undone = inverse(heard.bytes, rows, table, heard.format.checksum)
                .map_err(|source| wrong(found, heard.transaction.file, source))?;
            let text = STANDARD.encode([*table_bytes, &undone].concat());
            blocks.push((heard.format.bytes.clone(), text));
        }
        Ok(())
    })?;
    let mut statements = format!(
        "SET sql_log_bin=0; SET SESSION foreign_key_checks=0; START TRANSACTION; INSERT INTO {MARK} VALUES ({});\n",
        literal(id)
    );
    let mut format = Vec::new();
    for (needed, block) in blocks.into_iter().rev() {
        if format != needed {
            statements += &format!("BINLOG '{}';\n", STANDARD.encode(&needed));
            format = needed;
        }
        statements += &format!("BINLOG '{block}';\n");
    }
    statements += "COMMIT;\n";
    server.client.ask(&statements, REWIND_LIMIT).map(drop)
}

/// Removes the mark.
///
/// # Errors
/// Those of the server.
pub fn forget(server: &Server) -> Result<(), DatabaseError> {
    server.client.ask(&format!("SET sql_log_bin=0; DROP TABLE IF EXISTS {MARK};"), LIMIT).map(drop)
}
