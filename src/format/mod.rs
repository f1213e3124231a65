//! Conversion between bytes and the model. See `FORMAT.md`.
//!
//! It is pure: no I/O, bounded memory for any input, and every failure is an error.

pub mod age;
pub mod attrs;
pub mod binlog_event;
pub mod binlog_inverse;
pub mod binlog_rows;
pub mod binlog_segment;
pub mod binlog_value;
pub mod blocks;
pub mod checkpoint;
pub mod extent_list;
pub mod frame;
pub mod holder;
pub mod index;
pub mod join;
pub mod keyring;
mod keyring1;
mod keyring2;
pub mod page;
pub mod passphrase;
pub mod record;
pub mod relay_log;
pub mod seal;
pub mod wire;

/// Decodes `bytes` as each of the formats and drops the result, for the fuzz targets and their seeds. It
/// returns normally for any input.
pub fn decode_anything(bytes: &[u8]) {
    let _ = page::decode(bytes);
    let _ = record::decode(bytes, None, 1);
    let _ = checkpoint::decode(bytes, None, 1);
    let _ = keyring::decode_ring(bytes);
    let _ = age::open(bytes, &[age::Identity::new([1; 32])]);
    let _ = index::check(bytes);
    let _ = index::open(bytes, None).map(|table| index::check(&table));
    let _ = extent_list::decode_chunk(bytes);
    let _ = blocks::decode(&bytes::Bytes::copy_from_slice(bytes));
    let _ = attrs::decode_chunk(bytes);
    let _ = frame::scan_pack(&bytes::Bytes::copy_from_slice(bytes), None);
    decode_binlog(bytes);
}

/// Decodes `bytes` as an archived segment and reads its events, and as the events of a file.
pub fn decode_binlog(bytes: &[u8]) {
    use crate::model::id::{ContentHash, Epoch};
    let place = binlog_segment::SegmentPlace { epoch: Epoch(1), number: 1 };
    if let Ok(segment) = binlog_segment::decode(bytes, place, None) {
        let hash = ContentHash::of(bytes);
        let this = binlog_segment::SegmentRef { epoch: Epoch(1), number: 1, hash };
        let _ = binlog_segment::Chain::before(&segment.header, None).read(this, &segment, &mut |_| {});
    }
    let Some(bytes) = bytes.strip_prefix(&binlog_event::FILE_MAGIC) else { return };
    let Ok((first, mut rest)) = binlog_event::split(bytes) else { return };
    let Ok(format) = binlog_event::Format::parse(first) else { return };
    let mut walk = binlog_event::Walk { checksum: format.checksum, offset_bytes: format.end(), begun: None };
    let mut table = None;
    while let Ok((event, behind)) = binlog_event::split(rest)
        && walk.take(event).is_ok()
    {
        if let Ok(event) = binlog_event::Event::parse(event, format.checksum) {
            decode_content(&event, &mut table);
        }
        rest = behind;
    }
}

/// Decodes what an event says. `table` is the last table that was named.
fn decode_content(event: &binlog_event::Event, table: &mut Option<binlog_rows::TableMap>) {
    use binlog_rows::Content;
    let rows = match (binlog_rows::content(event), &table) {
        (Ok(Content::Table(named)), _) => return *table = Some(named),
        (Ok(Content::Rows(rows)), Some(table)) => rows.rows(table).map(|rows| (table, rows)),
        _ => return,
    };
    let Ok((table, rows)) = rows else { return };
    for image in rows.iter().flat_map(|(before, after)| [before, after]).flatten() {
        for (column, stored) in table.columns.iter().zip(&image.values) {
            if let Some(Some(bytes)) = stored {
                binlog_value::value(column, bytes, None);
            }
        }
    }
}
