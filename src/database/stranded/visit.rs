//! What stranded transactions say, event by event.

use super::find::{Found, Stranded};
use crate::database::binlog_files::BinlogFile;
use crate::database::error::DatabaseError;
use crate::format::binlog_event::{Event, EventError, Format};
use crate::format::binlog_rows::{Change, Content, Rows, TableMap, content};
use std::collections::BTreeMap;
use std::path::Path;

/// What an event says.
pub enum Said<'a> {
    Rows {
        rows: Rows<'a>,
        table: &'a TableMap,
        /// The event that named the table.
        table_bytes: &'a [u8],
    },
    CompressedRows {
        change: Change,
        table: &'a TableMap,
    },
    Statement {
        schema: String,
        text: String,
    },
    /// The first half of a transaction in two phases.
    Prepared,
    /// What belongs to a statement.
    Other(u8),
    /// The begin, the end, the name of a table.
    Frame,
}

/// An event of a stranded transaction.
pub struct Heard<'a> {
    pub transaction: &'a Stranded,
    pub format: &'a Format,
    pub bytes: &'a [u8],
    pub said: Said<'a>,
}

/// Takes the events, in order.
pub type Visitor<'a> = dyn FnMut(&Heard) -> Result<(), DatabaseError> + 'a;

/// Reads all stranded transactions.
///
/// # Errors
/// A file cannot be read or is damaged, and the visitor's own.
pub fn visit(found: &Found, visitor: &mut Visitor) -> Result<(), DatabaseError> {
    let mut open: Option<(usize, BinlogFile)> = None;
    for transaction in &found.transactions {
        let path = &found.files[transaction.file];
        let mut file = match open.take() {
            Some((number, file)) if number == transaction.file => file,
            _ => BinlogFile::open(path)?.ok_or_else(|| missing(path))?,
        };
        file.seek(transaction.offset_bytes)?;
        read(transaction, &mut file, visitor)?;
        open = Some((transaction.file, file));
    }
    Ok(())
}

fn missing(path: &Path) -> DatabaseError {
    DatabaseError::Gone(format!("{}: it was deleted meanwhile", path.display()))
}

fn read(transaction: &Stranded, file: &mut BinlogFile, visitor: &mut Visitor) -> Result<(), DatabaseError> {
    let (mut left, end) = (transaction.length_bytes, transaction.offset_bytes + transaction.length_bytes);
    let mut tables: BTreeMap<u64, (TableMap, Vec<u8>)> = BTreeMap::new();
    let mut bytes = Vec::new();
    while left > 0 {
        bytes.clear();
        let length = file.next(end, &mut bytes)?.ok_or_else(|| missing(&file.path))?;
        left = left.saturating_sub(length as u64);
        let wrong = |source| DatabaseError::Binlog { path: file.path.clone(), source };
        let event = Event::parse(&bytes, file.format.checksum).map_err(wrong)?;
        let of = |id: u64| tables.get(&id).ok_or_else(|| wrong(EventError::Stray(event.kind)));
        let said = match content(&event).map_err(wrong)? {
            Content::Table(table) => {
                tables.insert(table.id, (table, bytes.clone()));
                Said::Frame
            }
            Content::Rows(rows) => {
                let (table, table_bytes) = of(rows.table)?;
                Said::Rows { rows, table, table_bytes }
            }
            Content::CompressedRows { change, table } => {
                Said::CompressedRows { change, table: &of(table)?.0 }
            }
            Content::Statement { schema, text } => Said::Statement { schema, text },
            Content::Prepared => Said::Prepared,
            Content::Other(kind) => Said::Other(kind),
            Content::Frame => Said::Frame,
        };
        visitor(&Heard { transaction, format: &file.format, bytes: &bytes, said })?;
    }
    Ok(())
}
