//! How stranded transactions are kept: as binary logs that `mariadb-binlog` reads, and as rows in JSON.
//!
//! They are written to a directory beside the one that is wanted, and synced to the disk; then the directory gets its
//! name, which replaces nothing. So whoever finds the name finds all of it, also after a power failure. What a killed
//! process left beside has a free lock, and is begun anew.

use super::columns::Columns;
use super::find::{Found, Logs};
use super::kept::{KeptNote, NOTE, ROWS, said};
use super::summary::{Summary, wrong};
use super::visit::{Heard, Said, visit};
use crate::database::error::DatabaseError;
use crate::format::binlog_event::{Checksum, FILE_MAGIC, Format};
use crate::format::binlog_inverse::{list_event, moved};
use crate::format::binlog_rows::{Image, TableMap};
use crate::format::binlog_value::{About, value};
use crate::model::gtid::GtidPosition;
use crate::support::durable;
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> DatabaseError {
    let path = path.to_owned();
    move |source| DatabaseError::File { path, source }
}

/// A directory that has not got its name yet.
struct Part {
    path: PathBuf,
    _lock: File,
}

impl Part {
    fn begin(into: &Path) -> Result<Self, DatabaseError> {
        if into.symlink_metadata().is_ok() {
            return Err(DatabaseError::Settings(format!(
                "{}: it is there already; name a new directory",
                into.display()
            )));
        }
        let parent = parent(into);
        durable::create_dirs(&parent).map_err(failed(&parent))?;
        let mut name = into.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = parent.join(name);
        let lock = |path: &Path| {
            let dir = File::open(path).map_err(failed(path))?;
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(dir),
                Err(_) => Err(DatabaseError::Taken(path.to_owned())),
            }
        };
        if path.symlink_metadata().is_ok() {
            // A killed process left it.
            let _old = lock(&path)?;
            std::fs::remove_dir_all(&path).map_err(failed(&path))?;
        }
        std::fs::DirBuilder::new().mode(DIR_MODE).create(&path).map_err(failed(&path))?;
        let held = lock(&path)?;
        Ok(Self { path, _lock: held })
    }

    fn create(&self, name: &str) -> Result<Writer, DatabaseError> {
        let path = self.path.join(name);
        let file = File::options().write(true).create_new(true).mode(FILE_MODE).open(&path);
        Ok(Writer { writer: BufWriter::new(file.map_err(failed(&path))?), path, offset_bytes: 0 })
    }

    /// Gives it its name.
    fn name(self, into: &Path) -> Result<(), DatabaseError> {
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all()).map_err(failed(path));
        sync(&self.path)?;
        rustix::fs::renameat_with(CWD, &self.path, CWD, into, RenameFlags::NOREPLACE)
            .map_err(|errno| failed(into)(errno.into()))?;
        sync(&parent(into))
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file that is being written.
struct Writer {
    writer: BufWriter<File>,
    path: PathBuf,
    offset_bytes: u64,
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DatabaseError> {
        self.offset_bytes += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(failed(&self.path))
    }

    fn line(&mut self, value: &Value) -> Result<(), DatabaseError> {
        self.write(format!("{value}\n").as_bytes())
    }

    fn event(&mut self, event: &[u8], checksum: Checksum) -> Result<(), DatabaseError> {
        let event = moved(event, self.offset_bytes, checksum);
        self.write(&event)
    }

    fn sync(mut self) -> Result<(), DatabaseError> {
        let flushed = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        flushed.map_err(failed(&self.path))
    }
}

/// Keeps what was found in a new directory, and returns its note. `columns` are the names of the columns, where the
/// server says them.
///
/// # Errors
/// The directory is there, or cannot be written; what is stranded cannot be read.
pub fn keep(
    store: &str,
    found: &Found,
    summary: &Summary,
    columns: &Columns,
    into: &Path,
) -> Result<KeptNote, DatabaseError> {
    let columns = &undisputed(columns, summary);
    let part = Part::begin(into)?;
    let mut rows = part.create(ROWS)?;
    let (mut files, mut raw, mut names_columns): (Vec<String>, Option<(usize, Writer)>, bool) =
        (Vec::new(), None, true);
    let mut position = found.branch.clone();
    let mut last = None;
    visit(found, &mut |heard| {
        let file = heard.transaction.file;
        if raw.as_ref().is_none_or(|(open, _)| *open != file) {
            if let Some((_, writer)) = raw.take() {
                writer.sync()?;
            }
            files.push(format!("{:06}.binlog", files.len() + 1));
            raw =
                Some((file, begin(&part, files.last().map_or("", String::as_str), heard.format, &position)?));
        }
        if last != Some(heard.transaction.gtid) {
            last = Some(heard.transaction.gtid);
            // Of a domain the numbers grow, as they were read.
            let _ = position.advance(heard.transaction.gtid);
        }
        if let Some((_, writer)) = &mut raw {
            writer.event(heard.bytes, heard.format.checksum)?;
        }
        names_columns &= write_rows(found, heard, columns, &mut rows)?;
        Ok(())
    })?;
    if let Some((_, writer)) = raw {
        writer.sync()?;
    }
    rows.sync()?;
    let note = KeptNote {
        store: store.to_owned(),
        branch: Some(found.branch.clone()),
        files,
        transactions: found.transactions.len() as u64,
        bytes: found.bytes(),
        tables: said(&summary.tables),
        names_columns,
    };
    end(part, &note, into)?;
    Ok(note)
}

