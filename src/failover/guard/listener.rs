//! Takes the customers' connections, a bounded number of them.

use super::connection::{Guarded, Seats};
use super::gate::Gate;
use super::proxy::Proxy;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Maximum time for the head of a request to arrive; also how long an unused connection is kept.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// Maximum size of a request's head.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Interval between looks for clients that take nothing.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Pause after a connection that could not be accepted because no file handles were left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves customers, for ever.
pub(crate) async fn serve(gate: Arc<Gate>, listener: TcpListener, proxy: Proxy, connections_max: usize) {
    let (proxy, seats) = (Arc::new(proxy), Arc::new(Seats::new(connections_max)));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(stream, peer, &gate, &proxy, &seats),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            _ = sweep.tick() => seats.sweep(gate.env.boot()),
        }
    }
}

fn take(stream: TcpStream, peer: SocketAddr, gate: &Arc<Gate>, proxy: &Arc<Proxy>, seats: &Arc<Seats>) {
    let Some(seat) = seats.take(gate) else { return };
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Guarded { stream, seat: seat.clone(), seats: seats.clone() });
    let proxy = proxy.clone();
    tokio::spawn(async move {
        let service = service_fn(|request| proxy.answer(request, peer.ip(), &seat));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_MAX_BYTES);
        let connection = http.serve_connection(io, service).with_upgrades();
        tokio::select! {
            // The end of the time comes first.
            biased;
            () = seat.cut() => {}
            // A client that left or took too long is not reported.
            _ = connection => {}
        }
    });
}
