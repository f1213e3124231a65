//! Lines written by a thread of their own, so that a caller with a line never waits for its reader.
//!
//! A line that cannot be written (there is no reader, or its disk is full) is lost and counted, and so is a
//! line that does not fit the queue while a reader sleeps. Once a line is written again, the number of lost
//! lines goes before it. Only the thread touches the output: it may hang in a write without end, and nothing
//! else does.

use crate::support::lock::lock;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum total size of the lines that wait to be written.
const QUEUE_MAX_BYTES: usize = 1 << 20;

/// The callers' end of the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lossy(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether a line that left the queue is still being written.
    is_writing: bool,
}

impl Lossy {
    /// Starts the thread; `told` returns the line that reports the number of lost lines.
    pub(crate) fn start(out: impl Write + Send + 'static, told: fn(u64) -> String) -> io::Result<Self> {
        let lossy = Self(Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            lost: AtomicU64::new(0),
        }));
        let shared = lossy.0.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || shared.write_all(out, told))?;
        Ok(lossy)
    }

    /// Queues a line; never waits.
    pub(crate) fn say(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.bytes + line.len() > QUEUE_MAX_BYTES {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let is_under_way = |queue: &mut Queue| !queue.lines.is_empty() || queue.is_writing;
        drop(self.0.changed.wait_timeout_while(self.0.queue(), limit, is_under_way));
    }

    /// Returns the number of lost lines.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn write_all(&self, mut out: impl Write, told: fn(u64) -> String) {
        let (mut known, mut is_torn) = (0, false);
        loop {
            let line = {
                let mut queue = self.queue();
                queue.is_writing = false;
                self.changed.notify_all();
                loop {
                    if let Some(line) = queue.lines.pop_front() {
                        queue.bytes -= line.len();
                        queue.is_writing = true;
                        break line;
                    }
                    queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let lost = self.lost.load(Ordering::Relaxed);
            let mut text = Vec::new();
            if is_torn {
                text.push(b'\n');
            }
            if lost > known {
                text.extend(told(lost - known).into_bytes());
                text.push(b'\n');
            }
            text.extend(line);
            match out.write_all(&text).and_then(|()| out.flush()) {
                Ok(()) => (known, is_torn) = (lost, false),
                // A part of the line may be written, so the next one begins with a line break.
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    is_torn = true;
                }
            }
        }
    }
}

/// One line; it is queued when this is dropped, and so when it is whole.
pub(crate) struct Line {
    lossy: Lossy,
    bytes: Vec<u8>,
}

impl Lossy {
    pub(crate) fn line(&self) -> Line {
        Line { lossy: self.clone(), bytes: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.lossy.say(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn told(count: u64) -> String {
        format!("{count} lost")
    }

    #[test]
    fn who_says_a_line_never_waits_for_a_reader_that_sleeps() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lossy = Lossy::start(writer, told).unwrap();
        // Far more than a pipe and the queue hold.
        let line = [b'x'; 1000];
        let mut all = 0;
        for _ in 0..20 << 10 {
            lossy.say(&[&line[..], b"\n"].concat());
            all += 1;
        }
        let lost = lossy.lost();
        assert!(lost > 10_000, "{lost}");
        // The reader wakes up: it gets the lines that waited, and the number of the others.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            let mut part = [0; 4096];
            while !text.contains("the end") {
                let count = reader.read(&mut part).unwrap();
                text += std::str::from_utf8(&part[..count]).unwrap();
            }
            text
        });
        lossy.flush(Duration::from_secs(60));
        lossy.say(b"the end\n");
        let text = reading.join().unwrap();
        let said = text.lines().filter(|line| line.starts_with('x')).count() as u64;
        assert_eq!(said + lost, all);
        assert!(text.contains(" lost\n"), "how many were lost is told");
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_told_once_it_can_be_again() {
        struct Full(std::sync::Arc<Mutex<(bool, Vec<u8>)>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut state = self.0.lock().unwrap();
                if state.0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let state = std::sync::Arc::new(Mutex::new((true, Vec::new())));
        let lossy = Lossy::start(Full(state.clone()), told).unwrap();
        for line in [b"one\n", b"two\n"] {
            lossy.say(line);
        }
        lossy.flush(Duration::from_secs(60));
        assert_eq!(lossy.lost(), 2);
        state.lock().unwrap().0 = false;
        std::io::Write::write_all(&mut lossy.line(), b"three\n").unwrap();
        lossy.flush(Duration::from_secs(60));
        assert_eq!(String::from_utf8(state.lock().unwrap().1.clone()).unwrap(), "\n2 lost\nthree\n");
    }
}
