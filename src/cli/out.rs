//! What is printed. The only place that writes to standard output and standard error.
//!
//! Nobody who should read it decides over what is done: a reader that went away, a full disk, and a pipe that nobody empties cost the
//! output alone. A line that cannot be written is lost, and after the first the rest of standard output is (half a report is none); how a
//! command ends is told by what it did, unless its output is all that it does. Nothing here panics, as `println!` does, and nothing waits
//! for a reader for longer than a while, except on a terminal, where a person may have stopped it.

use super::error::Result;
use crate::model::escape;
use crate::support::failure::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How long a pipe that is full may stay so.
const PATIENCE_SECONDS: i64 = 10;
/// What a pipe takes without waiting once it says that it takes something.
const PART_BYTES: usize = 4096;

/// Output that is lost, when it is all that the command does.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub(super) struct OutputLost(pub io::Error);

impl Failure for OutputLost {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

struct Stream {
    /// Nothing is written any more.
    is_lost: AtomicBool,
    why: Mutex<Option<io::Error>>,
}

impl Stream {
    const fn new() -> Self {
        Self { is_lost: AtomicBool::new(false), why: Mutex::new(None) }
    }

    fn lose(&self, why: io::Error) {
        self.is_lost.store(true, Ordering::Relaxed);
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

static STDOUT: Stream = Stream::new();
static STDERR: Stream = Stream::new();
static IS_ALL: AtomicBool = AtomicBool::new(false);

/// From now on output that is lost is a failure: it is all that this command does.
pub(super) fn is_all() {
    IS_ALL.store(true, Ordering::Relaxed);
}

/// Why a part of the output is lost, if it is; a reader that has read enough is no reason.
pub(super) fn lost() -> Option<io::Error> {
    let why = STDOUT.why.lock().unwrap_or_else(PoisonError::into_inner).take();
    why.filter(|why| why.kind() != ErrorKind::BrokenPipe)
}

/// One line on standard output; nothing in it steers a terminal, wherever it came from.
///
/// # Errors
/// [`OutputLost`], and only when output is all that this command does.
pub(super) fn line(text: &str) -> Result<()> {
    bytes(&[escape::text(text).as_bytes(), b"\n"].concat())
}

/// As [`line`], without its end.
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

/// One line on standard error: `complain!`. As [`line`].
pub(super) fn complain(text: Arguments) {
    let text = format!("{text}");
    complain_bytes(&[escape::text(&text).as_bytes(), b"\n"].concat());
}

pub(super) fn complain_bytes(bytes: &[u8]) {
    if STDERR.is_lost.load(Ordering::Relaxed) {
        return;
    }
    match write_all(rustix::stdio::stderr(), bytes, false) {
        // Nobody reads: the next would wait as long. A full disk may have room again.
        Err(error) if error.kind() == ErrorKind::TimedOut => STDERR.lose(error),
        _ => {}
    }
}

/// Says a line of text on standard error, if that works.
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
            // Somebody else made it so.
            Err(Errno::AGAIN) => wait(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Until something can be written.
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
