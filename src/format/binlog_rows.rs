//! What is in a transaction of a MariaDB server's binary log: the tables, their rows before and after, and statements.
//!
//! The server writes a row as its columns lie in memory, and names the columns' types before it; names of columns,
//! signs and character sets are in its catalogue alone ([`super::binlog_value`]). Read here rather than from the text
//! of `mariadb-binlog`, whose quotes are not escaped and whose numbers are rounded. Pure; whatever the bytes are, they
//! are rows or an error.

use super::binlog_event::{Event, EventError, Fields, kind};
use std::fmt;

/// The types of events with rows.
const TABLE_MAP: u8 = 19;
const ROWS_V1: u8 = 23;
const ROWS_V2: u8 = 30;
const COMPRESSED_V1: u8 = 166;
const COMPRESSED_V2: u8 = 169;
/// Maximum number of columns of a table.
const COLUMNS_MAX: usize = 4096;

/// The types of columns.
pub(super) mod column {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const BLOB_COMPRESSED: u8 = 140;
    pub const VARCHAR_COMPRESSED: u8 = 141;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// The name of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// The type of a column, with what its kind needs to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    pub kind: u8,
    pub meta: [u8; 2],
}

/// A table, as it is named before its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMap {
    pub id: u64,
    pub name: TableName,
    pub columns: Vec<ColumnType>,
}

/// Rows of one table. The images of an update are there twice: before, and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<'a> {
    pub change: Change,
    pub table: u64,
    pub flags: u16,
    /// What lies between the flags and the bitmaps: the number of columns, and in newer events more.
    pub head: &'a [u8],
    pub width: usize,
    /// The columns that are there; of an update, those before, then those after.
    pub present: [&'a [u8]; 2],
    pub images: &'a [u8],
}

/// One state of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    pub bytes: &'a [u8],
    /// Each column: none if it is not there, else its bytes, or none if it is NULL.
    pub values: Vec<Option<Option<&'a [u8]>>>,
}

/// A row, before and after.
pub type Row<'a> = (Option<Image<'a>>, Option<Image<'a>>);

/// What an event within a transaction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Table(TableMap),
    Rows(Rows<'a>),
    /// Rows that the server has compressed; they are not read.
    CompressedRows {
        change: Change,
        table: u64,
    },
    Statement {
        schema: String,
        text: String,
    },
    /// The begin, the end, or a note for readers.
    Frame,
    /// The first half of a transaction in two phases.
    Prepared,
    Other(u8),
}

/// Reads what an event says.
pub fn content<'a>(event: &Event<'a>) -> Result<Content<'a>, EventError> {
    let rows = |first: u8| [Change::Insert, Change::Update, Change::Delete][usize::from(event.kind - first)];
    Ok(match event.kind {
        TABLE_MAP => Content::Table(table_map(event.body)?),
        ROWS_V1..=25 => Content::Rows(read_rows(event.body, rows(ROWS_V1), false)?),
        ROWS_V2..=32 => Content::Rows(read_rows(event.body, rows(ROWS_V2), true)?),
        COMPRESSED_V1..=168 => compressed(event.body, rows(COMPRESSED_V1))?,
        COMPRESSED_V2..=171 => compressed(event.body, rows(COMPRESSED_V2))?,
        kind::QUERY => statement(event.body)?,
        kind::QUERY_COMPRESSED => {
            Content::Statement { schema: String::new(), text: "a compressed statement".into() }
        }
        kind::XA_PREPARE => Content::Prepared,
        kind::XID | kind::GTID | kind::ANNOTATE => Content::Frame,
        other => Content::Other(other),
    })
}

fn table_id(fields: &mut Fields) -> Result<u64, EventError> {
    let [a, b, c, d, e, f] = fields.take()?;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
}

fn bytes<'a>(fields: &mut Fields<'a>, length: usize) -> Result<&'a [u8], EventError> {
    let (taken, rest) = fields.0.split_at_checked(length).ok_or(EventError::Cut)?;
    fields.0 = rest;
    Ok(taken)
}

