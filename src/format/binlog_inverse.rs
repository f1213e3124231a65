//! The inverse of a transaction's rows: events that make the rows as they were before. Pure.
//!
//! What was inserted is deleted, what was deleted is inserted, an update goes back, and the last row comes first. That
//! is right only where every image is whole; anything else is refused. Foreign keys are not looked at when they are
//! applied: what a cascade did is in no event, and is a reason of its own to refuse.

use super::binlog_event::{Checksum, EVENT_HEADER_BYTES, EventError, Format, crc32, kind};
use super::binlog_rows::{Change, Rows, TableMap};
use crate::model::gtid::{Gtid, GtidPosition};

/// The flag of the last event of a statement.
const STATEMENT_ENDS: u16 = 1;
/// The flag of rows for which foreign keys are not looked at.
const NO_FOREIGN_KEYS: u16 = 2;
/// The type of an event, and the bytes of its fields up to the number of columns.
const TYPE_AT: usize = 4;
const LENGTH_AT: usize = 9;
/// Size of the number of a table.
const TABLE_BYTES: usize = 6;

/// Returns the event that undoes the rows of `event`, which were read as `rows`.
///
/// # Errors
/// The rows cannot be read, or an image is not whole.
pub fn inverse(
    event: &[u8],
    rows: &Rows,
    table: &TableMap,
    checksum: Checksum,
) -> Result<Vec<u8>, EventError> {
    let head = event.get(..EVENT_HEADER_BYTES + TABLE_BYTES).ok_or(EventError::Cut)?;
    if !rows.is_full() {
        return Err(EventError::Stray(event[TYPE_AT]));
    }
    let mut bytes = head.to_vec();
    match rows.change {
        Change::Insert => bytes[TYPE_AT] += 2,
        Change::Delete => bytes[TYPE_AT] -= 2,
        Change::Update => {}
    }
    bytes.extend((rows.flags | STATEMENT_ENDS | NO_FOREIGN_KEYS).to_le_bytes());
    bytes.extend(rows.head);
    bytes.extend(rows.present[1]);
    if rows.change == Change::Update {
        bytes.extend(rows.present[0]);
    }
    for (before, after) in rows.rows(table)?.iter().rev() {
        for image in [after, before].into_iter().flatten() {
            bytes.extend(image.bytes);
        }
    }
    seal(&mut bytes, checksum);
    Ok(bytes)
}

/// Returns an event as it is at the offset `offset_bytes` of another file.
pub fn moved(event: &[u8], offset_bytes: u64, checksum: Checksum) -> Vec<u8> {
    let sum = if checksum == Checksum::Crc32 { 4 } else { 0 };
    let end = (offset_bytes + event.len() as u64) as u32;
    let mut bytes = event[..event.len().saturating_sub(sum)].to_vec();
    if let Some(field) = bytes.get_mut(LENGTH_AT + 4..LENGTH_AT + 8) {
        field.copy_from_slice(&end.to_le_bytes());
    }
    seal(&mut bytes, checksum);
    bytes
}

/// Writes the length of an event into it, and its checksum behind it.
fn seal(bytes: &mut Vec<u8>, checksum: Checksum) {
    let sum = if checksum == Checksum::Crc32 { 4 } else { 0 };
    let length = (bytes.len() + sum) as u32;
    if let Some(field) = bytes.get_mut(LENGTH_AT..LENGTH_AT + 4) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    if sum > 0 {
        let sum = crc32(bytes);
        bytes.extend(sum.to_le_bytes());
    }
}

/// Returns the event that says what the last transactions before a file are; its place is written by [`moved`].
pub fn list_event(position: &GtidPosition, format: &Format) -> Vec<u8> {
    let mut bytes = format.bytes.get(..EVENT_HEADER_BYTES).unwrap_or_default().to_vec();
    bytes[TYPE_AT] = kind::GTID_LIST;
    let gtids: Vec<Gtid> = position.gtids().collect();
    bytes.extend((gtids.len() as u32).to_le_bytes());
    for gtid in gtids {
        bytes.extend(gtid.domain.0.to_le_bytes());
        bytes.extend(gtid.server.0.to_le_bytes());
        bytes.extend(gtid.number.to_le_bytes());
    }
    seal(&mut bytes, format.checksum);
    bytes
}
