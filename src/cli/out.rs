//! The output. The only module that writes to standard output and standard error.
//!
//! A reader has no influence on what a command does: a reader that closed the pipe, a full disk, or a pipe
//! that is never emptied costs the output alone. A line that cannot be written is lost, and so is the rest of
//! standard output after the first one, since half a report is useless. The exit code says what the command
//! did, unless output is all that the command produces. Nothing here panics, as `println!` does, and nothing
//! waits for a reader longer than [`PATIENCE_SECONDS`], except on a terminal, which its user may have
//! stopped.

use super::error::Result;
use crate::model::escape;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum time to wait for a full pipe.
const PATIENCE_SECONDS: i64 = 10;
/// Number of bytes that a writable pipe takes without blocking.
const PART_BYTES: usize = 4096;

/// The error for lost output, when output is all that the command produces.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub(super) struct OutputLost(pub io::Error);

impl Failure for OutputLost {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

struct Stream {
    /// Whether output was lost, so that nothing is written any more.
    is_lost: AtomicBool,
    why: Mutex<Option<io::Error>>,
}

impl Stream {
    const fn new() -> Self {
        Self { is_lost: AtomicBool::new(false), why: Mutex::new(None) }
    }

    fn lose(&self, why: io::Error) {
        self.is_lost.store(true, Ordering::Relaxed);
        lock(&self.why).get_or_insert(why);
    }
}

static STDOUT: Stream = Stream::new();
static STDERR: Stream = Stream::new();
static IS_ALL: AtomicBool = AtomicBool::new(false);

/// Declares that output is all that this command produces, so that lost output is a failure.
pub(super) fn is_all() {
    IS_ALL.store(true, Ordering::Relaxed);
}

/// Returns why a part of the output was lost, if it was. A reader that closed the pipe is no reason.
pub(super) fn lost() -> Option<io::Error> {
    let why = lock(&STDOUT.why).take();
    why.filter(|why| why.kind() != ErrorKind::BrokenPipe)
}

/// Writes one line to standard output. Control characters are escaped, so that text of any origin cannot
/// steer a terminal.
///
/// # Errors
/// [`OutputLost`], and only when output is all that this command produces.
pub(super) fn line(text: &str) -> Result<()> {
    bytes(&[escape::text(text).as_bytes(), b"\n"].concat())
}

/// Writes bytes like [`line`], without a line end.
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let is_all = IS_ALL.load(Ordering::Relaxed);
    if STDOUT.is_lost.load(Ordering::Relaxed) {
        return Ok(());
    }
    match write_all(rustix::stdio::stdout(), bytes, is_all) {
        Ok(()) => Ok(()),
        Err(error) if is_all => Err(OutputLost(error).into()),
        Err(error) => {
            STDOUT.lose(error);
            Ok(())
        }
    }
}

/// Writes one line to standard error, like [`line`]; used by `complain!`.
pub(super) fn complain(text: Arguments) {
    let text = format!("{text}");
    complain_bytes(&[escape::text(&text).as_bytes(), b"\n"].concat());
}

pub(super) fn complain_bytes(bytes: &[u8]) {
    if STDERR.is_lost.load(Ordering::Relaxed) {
        return;
    }
    match write_all(rustix::stdio::stderr(), bytes, false) {
        // No process reads, and the next line would wait as long. After any other error (a full disk) the
        // next line may succeed.
        Err(error) if error.kind() == ErrorKind::TimedOut => STDERR.lose(error),
        _ => {}
    }
}

/// Writes a line of text to standard error, if possible.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::out::complain(format_args!($($text)*)) };
}

fn write_all(to: BorrowedFd, mut bytes: &[u8], waits: bool) -> io::Result<()> {
    let waits = waits || to.is_terminal();
    while !bytes.is_empty() {
        if !waits {
            wait(to)?;
        }
        match rustix::io::write(to, &bytes[..bytes.len().min(PART_BYTES)]) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Another process that shares the file made it non-blocking.
            Err(Errno::AGAIN) => wait(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until the file takes bytes again.
fn wait(to: BorrowedFd) -> io::Result<()> {
    let limit = Timespec { tv_sec: PATIENCE_SECONDS, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], Some(&limit)) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