/// Reads a number in as many bytes as it needs.
fn packed(fields: &mut Fields) -> Result<usize, EventError> {
    let [first] = fields.take()?;
    let number = match first {
        0..=250 => u64::from(first),
        252 => u64::from(u16::from_le_bytes(fields.take()?)),
        253 => {
            let [a, b, c] = fields.take()?;
            u64::from(u32::from_le_bytes([a, b, c, 0]))
        }
        254 => fields.u64()?,
        _ => return Err(EventError::Cut),
    };
    usize::try_from(number).map_err(|_| EventError::Cut)
}

/// Reads a name of at most 255 bytes, which ends with a zero.
fn name(fields: &mut Fields) -> Result<String, EventError> {
    let [length] = fields.take()?;
    let name = bytes(fields, length.into())?;
    let [_zero] = fields.take()?;
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn table_map(body: &[u8]) -> Result<TableMap, EventError> {
    let mut fields = Fields(body);
    let id = table_id(&mut fields)?;
    let _flags: [u8; 2] = fields.take()?;
    let (schema, table) = (name(&mut fields)?, name(&mut fields)?);
    let count = packed(&mut fields)?;
    if count > COLUMNS_MAX {
        return Err(EventError::Large(count as u64));
    }
    let kinds = bytes(&mut fields, count)?;
    let length = packed(&mut fields)?;
    let mut meta = Fields(bytes(&mut fields, length)?);
    let columns = kinds.iter().map(|kind| column_type(*kind, &mut meta)).collect::<Result<_, _>>()?;
    Ok(TableMap { id, name: TableName { schema, table }, columns })
}

fn column_type(kind: u8, meta: &mut Fields) -> Result<ColumnType, EventError> {
    use column::*;
    let meta = match kind {
        FLOAT | DOUBLE | TIMESTAMP2 | DATETIME2 | TIME2 | BLOB_COMPRESSED | TINY_BLOB..=BLOB | GEOMETRY => {
            let [one] = meta.take()?;
            [one, 0]
        }
        VARCHAR | VARCHAR_COMPRESSED | BIT | NEWDECIMAL | ENUM | SET | VAR_STRING | STRING => meta.take()?,
        _ => [0, 0],
    };
    Ok(ColumnType { kind, meta })
}

fn read_rows(body: &[u8], change: Change, has_more: bool) -> Result<Rows<'_>, EventError> {
    let mut fields = Fields(body);
    let table = table_id(&mut fields)?;
    let flags = u16::from_le_bytes(fields.take()?);
    let head = fields.0;
    if has_more {
        let length = u16::from_le_bytes(fields.take()?);
        bytes(&mut fields, usize::from(length).checked_sub(2).ok_or(EventError::Cut)?)?;
    }
    let width = packed(&mut fields)?;
    if width > COLUMNS_MAX {
        return Err(EventError::Large(width as u64));
    }
    let head = &head[..head.len() - fields.0.len()];
    let first = bytes(&mut fields, width.div_ceil(8))?;
    let second = if change == Change::Update { bytes(&mut fields, width.div_ceil(8))? } else { first };
    Ok(Rows { change, table, flags, head, width, present: [first, second], images: fields.0 })
}

fn compressed(body: &[u8], change: Change) -> Result<Content<'_>, EventError> {
    Ok(Content::CompressedRows { change, table: table_id(&mut Fields(body))? })
}

fn statement(body: &[u8]) -> Result<Content<'_>, EventError> {
    let mut fields = Fields(body);
    let _thread_and_time: [u8; 8] = fields.take()?;
    let [schema_bytes] = fields.take()?;
    let _error: [u8; 2] = fields.take()?;
    let variables_bytes = u16::from_le_bytes(fields.take()?);
    bytes(&mut fields, variables_bytes.into())?;
    let schema = String::from_utf8_lossy(bytes(&mut fields, schema_bytes.into())?).into_owned();
    let [_zero] = fields.take()?;
    let text = String::from_utf8_lossy(fields.0).into_owned();
    Ok(match text.as_str() {
        "BEGIN" | "COMMIT" => Content::Frame,
        _ => Content::Statement { schema, text },
    })
}