/// Leaves the columns of those tables out that a stranded statement names: it may have defined them anew since.
fn undisputed(columns: &Columns, summary: &Summary) -> Columns {
    let statements = summary.transactions.iter().flat_map(|told| &told.statements);
    let statements: Vec<String> = statements.map(|text| text.to_lowercase()).collect();
    let is_named = |table: &str| statements.iter().any(|text| text.contains(&table.to_lowercase()));
    let kept = columns.iter().filter(|(name, _)| !is_named(&name.table));
    kept.map(|(name, about)| (name.clone(), about.clone())).collect()
}

/// Keeps all binary logs of a server, in which the branch is not found, as they are.
///
/// # Errors
/// The directory is there, or cannot be written; a file cannot be read.
pub fn keep_all(store: &str, logs: &Logs, into: &Path) -> Result<KeptNote, DatabaseError> {
    let part = Part::begin(into)?;
    let (mut files, mut bytes) = (Vec::new(), 0);
    for name in &logs.names {
        let from = logs.dir.join(name);
        let mut source = match File::open(&from) {
            Ok(source) => source,
            // The server has deleted it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&from)(error)),
        };
        let mut writer = part.create(name)?;
        bytes += std::io::copy(&mut source, &mut writer.writer).map_err(failed(&writer.path))?;
        writer.sync()?;
        files.push(name.clone());
    }
    let note = KeptNote {
        store: store.to_owned(),
        branch: None,
        files,
        transactions: 0,
        bytes,
        tables: Vec::new(),
        names_columns: false,
    };
    end(part, &note, into)?;
    Ok(note)
}

fn end(part: Part, note: &KeptNote, into: &Path) -> Result<(), DatabaseError> {
    let mut writer = part.create(NOTE)?;
    writer.write(&serde_json::to_vec_pretty(note).unwrap_or_default())?;
    writer.sync()?;
    part.name(into)
}

/// Begins a binary log: how its events are read, and the last transactions before it.
fn begin(part: &Part, name: &str, format: &Format, position: &GtidPosition) -> Result<Writer, DatabaseError> {
    let mut writer = part.create(name)?;
    writer.write(&FILE_MAGIC)?;
    writer.write(&format.bytes)?;
    let list = list_event(position, format);
    writer.event(&list, format.checksum)?;
    Ok(writer)
}

/// Writes what an event says; returns whether all columns have names.
fn write_rows(
    found: &Found,
    heard: &Heard,
    columns: &Columns,
    into: &mut Writer,
) -> Result<bool, DatabaseError> {
    let (gtid, at) = (heard.transaction.gtid.to_string(), heard.transaction.committed_s);
    let (rows, table) = match &heard.said {
        Said::Rows { rows, table, .. } => (rows, *table),
        Said::CompressedRows { change, table } => {
            let row = json!({ "gtid": gtid, "committed_s": at, "schema": table.name.schema, "table": table.name.table, "change": change.name(), "compressed": true });
            into.line(&row)?;
            return Ok(true);
        }
        Said::Statement { schema, text } => {
            into.line(&json!({ "gtid": gtid, "committed_s": at, "schema": schema, "statement": text }))?;
            return Ok(true);
        }
        Said::Prepared | Said::Other(_) | Said::Frame => return Ok(true),
    };
    // A definition that was changed since has other columns.
    let about = columns.get(&table.name).filter(|about| about.len() == table.columns.len());
    let about = about.map(Vec::as_slice);
    let read = rows.rows(table).map_err(|source| wrong(found, heard.transaction.file, source))?;
    for (before, after) in read {
        let mut row = json!({ "gtid": gtid, "committed_s": at, "schema": table.name.schema, "table": table.name.table, "change": rows.change.name() });
        for (key, image) in [("before", before), ("after", after)] {
            if let Some(image) = image {
                row[key] = values(&image, table, about);
            }
        }
        into.line(&row)?;
    }
    Ok(about.is_some())
}

/// Returns the values of a row by the names of its columns; by `@1` and so on where they are not known.
fn values(image: &Image, table: &TableMap, about: Option<&[About]>) -> Value {
    let mut values = Map::new();
    for (at, (column, stored)) in table.columns.iter().zip(&image.values).enumerate() {
        let about = about.and_then(|about| about.get(at));
        let name = about.map_or_else(|| format!("@{}", at + 1), |about| about.name.clone());
        if let Some(stored) = stored {
            values.insert(name, stored.map_or(Value::Null, |bytes| value(column, bytes, about)));
        }
    }
    Value::Object(values)
}
