//! What a replica had received and not applied when its server ended.
//!
//! A replica by GTID throws its relay logs away when it starts, and fetches what is in them from the primary anew.
//! If the primary is gone by then, transactions are lost that the replica may have acknowledged. So, before a server
//! starts, its relay logs are linked aside, and before a replica stops being one, what it lacks of them is applied.
//! They belong to one primary: when another one is followed, they are forgotten.
//!
//! Why it is safe: a file that is linked is not written to any more, since its server has ended; applying begins
//! behind what the server says it has, so it may be done again. The last transaction may be cut off: it was not
//! acknowledged.

use super::binlog_files::read_event;
use super::client::Client;
use super::error::DatabaseError;
use super::minimal::Place;
use super::replay::Replay;
use crate::format::binlog_event::{EventError, FILE_MAGIC, Format};
use crate::format::binlog_segment::Part;
use crate::format::relay_log::{RelayStep, RelayWalk};
use crate::model::gtid::{Gtid, GtidPosition};
use std::cell::OnceCell;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name of a relay log before its number.
const NAME: &str = "relay.";
/// Name of a directory that is not whole yet.
const UNFINISHED: &str = "unfinished";

/// The relay logs of servers that have ended, those of each in a directory with a number.
pub struct Received {
    dir: PathBuf,
    /// Directory for the messages of programs.
    place: PathBuf,
    /// The last transactions, once they were read.
    end: OnceCell<GtidPosition>,
}

/// A transaction in relay logs.
struct Transaction {
    gtid: Gtid,
    /// Number of the format by which it is read.
    format: usize,
    /// Number of the file, and where in it.
    pieces: Vec<(usize, Range<u64>)>,
}

/// The transactions of one server's relay logs.
#[derive(Default)]
struct Listed {
    files: Vec<PathBuf>,
    formats: Vec<Format>,
    whole: Vec<Transaction>,
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> DatabaseError + '_ {
    |source| DatabaseError::File { path: path.to_owned(), source }
}