/// Returns whether a bit of a bitmap is set.
pub(super) fn bit(bitmap: &[u8], at: usize) -> bool {
    bitmap.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

impl<'a> Rows<'a> {
    /// Returns whether every column is there, before and after.
    pub fn is_full(&self) -> bool {
        self.present.iter().all(|bitmap| (0..self.width).all(|at| bit(bitmap, at)))
    }

    /// Reads the rows. `table` is what was named for them.
    pub fn rows(&self, table: &TableMap) -> Result<Vec<Row<'a>>, EventError> {
        if table.id != self.table || table.columns.len() != self.width {
            return Err(EventError::Stray(TABLE_MAP));
        }
        let (mut rest, mut rows) = (self.images, Vec::new());
        while !rest.is_empty() {
            let before = rest.len();
            let first = image(&table.columns, self.present[0], &mut rest)?;
            rows.push(match self.change {
                Change::Insert => (None, Some(first)),
                Change::Delete => (Some(first), None),
                Change::Update => (Some(first), Some(image(&table.columns, self.present[1], &mut rest)?)),
            });
            // A table without columns has no rows.
            if rest.len() == before {
                return Err(EventError::Cut);
            }
        }
        Ok(rows)
    }
}

fn image<'a>(columns: &[ColumnType], present: &[u8], rest: &mut &'a [u8]) -> Result<Image<'a>, EventError> {
    let begin = *rest;
    let mut fields = Fields(begin);
    let there = (0..columns.len()).filter(|at| bit(present, *at)).count();
    let nulls = bytes(&mut fields, there.div_ceil(8))?;
    let (mut values, mut place) = (Vec::with_capacity(columns.len()), 0);
    for (at, column) in columns.iter().enumerate() {
        if !bit(present, at) {
            values.push(None);
            continue;
        }
        let is_null = bit(nulls, place);
        place += 1;
        if is_null {
            values.push(Some(None));
            continue;
        }
        let length = column.stored_bytes(fields.0)?;
        values.push(Some(Some(bytes(&mut fields, length)?)));
    }
    *rest = fields.0;
    Ok(Image { bytes: &begin[..begin.len() - fields.0.len()], values })
}

impl ColumnType {
    /// Returns the kind of a column of fixed or small length, and its maximum length: they share two bytes.
    pub(super) fn string(&self) -> (u8, usize) {
        let [kind, low] = self.meta;
        match kind & 0x30 {
            0x30 => (kind, low.into()),
            part => (kind | 0x30, usize::from(low) | usize::from(part ^ 0x30) << 4),
        }
    }

    /// Returns how many bytes a length takes before this column's values; 0 where they have a fixed length.
    pub(super) fn length_bytes(&self) -> usize {
        match self.kind {
            column::VARCHAR | column::VARCHAR_COMPRESSED => {
                if u16::from_le_bytes(self.meta) < 256 {
                    1
                } else {
                    2
                }
            }
            column::TINY_BLOB..=column::BLOB | column::BLOB_COMPRESSED | column::GEOMETRY => {
                self.meta[0].into()
            }
            column::VAR_STRING | column::STRING => match self.string() {
                (column::ENUM | column::SET, _) => 0,
                (_, most) if most < 256 => 1,
                _ => 2,
            },
            _ => 0,
        }
    }

    /// Returns how many bytes the value takes that `bytes` begins with.
    fn stored_bytes(&self, bytes: &[u8]) -> Result<usize, EventError> {
        use column::*;
        let fraction = usize::from(self.meta[0]).div_ceil(2);
        let length = self.length_bytes();
        if length > 0 {
            let taken = bytes.get(..length).filter(|_| length <= 4).ok_or(EventError::Cut)?;
            let value = taken.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            return Ok(length + value);
        }
        Ok(match self.kind {
            NULL => 0,
            TINY | YEAR => 1,
            SHORT => 2,
            INT24 | DATE | NEWDATE | TIME => 3,
            LONG | TIMESTAMP | FLOAT => 4,
            DOUBLE | LONGLONG | DATETIME => 8,
            TIMESTAMP2 => 4 + fraction,
            DATETIME2 => 5 + fraction,
            TIME2 => 3 + fraction,
            BIT => usize::from(self.meta[1]) + usize::from(self.meta[0] > 0),
            NEWDECIMAL => decimal_bytes(self.meta[0], self.meta[1]).ok_or(EventError::Stray(NEWDECIMAL))?,
            ENUM | SET => self.meta[1].into(),
            VAR_STRING | STRING => self.meta[1].into(),
            other => return Err(EventError::Stray(other)),
        })
    }
}

