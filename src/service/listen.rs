//! The listeners: at a port, and at the socket of the host's own commands.
//!
//! No client can hold the daemon up by connecting: a request's head must arrive within ten seconds, and each
//! listener has a maximum number of connections. When all are taken, the connection that has waited longest
//! without an admitted request is closed, so that clients without a token never keep others out.

use super::caller::Peer;
use super::door::Door;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::local_socket::Bound;
use crate::support::lock::lock;
use crate::support::trusted::is_trusted;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

/// Maximum time for the head of a request to arrive, for the first one as for later ones.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of connections of the API's listener, and of the socket's.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Maximum number of connections of the panel's listener: each open page has one that stays.
pub(crate) const PANEL_CONNECTIONS_MAX: usize = 512;
/// Pause after a connection that could not be accepted because no file handles were left; some are freed
/// meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// One connection.
pub(crate) struct Seat {
    /// Number of requests that were admitted and whose responses are not complete.
    busy: AtomicUsize,
    env: Env,
    /// Since when the connection waits, by the machine's clock.
    since_ns: AtomicU64,
    leave: Notify,
}

/// An admitted request; its connection is kept as long as this value.
pub(crate) struct Busy(Arc<Seat>);

impl Seat {
    fn new(env: &Env) -> Self {
        let since_ns = AtomicU64::new(env.boot().0);
        Self { busy: AtomicUsize::new(0), env: env.clone(), since_ns, leave: Notify::new() }
    }

    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn standing(&self) -> Standing {
        let since = BootNanos(self.since_ns.load(Ordering::Relaxed));
        Standing { is_busy: self.busy.load(Ordering::Relaxed) > 0, since }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since_ns.store(self.0.env.boot().0, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    is_busy: bool,
    since: BootNanos,
}

/// Chooses the connection to close for a new one: of those that are not busy, the one that has waited
/// longest.
fn who_goes(all: &[Standing]) -> Option<usize> {
    let idle = all.iter().enumerate().filter(|(_, standing)| !standing.is_busy);
    idle.min_by_key(|(_, standing)| standing.since).map(|(at, _)| at)
}

/// The connections of one listener.
#[derive(Clone)]
struct Seats {
    env: Env,
    all: Arc<Mutex<Vec<Arc<Seat>>>>,
    max: usize,
}

impl Seats {
    fn new(env: &Env, max: usize) -> Self {
        Self { env: env.clone(), all: Arc::default(), max }
    }

    /// Returns a seat for a new connection; none when all are busy.
    fn take(&self) -> Option<Arc<Seat>> {
        let mut all = lock(&self.all);
        if all.len() >= self.max {
            let standings: Vec<_> = all.iter().map(|seat| seat.standing()).collect();
            all.swap_remove(who_goes(&standings)?).leave.notify_one();
        }
        let seat = Arc::new(Seat::new(&self.env));
        all.push(seat.clone());
        Some(seat)
    }

    fn give_back(&self, seat: &Arc<Seat>) {
        let mut all = lock(&self.all);
        all.retain(|other| !Arc::ptr_eq(other, seat));
    }
}

/// Serves requests at a port, for ever.
pub(crate) async fn at_port(env: &Env, listener: TcpListener, router: Router, connections_max: usize) {
    let seats = Seats::new(env, connections_max);
    loop {
        match listener.accept().await {
            Ok((stream, at)) => {
                let router = router.clone().layer(axum::Extension(Peer(at.ip().to_canonical())));
                answer(stream, &seats, &router, Door::Port);
            }
            Err(error) => pause(error).await,
        }
    }
}

/// Serves requests of this user and root at the socket, for ever.
///
/// # Errors
/// The socket cannot be waited for.
pub(crate) async fn at_socket(env: &Env, mut bound: Bound, router: Router) -> io::Result<()> {
    let seats = Seats::new(env, CONNECTIONS_MAX);
    let listener = UnixListener::from_std(bound.listener.try_clone()?)?;
    let _held = &mut bound;
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) => {
                answer(stream, &seats, &router, Door::Socket);
            }
            Ok(_) => tracing::warn!("another user connected to the socket and was not answered"),
            Err(error) => pause(error).await,
        }
    }
}

async fn pause(error: io::Error) {
    tracing::debug!(%error, "a connection was not accepted");
    tokio::time::sleep(PAUSE).await;
}

fn answer<S>(stream: S, seats: &Seats, router: &Router, door: Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(seat) = seats.take() else { return };
    let router = router.clone().layer(axum::Extension(door)).layer(axum::Extension(seat.clone()));
    let seats = seats.clone();
    tokio::spawn(async move {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::select! {
            // A client that disconnected or took too long is not reported.
            _ = connection => {}
            () = seat.leave.notified() => {}
        }
        seats.give_back(&seat);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waited_longest_goes_and_none_that_is_busy() {
        let at = |is_busy, since_ns| Standing { is_busy, since: BootNanos(since_ns) };
        assert_eq!(who_goes(&[at(false, 3), at(true, 1), at(false, 2)]), Some(2));
        assert_eq!(who_goes(&[at(true, 1)]), None);
        let seats = Seats::new(&Env::system(), CONNECTIONS_MAX);
        let first = seats.take().unwrap();
        let busy = first.begin();
        let others: Vec<_> = (1..CONNECTIONS_MAX).map(|_| seats.take().unwrap()).collect();
        let kept: Vec<_> = others.iter().map(|seat| seat.begin()).collect();
        assert!(seats.take().is_none(), "all are busy");
        drop(kept);
        assert!(seats.take().is_some());
        drop(busy);
        assert_eq!(seats.all.lock().unwrap().len(), CONNECTIONS_MAX);
    }
}
