//! A tunnel of WebSocket frames: bytes in both directions, as long as what they belong to may go on.

use super::connection::Seat;
use super::gate::InFlight;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;

/// Maximum time for both sides to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// Carries a tunnel in a task of its own until one side closes it or it is cut.
pub(crate) fn carry(client: OnUpgrade, upstream: OnUpgrade, seat: Arc<Seat>, in_flight: InFlight) {
    tokio::spawn(async move {
        let both = async { tokio::try_join!(client, upstream) };
        let Ok(Ok((client, upstream))) = tokio::time::timeout(BEGIN_LIMIT, both).await else { return };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
            () = seat.cut() => {}
        }
        drop(in_flight);
    });
}
