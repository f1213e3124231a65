//! A customer's connection: its bytes pass only while what they belong to may go on.
//!
//! An answer that an upstream gave may still be in a buffer when the gate closes. So not only requests and
//! pieces of bodies are looked at, but each read and each write of a connection that carries something of an
//! upstream's. A connection that was cut is reset, which also drops what the kernel has not sent yet.

use super::gate::Gate;
use super::state::Permit;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Maximum time that a client takes nothing of an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// What is known of a connection.
pub(crate) struct Seat {
    gate: Arc<Gate>,
    /// Number of fences when the connection was made.
    fences: u64,
    /// The permit of what it carries; 0 for nothing of an upstream's.
    carries: AtomicU64,
    /// Whether the answer that it carries has come to its end, perhaps not yet out of the buffer.
    is_answered: AtomicBool,
    /// Whether a request is being answered.
    is_busy: AtomicBool,
    /// When it was last busy, by the machine's clock.
    since_ns: AtomicU64,
    /// Since when the client takes nothing; 0 if it does.
    stalled_ns: AtomicU64,
    is_cut: AtomicBool,
    leave: Notify,
}

impl Seat {
    pub(crate) fn new(gate: &Arc<Gate>) -> Self {
        Self {
            gate: gate.clone(),
            fences: gate.fences(),
            carries: AtomicU64::new(0),
            is_answered: AtomicBool::new(true),
            is_busy: AtomicBool::new(false),
            since_ns: AtomicU64::new(gate.env.boot().0),
            stalled_ns: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    /// Begins to carry what has a permit.
    pub(crate) fn carry(&self, permit: Permit) {
        self.is_answered.store(false, Ordering::Relaxed);
        self.carries.store(permit.0, Ordering::Relaxed);
    }

    /// Notes that the answer has come to its end.
    pub(crate) fn answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_busy(&self, is_busy: bool) {
        self.since_ns.store(self.gate.env.boot().0, Ordering::Relaxed);
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// Returns since when the connection waits for a request; none if it is busy.
    pub(crate) fn idle_since(&self) -> Option<BootNanos> {
        let is_idle = !self.is_busy.load(Ordering::Relaxed);
        is_idle.then(|| BootNanos(self.since_ns.load(Ordering::Relaxed)))
    }

    /// Returns whether what the connection carries, if anything, may go on.
    pub(crate) fn goes_on(&self) -> bool {
        match self.carries.load(Ordering::Relaxed) {
            0 => true,
            permit => self.gate.goes_on(Permit(permit)),
        }
    }

    /// Returns whether a change of the gate ends the connection: a fence ends all that were there.
    fn is_over(&self) -> bool {
        self.gate.fences() != self.fences || !self.goes_on()
    }

    pub(crate) fn is_stalled(&self, now: BootNanos) -> bool {
        let since_ns = self.stalled_ns.load(Ordering::Relaxed);
        since_ns != 0 && now.since(BootNanos(since_ns)) > WRITE_LIMIT
    }

    /// Asks the connection to end.
    pub(crate) fn dismiss(&self) {
        self.leave.notify_one();
    }

    /// Waits until the connection has to end, and marks it so that it is reset.
    pub(crate) async fn cut(&self) {
        let mut changes = self.gate.changes();
        while !self.is_over() {
            tokio::select! {
                () = self.leave.notified() => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.goes_on() {
            true => Ok(()),
            false => {
                self.is_cut.store(true, Ordering::Relaxed);
                Err(ErrorKind::ConnectionReset.into())
            }
        }
    }
}

/// All connections of a gate.
pub(crate) struct Seats {
    all: Mutex<Vec<Arc<Seat>>>,
    max: usize,
}

impl Seats {
    pub(crate) fn new(max: usize) -> Self {
        Self { all: Mutex::default(), max }
    }

    /// Returns a seat for a new connection; none when all are busy. When all are taken, the connection that
    /// has waited longest without a request has to leave.
    pub(crate) fn take(&self, gate: &Arc<Gate>) -> Option<Arc<Seat>> {
        let mut all = lock(&self.all);
        if all.len() >= self.max {
            let idle = all.iter().enumerate().filter_map(|(at, seat)| Some((seat.idle_since()?, at)));
            let (_, at) = idle.min()?;
            all.swap_remove(at).dismiss();
        }
        let seat = Arc::new(Seat::new(gate));
        all.push(seat.clone());
        Some(seat)
    }

    /// Ends the connections whose clients take nothing.
    pub(crate) fn sweep(&self, now: BootNanos) {
        lock(&self.all).iter().filter(|seat| seat.is_stalled(now)).for_each(|seat| seat.dismiss());
    }

    fn give_back(&self, seat: &Arc<Seat>) {
        lock(&self.all).retain(|other| !Arc::ptr_eq(other, seat));
    }
}

/// A connection's stream.
pub(crate) struct Guarded {
    pub stream: TcpStream,
    pub seat: Arc<Seat>,
    pub seats: Arc<Seats>,
}

impl Guarded {
    /// Notes whether the client takes what is written.
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let stalled_ns = &self.seat.stalled_ns;
        match &result {
            Poll::Ready(_) => stalled_ns.store(0, Ordering::Relaxed),
            Poll::Pending if stalled_ns.load(Ordering::Relaxed) == 0 => {
                stalled_ns.store(self.seat.gate.env.boot().0, Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
        result
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        self.seat.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.seat.check()?;
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bufs: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        self.seat.check()?;
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Flushes. It is called once nothing is left to write, so an answer that has come to its end is out.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.seat.is_answered.load(Ordering::Relaxed) {
            self.seat.carries.store(0, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.seat.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.seat.is_cut.load(Ordering::Relaxed) || !self.seat.goes_on() {
            // The close is a reset then, and what the kernel holds is not sent.
            let _ = self.stream.set_zero_linger();
        }
        self.seats.give_back(&self.seat);
    }
}
