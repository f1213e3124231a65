//! Streams the values of a query, one after the other: neither the client nor this process holds them all.

use crate::database::client::Client;
use crate::database::error::DatabaseError;
use crate::support::child::own_path;
use crate::support::trusted;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Size of what is read at once, and how many of these wait.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_WAITING: usize = 8;
/// Length from which on a value is cut: longer than any that names a file.
const LINE_MAX_BYTES: usize = 16 << 10;
const COMPLAINT_MAX_BYTES: u64 = 64 << 10;
const CONNECT_SECONDS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What the client writes for no value.
const NULL: &[u8] = b"NULL";

/// A client that ends when this does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls `each` with the first column of each row of a query, which only reads.
///
/// # Errors
/// The server's error; it takes longer than `limit`; or that of `each`.
pub(super) fn each_value(
    client: &Client,
    (schema, query): (&str, &str),
    limit: Duration,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let program =
        |source| DatabaseError::Program { program: "mariadb".into(), package: "mariadb-client", source };
    let begun = client.env.stopwatch();
    let mut running = Running(start(client).map_err(program)?);
    let child = &mut running.0;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaint = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(pipe) = stderr {
            let _ = pipe.take(COMPLAINT_MAX_BYTES).read_to_end(&mut said);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    if let Some(mut stdin) = child.stdin.take() {
        let text = format!(
            "SET SESSION sql_mode='', max_statement_time={};\nUSE `{schema}`;\nSTART TRANSACTION READ ONLY;\n{query};\n",
            limit.as_secs().max(1)
        );
        // A client that has ended already says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let (sender, chunks) = sync_channel::<Vec<u8>>(CHUNKS_WAITING);
    std::thread::spawn(move || {
        let Some(mut pipe) = stdout else { return };
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            match pipe.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(length) => chunk.truncate(length),
            }
            if sender.send(chunk).is_err() {
                return;
            }
        }
    });
    let mut line = Vec::new();
    loop {
        if stop() {
            return Err(DatabaseError::Stopped);
        }
        if begun.elapsed() >= limit {
            return Err(DatabaseError::Late { server: client.address.to_string(), limit });
        }
        match chunks.recv_timeout(LOOK_EVERY) {
            Ok(chunk) => take(&chunk, &mut line, each)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = running.0.wait().map_err(program)?;
    match status.success() {
        true => Ok(()),
        false => Err(client.error(&complaint.join().unwrap_or_default())),
    }
}

fn start(client: &Client) -> std::io::Result<Child> {
    if let Some(path) = &client.account_file {
        trusted::open(path)?;
    }
    let mut command = Command::new("mariadb");
    command.args(client.options()).args(["--batch", "--skip-column-names", "--quick", "--skip-reconnect"]);
    command.args(["--default-character-set=utf8mb4", &format!("--connect-timeout={CONNECT_SECONDS}")]);
    command.env_clear().env("PATH", own_path()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Takes what was read; `line` is the beginning of a line that is not whole.
fn take(
    chunk: &[u8],
    line: &mut Vec<u8>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut rest = chunk;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        grow(line, &rest[..end]);
        rest = &rest[end + 1..];
        let first = line.split(|byte| *byte == b'\t').next().unwrap_or_default();
        if first != NULL {
            each(&unescaped(first))?;
        }
        line.clear();
    }
    grow(line, rest);
    Ok(())
}

fn grow(line: &mut Vec<u8>, more: &[u8]) {
    let room = LINE_MAX_BYTES.saturating_sub(line.len());
    line.extend_from_slice(&more[..more.len().min(room)]);
}

/// Reads the escapes of the client's batch mode.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, *byte == b'\\') {
            (_, false) => *byte,
            _ => match rest.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'0') => b'\0',
                Some(other) => *other,
                None => b'\\',
            },
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut line, mut found) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let mut each = |value: &[u8]| {
                found.push(value.to_vec());
                Ok(())
            };
            take(chunk, &mut line, &mut each).unwrap();
        }
        found
    }

    #[test]
    fn a_value_is_the_first_column_whole_and_without_escapes() {
        let found = values(&[b"/a\\nb.jpg\t7\nNULL\n\\\\", b"x\\0\n/\xff\n"]);
        assert_eq!(found, [&b"/a\nb.jpg"[..], b"\\x\0", b"/\xff"]);
        let long = values(&[&[b'a'; 40_000], b"\nb\n"]);
        assert_eq!((long[0].len(), long[1].as_slice()), (LINE_MAX_BYTES, &b"b"[..]));
    }

    proptest! {
        #[test]
        fn where_a_chunk_ends_makes_no_difference(
            bytes in prop::collection::vec(prop::sample::select(&b"a\\tn\n\t0"[..]), 0..60), cut in 0usize..60
        ) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(values(&[&bytes]), values(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