/// Number of bytes of these many digits.
pub(super) const DIGITS: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

fn decimal_bytes(precision: u8, scale: u8) -> Option<usize> {
    let (whole, scale) = (usize::from(precision.checked_sub(scale)?), usize::from(scale));
    Some(whole / 9 * 4 + DIGITS[whole % 9] + scale / 9 * 4 + DIGITS[scale % 9])
}

#[cfg(test)]
mod tests {
    use super::super::binlog_event::tests::event;
    use super::super::binlog_event::{Checksum, EVENT_HEADER_BYTES};
    use super::super::binlog_inverse::inverse;
    use super::super::binlog_value::{About, value};
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Columns of an integer, a text of up to 40 bytes and a decimal number.
    fn map_body() -> Vec<u8> {
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
        body.extend(b"\x04shop\0\x06orders\0");
        body.extend([3, column::LONG, column::VARCHAR, column::NEWDECIMAL]);
        body.extend([4, 40, 0, 9, 2, 0b110]);
        body
    }

    fn row(id: i32, note: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![if note.is_some() { 0 } else { 0b010 }];
        bytes.extend(id.to_le_bytes());
        if let Some(note) = note {
            bytes.push(note.len() as u8);
            bytes.extend(note.as_bytes());
        }
        // 1234567.89, whose sign is its highest bit.
        bytes.extend([0x80, 0x12, 0xd6, 0x87, 89]);
        bytes
    }

