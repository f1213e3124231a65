//! What stranded transactions did, in numbers of rows by table.

use super::find::Found;
use super::visit::{Said, visit};
use crate::database::error::DatabaseError;
use crate::format::binlog_event::EventError;
use crate::format::binlog_rows::{Change, TableName};
use crate::model::gtid::GtidPosition;
use serde::Serialize;
use std::collections::BTreeMap;

/// Maximum length of a statement that is shown.
const SHOWN_MAX_CHARS: usize = 200;

/// What happened to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Touched {
    pub table: String,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Events with rows that the server had compressed, and that are not counted.
    pub compressed: u64,
}

/// A transaction, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    pub gtid: String,
    /// When it was committed, in seconds since 1970, by the server's clock.
    pub committed_s: u32,
    pub tables: Vec<Touched>,
    /// What was no row: definitions, grants, statements as they were written.
    pub statements: Vec<String>,
}

/// What is stranded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The position at which the new primary stopped being a replica.
    pub branch: GtidPosition,
    pub transactions: Vec<Told>,
    /// What happened to each table in all.
    pub tables: Vec<Touched>,
    pub statements: u64,
    pub bytes: u64,
}

impl Touched {
    fn note(&mut self, change: Change, rows: u64) {
        match change {
            Change::Insert => self.inserted += rows,
            Change::Update => self.updated += rows,
            Change::Delete => self.deleted += rows,
        }
    }

    fn add(&mut self, other: &Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.compressed += other.compressed;
    }

    /// Says it in words.
    pub fn said(&self) -> String {
        let counts = [
            (self.inserted, "inserted"),
            (self.updated, "updated"),
            (self.deleted, "deleted"),
            (self.compressed, "changes that are compressed"),
        ];
        let words =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        format!("{}: {}", self.table, words.collect::<Vec<_>>().join(", "))
    }
}

/// Returns a statement as it is shown: on one line, and not too long.
pub fn shown(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.retain(|c| !c.is_control());
    match words.char_indices().nth(SHOWN_MAX_CHARS) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

/// Counts what is stranded.
///
/// # Errors
/// Those of reading it.
pub fn summary(found: &Found) -> Result<Summary, DatabaseError> {
    let mut told: Vec<Told> = Vec::new();
    let mut tables: BTreeMap<TableName, Touched> = BTreeMap::new();
    visit(found, &mut |heard| {
        let gtid = heard.transaction.gtid.to_string();
        if told.last().is_none_or(|last| last.gtid != gtid) {
            finish(&mut told, &mut tables);
            told.push(Told {
                gtid,
                committed_s: heard.transaction.committed_s,
                tables: Vec::new(),
                statements: Vec::new(),
            });
        }
        let mut statement = |text: String| {
            if let Some(last) = told.last_mut() {
                last.statements.push(text);
            }
        };
        match &heard.said {
            Said::Rows { rows, table, .. } => {
                let read = rows.rows(table).map_err(|source| wrong(found, heard.transaction.file, source))?;
                tables.entry(table.name.clone()).or_default().note(rows.change, read.len() as u64);
            }
            Said::CompressedRows { table, .. } => {
                tables.entry(table.name.clone()).or_default().compressed += 1
            }
            Said::Statement { text, .. } => statement(shown(text)),
            Said::Prepared => statement("the first half of a transaction in two phases (XA)".into()),
            Said::Other(kind) => statement(format!("an event of type {kind}")),
            Said::Frame => {}
        }
        Ok(())
    })?;
    finish(&mut told, &mut tables);
    let mut totals: BTreeMap<String, Touched> = BTreeMap::new();
    for touched in told.iter().flat_map(|told| &told.tables) {
        totals
            .entry(touched.table.clone())
            .or_insert_with(|| Touched { table: touched.table.clone(), ..Default::default() })
            .add(touched);
    }
    Ok(Summary {
        branch: found.branch.clone(),
        statements: told.iter().map(|told| told.statements.len() as u64).sum(),
        transactions: told,
        tables: totals.into_values().collect(),
        bytes: found.bytes(),
    })
}

/// Gives the last transaction its tables.
fn finish(told: &mut [Told], tables: &mut BTreeMap<TableName, Touched>) {
    let touched = std::mem::take(tables)
        .into_iter()
        .map(|(name, touched)| Touched { table: name.to_string(), ..touched });
    if let Some(last) = told.last_mut() {
        last.tables = touched.collect();
    }
}

/// Returns the error of what cannot be read in a file.
pub(super) fn wrong(found: &Found, file: usize, source: EventError) -> DatabaseError {
    DatabaseError::Binlog { path: found.files[file].clone(), source }
}
