//! Bodies on their way through the gate, piece by piece: none is held as a whole, and each piece passes only
//! while what it belongs to may go on.

use super::connection::Seat;
use super::gate::InFlight;
use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Maximum time between two pieces of a request's body.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// The body of an answer: the gate's own words, or the upstream's.
pub(crate) type AnswerBody = Either<Full<Bytes>, FromUpstream>;

type BodyError = Box<dyn std::error::Error + Send + Sync>;
type Piece = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

fn cut() -> BodyError {
    io::Error::from(ErrorKind::ConnectionReset).into()
}

/// The body of a request, from a client.
pub(crate) struct FromClient {
    /// None for a request without a body, which can be sent again.
    incoming: Option<Incoming>,
    seat: Arc<Seat>,
    /// Runs while the client owes a piece.
    patience: Option<Pin<Box<Sleep>>>,
}

impl FromClient {
    pub(crate) fn new(incoming: Incoming, seat: &Arc<Seat>) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self { incoming, seat: seat.clone(), patience: None }
    }

    pub(crate) fn none(seat: &Arc<Seat>) -> Self {
        Self { incoming: None, seat: seat.clone(), patience: None }
    }
}

impl Body for FromClient {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Piece {
        if !self.seat.goes_on() {
            return Poll::Ready(Some(Err(cut())));
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.patience = None;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(READ_LIMIT)));
                match patience.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(io::Error::from(ErrorKind::TimedOut).into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer, from an upstream.
pub(crate) struct FromUpstream {
    pub incoming: Incoming,
    pub seat: Arc<Seat>,
    pub _in_flight: InFlight,
}

impl Body for FromUpstream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Piece {
        if !self.seat.goes_on() {
            return Poll::Ready(Some(Err(cut())));
        }
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for FromUpstream {
    fn drop(&mut self) {
        self.seat.answered();
        self.seat.set_busy(false);
    }
}