    fn rows_event(kind: u8, images: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 3, 0b111];
        if kind == 24 {
            body.push(0b111);
        }
        body.extend(images.concat());
        event(kind, 11, 1_800_000_000, 0, 4, &body)
    }

    fn parsed(bytes: &[u8]) -> Content<'_> {
        content(&Event::parse(bytes, Checksum::Crc32).unwrap()).unwrap()
    }

    fn table() -> TableMap {
        let bytes = event(TABLE_MAP, 11, 0, 0, 4, &map_body());
        let Content::Table(table) = parsed(&bytes) else { panic!() };
        table
    }

    /// Bytes as a server has them, and what they mean.
    #[test]
    fn each_kind_of_column_is_read_exactly() {
        let about = |declared: &str, charset: Option<&str>| About {
            name: "c".into(),
            declared: declared.into(),
            charset: charset.map(str::to_owned),
        };
        let of =
            |kind, meta, bytes: &[u8], about: &About| value(&ColumnType { kind, meta }, bytes, Some(about));
        let number = about("int(11)", None);
        let unsigned = about("bigint(20) unsigned", None);
        assert_eq!(of(column::LONG, [0, 0], &(-7i32).to_le_bytes(), &number), json!(-7));
        assert_eq!(of(column::INT24, [0, 0], &[0xff, 0xff, 0xff], &number), json!(-1));
        assert_eq!(of(column::INT24, [0, 0], &[0xff, 0xff, 0xff], &unsigned), json!(16_777_215));
        assert_eq!(of(column::LONGLONG, [0, 0], &[0xff; 8], &unsigned), json!(u64::MAX));
        assert_eq!(of(column::FLOAT, [4, 0], &0.1f32.to_le_bytes(), &number), json!(0.1));
        let negative = [0x7e, 0xf3, 0xdb];
        assert_eq!(of(column::NEWDECIMAL, [5, 2], &negative, &number), json!("-268.36"));
        let utf8 = about("varchar(300)", Some("utf8mb4"));
        assert_eq!(of(column::VARCHAR, [40, 0], b"\x03a'\n", &utf8), json!("a'\n"));
        let latin = about("varchar(20)", Some("latin1"));
        assert_eq!(of(column::VARCHAR, [20, 0], b"\x01\xe9", &latin), json!({ "hex": "e9" }));
        assert_eq!(
            of(column::STRING, [254, 4], b"\x01a", &about("binary(4)", None)),
            json!({ "hex": "61000000" })
        );
        let words = about("enum('a','it''s')", Some("utf8mb4"));
        assert_eq!(of(column::STRING, [column::ENUM, 1], &[2], &words), json!("it's"));
        assert_eq!(of(column::TIME2, [1, 0], &[0x7f, 0xff, 0xff, 0xce], &number), json!("-00:00:00.5"));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_rows_or_an_error(
            kind: u8,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            columns in proptest::collection::vec((any::<u8>(), any::<[u8; 2]>()), 0..8),
        ) {
            let event = Event { time_s: 0, kind, server: crate::model::gtid::ServerId(1), end: 0, flags: 0, body: &bytes };
            if let Ok(Content::Rows(rows)) = content(&event) {
                let columns = columns.iter().map(|(kind, meta)| ColumnType { kind: *kind, meta: *meta }).collect();
                let name = TableName { schema: String::new(), table: String::new() };
                let _ = rows.rows(&TableMap { id: rows.table, name, columns });
            }
            for (kind, meta) in columns {
                let column = ColumnType { kind, meta };
                let _ = value(&column, &bytes, None);
                bytes.truncate(column.stored_bytes(&bytes).unwrap_or(9).min(bytes.len()));
                let about = About { name: String::new(), declared: "set('a')".into(), charset: Some("utf8mb4".into()) };
                let _ = value(&column, &bytes, Some(&about));
            }
        }

        #[test]
        fn an_inverse_undoes_the_rows_from_the_last_to_the_first_and_its_inverse_is_the_same_again(
            kind in 23..26_u8,
            ids in proptest::collection::vec((any::<i32>(), proptest::option::of("[a-z']{0,39}")), 1..6),
        ) {
            let images: Vec<_> = ids.iter().map(|(id, note)| row(*id, note.as_deref())).collect();
            let images = if kind == 24 { images.iter().flat_map(|image| [image.clone(), row(1, None)]).collect() } else { images };
            let (bytes, table) = (rows_event(kind, &images), table());
            let Content::Rows(rows) = parsed(&bytes) else { panic!() };
            let undone = inverse(&bytes, &rows, &table, Checksum::Crc32).unwrap();
            let Content::Rows(back) = parsed(&undone) else { panic!() };
            let (first, second) = (rows.rows(&table).unwrap(), back.rows(&table).unwrap());
            prop_assert_eq!(first.len(), ids.len());
            let swapped: Vec<_> = second.into_iter().rev().map(|(before, after)| (after, before)).collect();
            prop_assert_eq!(&first, &swapped);
            let again = inverse(&undone, &back, &table, Checksum::Crc32).unwrap();
            let Content::Rows(again) = parsed(&again) else { panic!() };
            prop_assert_eq!(again.rows(&table).unwrap(), first);
            prop_assert_eq!(again.change, rows.change);
        }
    }

    #[test]
    fn rows_that_are_not_whole_have_no_inverse_and_a_row_has_its_values() {
        let (bytes, table) = (rows_event(23, &[row(-3, Some("it's"))]), table());
        let Content::Rows(mut rows) = parsed(&bytes) else { panic!() };
        let read = rows.rows(&table).unwrap();
        let image = read[0].1.as_ref().unwrap();
        let told: Vec<_> = table
            .columns
            .iter()
            .zip(&image.values)
            .map(|(column, stored)| value(column, stored.unwrap().unwrap(), None))
            .collect();
        assert_eq!(told, [json!(-3), json!("it's"), json!("1234567.89")]);
        rows.present = [&[0b101], &[0b101]];
        assert!(inverse(&bytes, &rows, &table, Checksum::Crc32).is_err());
        assert!(bytes.len() > EVENT_HEADER_BYTES && table.name.to_string() == "shop.orders");
    }
}
