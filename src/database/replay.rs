//! Applies transactions of an archive to a server: `mariadb-binlog | mariadb`, which is fed event by event.
//!
//! Nothing lies on a disk in between. The pair of programs is begun anew with each file of the primary's, since a
//! file's first event says how the others are read, and never within a transaction. If this process is killed, both
//! read the end of their input and end; what was not whole is rolled back.

use super::client::Client;
use super::error::DatabaseError;
use super::process::tail;
use crate::format::binlog_event::FILE_MAGIC;
use crate::format::binlog_segment::Part;
use crate::support::child::own_path;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Maximum number of bytes that one pair is fed, at the end of a transaction.
const FED_MAX_BYTES: u64 = 256 << 20;
const READER: &str = "mariadb-binlog";
const APPLIER: &str = "mariadb";

/// Applies events.
pub struct Replay {
    client: Client,
    /// Where the programs' messages go.
    log: PathBuf,
    pair: Option<Pair>,
}

struct Pair {
    reader: Child,
    applier: Child,
    input: Option<ChildStdin>,
    /// The first event of the file whose events it is fed.
    format: Vec<u8>,
    fed_bytes: u64,
}

impl Replay {
    pub fn new(client: Client, dir: &Path) -> Self {
        Self { client, log: dir.join("replay.log"), pair: None }
    }

    /// Applies events of a part; `is_whole` says that they end a transaction.
    pub fn feed(&mut self, part: &Part, events: &[u8], is_whole: bool) -> Result<(), DatabaseError> {
        if self.pair.as_ref().is_some_and(|pair| pair.format != part.format.bytes) {
            self.finish()?;
        }
        let pair = match &mut self.pair {
            Some(pair) => pair,
            none => none.insert(start(&self.client, &self.log, &part.format.bytes)?),
        };
        pair.fed_bytes += events.len() as u64;
        let is_full = is_whole && pair.fed_bytes >= FED_MAX_BYTES;
        let written = pair.input.as_mut().map_or(Ok(()), |input| input.write_all(events));
        if written.is_err() || is_full {
            self.finish()?;
        }
        // They ended before their input did, and yet succeeded.
        written.map_err(|source| self.failed(READER, source.to_string()))
    }

    /// Waits until all is applied.
    pub fn finish(&mut self) -> Result<(), DatabaseError> {
        let Some(mut pair) = self.pair.take() else { return Ok(()) };
        drop(pair.input.take());
        for (child, program) in [(&mut pair.applier, APPLIER), (&mut pair.reader, READER)] {
            let status = child.wait().map_err(|source| DatabaseError::Program {
                program: program.into(),
                package: "mariadb-client",
                source,
            })?;
            if !status.success() {
                return Err(self.failed(program, tail(&self.log)));
            }
        }
        Ok(())
    }

    fn failed(&self, program: &str, text: String) -> DatabaseError {
        DatabaseError::Tool { program: program.to_owned(), text }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.input.take());
        for child in [&mut self.reader, &mut self.applier] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(client: &Client, log: &Path, format: &[u8]) -> Result<Pair, DatabaseError> {
    let opened = File::options().create(true).append(true).open(log);
    let log = opened.map_err(|source| DatabaseError::File { path: log.to_owned(), source })?;
    let failed = |program: &str| {
        let program = program.to_owned();
        move |source| DatabaseError::Program { program, package: "mariadb-client", source }
    };
    let messages = || log.try_clone().map(Stdio::from).unwrap_or_else(|_| Stdio::null());
    let command = |program: &str| {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", own_path()).current_dir("/").stderr(messages());
        command
    };
    let mut reader = command(READER);
    let reader = reader.args(["--no-defaults", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut reader = reader.map_err(failed(READER))?;
    let output = reader.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut applier = command(APPLIER);
    applier.args(client.options()).args(["--batch", "--binary-mode", "--max-allowed-packet=1G"]);
    let applier = match applier.stdin(output).stdout(Stdio::null()).spawn() {
        Ok(applier) => applier,
        Err(source) => {
            let _ = reader.kill();
            let _ = reader.wait();
            return Err(failed(APPLIER)(source));
        }
    };
    let input = reader.stdin.take();
    let mut pair = Pair { reader, applier, input, format: format.to_vec(), fed_bytes: 0 };
    let begun = pair
        .input
        .as_mut()
        .map_or(Ok(()), |input| input.write_all(&FILE_MAGIC).and_then(|()| input.write_all(format)));
    match begun {
        // Why it ended is found when it is waited for.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(READER)(error)),
        _ => Ok(pair),
    }
}
