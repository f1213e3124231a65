//! HAProxy's socket: one command on each connection, with a bounded answer.

use crate::edge::context::{Deadline, EdgeContext};
use crate::edge::error::EdgeError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Maximum time of one command.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of bytes of an answer: a list of some thousands of servers.
const ANSWER_MAX_BYTES: usize = 4 << 20;

/// The socket.
pub(crate) struct Socket {
    path: PathBuf,
    context: EdgeContext,
}

impl Socket {
    pub(crate) fn new(path: &Path, context: &EdgeContext) -> Self {
        Self { path: path.to_owned(), context: context.clone() }
    }

    /// Sends a command and returns the answer.
    pub(crate) fn ask(&self, edge: &str, command: &str, deadline: &Deadline) -> Result<String, EdgeError> {
        // The parts of a command cannot contain these by their types. This is the last place to notice.
        let is_plain = |b: u8| (b.is_ascii_graphic() || b == b' ') && !b";\\<>\"'".contains(&b);
        if !command.bytes().all(is_plain) {
            return Err(EdgeError::wrong(edge, format!("'{command}' is not one command of HAProxy's")));
        }
        let limit = deadline.left(edge, COMMAND_LIMIT)?;
        let said = self.context.runtime.block_on(async {
            // Its timer needs the runtime around it.
            timeout(limit, exchange(&self.path, command)).await
        });
        let at = self.path.display();
        match said {
            Ok(Ok(bytes)) => String::from_utf8(bytes)
                .map_err(|_| EdgeError::refused(edge, format!("{at}: the answer is no text"))),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(EdgeError::wrong(edge, format!("{at}: {error}; this user must be able to write to it")))
            }
            Ok(Err(error)) => Err(EdgeError::silent(edge, format!("{at}: {error}"))),
            Err(_) => Err(EdgeError::silent(edge, format!("{at}: no answer within {} s", limit.as_secs()))),
        }
    }
}

async fn exchange(path: &Path, command: &str) -> io::Result<Vec<u8>> {
    let stream = UnixStream::connect(path).await?;
    let line = format!("{command}\n");
    let mut sent = 0;
    while sent < line.len() {
        stream.writable().await?;
        match stream.try_write(&line.as_bytes()[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let mut answer = Vec::new();
    loop {
        stream.readable().await?;
        let mut part = [0; 16_384];
        match stream.try_read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(count) if answer.len() + count > ANSWER_MAX_BYTES => {
                return Err(io::Error::other("the answer is too long"));
            }
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