/// Returns the files of a directory whose names are a prefix and a number, the lowest first; none without it.
fn numbered(dir: &Path, prefix: &str) -> Result<Vec<(u64, PathBuf)>, DatabaseError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file_error(dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(file_error(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(prefix).and_then(|number| number.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

impl Received {
    pub fn of(place: &Place) -> Self {
        Self { dir: place.dir.join("received"), place: place.dir.clone(), end: OnceCell::new() }
    }

    /// Links the relay logs of a server that has ended aside, if there is a transaction in them.
    ///
    /// # Errors
    /// They cannot be read or linked. The server must not start then.
    pub fn keep(&mut self, data: &Path) -> Result<(), DatabaseError> {
        self.end.take();
        let unfinished = self.dir.join(UNFINISHED);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(file_error(&unfinished)(error)),
            _ => {}
        }
        let files: Vec<PathBuf> = numbered(data, NAME)?.into_iter().map(|(_, path)| path).collect();
        // What cannot be read is judged when it is needed.
        let has_any = list(&files).map_or(true, |listed| listed.whole.iter().any(is_of_store));
        let kept = numbered(&self.dir, "")?;
        let last = kept.last();
        if !has_any || last.is_some_and(|(_, dir)| is_same(dir, &files)) {
            return Ok(());
        }
        std::fs::create_dir_all(&unfinished).map_err(file_error(&unfinished))?;
        for path in &files {
            let to = unfinished.join(path.file_name().unwrap_or_default());
            match std::fs::hard_link(path, &to) {
                Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                    std::fs::copy(path, &to).map(drop).map_err(file_error(&to))?;
                }
                linked => linked.map_err(file_error(&to))?,
            }
        }
        let number = last.map_or(1, |(number, _)| number + 1);
        let whole = self.dir.join(number.to_string());
        std::fs::rename(&unfinished, &whole).map_err(file_error(&whole))
    }

    /// Returns the last transactions in what is kept; nothing where nothing is.
    ///
    /// # Errors
    /// It cannot be read: nobody knows what is in it.
    pub fn end(&self) -> Result<GtidPosition, DatabaseError> {
        if let Some(end) = self.end.get() {
            return Ok(end.clone());
        }
        let mut end = Vec::new();
        for listed in self.listed()? {
            end.extend(listed.whole.iter().filter(|whole| is_of_store(whole)).map(|whole| whole.gtid));
        }
        Ok(self.end.get_or_init(|| end.into_iter().collect()).clone())
    }

    /// Forgets what is kept.
    pub fn forget(self) {
        // What stays is forgotten by the next one: the server has it all.
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// Applies what lies behind `has` to a replica that neither receives nor applies; returns its position then.
    ///
    /// # Errors
    /// It cannot be read, or a transaction fails. Those before it are applied.
    pub fn apply(&self, has: &GtidPosition, client: &Client) -> Result<GtidPosition, DatabaseError> {
        let mut position = has.clone();
        for listed in self.listed()? {
            let mut replay = Replay::new(client.clone(), &self.place);
            for transaction in listed.whole.iter().filter(|transaction| is_of_store(transaction)) {
                let (domain, number) = (transaction.gtid.domain, transaction.gtid.number);
                let last = position.of(domain).map_or(0, |last| last.number);
                if number <= last {
                    continue;
                }
                if number != last + 1 {
                    return Err(DatabaseError::Held(format!(
                        "{}: what was received goes on with {}, and this replica has {position}; what is between is not here",
                        self.dir.display(),
                        transaction.gtid
                    )));
                }
                listed.feed(transaction, &mut replay)?;
                position = position.gtids().chain([transaction.gtid]).collect();
            }
            replay.finish()?;
        }
        Ok(position)
    }

    fn listed(&self) -> Result<Vec<Listed>, DatabaseError> {
        let dirs = numbered(&self.dir, "")?;
        let files = |dir: &Path| Ok(numbered(dir, NAME)?.into_iter().map(|(_, path)| path).collect());
        dirs.iter().map(|(_, dir)| files(dir).and_then(|files: Vec<PathBuf>| list(&files))).collect()
    }
}

fn is_of_store(transaction: &Transaction) -> bool {
    transaction.gtid.domain.is_store()
}

/// Returns whether a directory has these very files, as they are now.
fn is_same(dir: &Path, files: &[PathBuf]) -> bool {
    let facts = |path: &Path| std::fs::metadata(path).map(|meta| (meta.ino(), meta.len())).ok();
    let kept = numbered(dir, NAME).unwrap_or_default();
    kept.len() == files.len()
        && kept.iter().zip(files).all(|((_, kept), file)| facts(kept).is_some_and(|f| Some(f) == facts(file)))
}

/// Lists the whole transactions of relay logs that follow each other.
fn list(files: &[PathBuf]) -> Result<Listed, DatabaseError> {
    let mut listed = Listed { files: files.to_vec(), ..Listed::default() };
    let (mut walk, mut begun, mut bytes) = (RelayWalk::default(), None, Vec::new());
    for (number, path) in files.iter().enumerate() {
        let mut reader = BufReader::new(File::open(path).map_err(file_error(path))?);
        let mut magic = [0; FILE_MAGIC.len()];
        if reader.read_exact(&mut magic).is_err() {
            // It was just made.
            continue;
        }
        let mut at = magic.len() as u64;
        loop {
            bytes.clear();
            let step = match read_event(&mut reader, &mut bytes) {
                Ok(Ok(())) => walk.take(&bytes),
                // Where the server was cut off.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Ok(Err(EventError::Cut)) => break,
                Err(error) => return Err(file_error(path)(error)),
                Ok(Err(error)) => Err(error),
            };
            let step = step.map_err(|source| DatabaseError::Binlog { path: path.clone(), source })?;
            let piece = (number, at..at + bytes.len() as u64);
            at = piece.1.end;
            match step {
                RelayStep::Apart => {}
                RelayStep::Format(format) => {
                    if listed.formats.last() != Some(&format) {
                        listed.formats.push(format);
                    }
                }
                RelayStep::Begins(gtid) => {
                    let format = listed.formats.len().saturating_sub(1);
                    begun = Some(Transaction { gtid, format, pieces: vec![piece] });
                }
                RelayStep::Inside | RelayStep::Ends(_) => {
                    if let Some(transaction) = &mut begun {
                        match transaction.pieces.last_mut() {
                            Some((file, range)) if *file == number && range.end == piece.1.start => {
                                range.end = piece.1.end;
                            }
                            _ => transaction.pieces.push(piece),
                        }
                    }
                    if matches!(step, RelayStep::Ends(_)) {
                        listed.whole.extend(begun.take());
                    }
                }
            }
        }
    }
    Ok(listed)
}

impl Listed {
    /// Feeds the events of a transaction.
    fn feed(&self, transaction: &Transaction, replay: &mut Replay) -> Result<(), DatabaseError> {
        let Some(format) = self.formats.get(transaction.format) else { return Ok(()) };
        let last = transaction.pieces.len().saturating_sub(1);
        for (at, (file, range)) in transaction.pieces.iter().enumerate() {
            let path = &self.files[*file];
            let mut opened = File::open(path).map_err(file_error(path))?;
            opened.seek(SeekFrom::Start(range.start)).map_err(file_error(path))?;
            let mut reader = BufReader::new(opened.take(range.end - range.start));
            let part = Part { file: String::new(), offset_bytes: 0, length_bytes: 0, format: format.clone() };
            let mut bytes = Vec::new();
            let mut left = range.end - range.start;
            while left > 0 {
                bytes.clear();
                let read = read_event(&mut reader, &mut bytes).map_err(file_error(path))?;
                read.map_err(|source| DatabaseError::Binlog { path: path.clone(), source })?;
                left -= bytes.len() as u64;
                replay.feed(&part, &bytes, at == last && left == 0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::binlog_event::tests::{format_event, transaction};

    fn place() -> (tempfile::TempDir, Place, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (place, data) = (Place { dir: dir.path().join("place") }, dir.path().join("data"));
        for dir in [&place.dir, &data] {
            std::fs::create_dir(dir).unwrap();
        }
        (dir, place, data)
    }

    fn write(path: &Path, events: &[Vec<u8>]) {
        std::fs::write(path, [FILE_MAGIC.to_vec(), events.concat()].concat()).unwrap();
    }

    #[test]
    fn what_a_server_had_received_is_kept_once_and_over_several_files() {
        let (_dir, place, data) = place();
        let mut received = Received::of(&place);
        received.keep(&data).unwrap();
        assert!(received.end().unwrap().is_empty() && !received.dir.exists());
        write(&data.join("relay.000002"), &[format_event()]);
        received.keep(&data).unwrap();
        assert!(!received.dir.exists(), "there is nothing in it");
        write(&data.join("relay.000009"), &[format_event(), transaction(4, 7, 2, 10)]);
        let mut cut = transaction(4, 9, 2, 10);
        cut.truncate(cut.len() - 5);
        write(&data.join("relay.000010"), &[format_event(), transaction(4, 8, 2, 10), cut]);
        for _ in 0..2 {
            received.keep(&data).unwrap();
            assert_eq!(received.end().unwrap().to_string(), "1-11-8");
            assert_eq!(numbered(&received.dir, "").unwrap().len(), 1);
        }
        // The server deletes its own.
        for name in ["relay.000009", "relay.000010"] {
            std::fs::remove_file(data.join(name)).unwrap();
        }
        write(&data.join("relay.000010"), &[format_event(), transaction(4, 6, 1, 10)]);
        received.keep(&data).unwrap();
        assert_eq!(numbered(&received.dir, "").unwrap().len(), 2);
        assert_eq!(received.end().unwrap().to_string(), "1-11-8");
        received.forget();
        assert!(Received::of(&place).end().unwrap().is_empty());
    }

    #[test]
    fn what_is_damaged_is_no_end() {
        let (_dir, place, data) = place();
        let mut bad = transaction(4, 7, 2, 10);
        bad[60] ^= 1;
        write(&data.join("relay.000001"), &[format_event(), bad, transaction(4, 8, 1, 10)]);
        let mut received = Received::of(&place);
        received.keep(&data).unwrap();
        assert!(matches!(received.end(), Err(DatabaseError::Binlog { .. })));
    }
}
