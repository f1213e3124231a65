//! Answers at the guard's socket: to this user and root alone, one line for each line.

use super::gate::Gate;
use super::protocol::{LINE_MAX_BYTES, Reply, Request};
use crate::support::trusted::is_trusted;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};

/// Maximum number of connections; others wait.
const CONNECTIONS_MAX: usize = 16;
/// Maximum time between two lines of a connection.
const LINE_LIMIT: Duration = Duration::from_secs(30);
/// Pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever; tells `stop` when the process is to end.
pub(crate) async fn serve(gate: Arc<Gate>, listener: UnixListener, stop: Arc<Notify>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) => {
                let (gate, stop) = (gate.clone(), stop.clone());
                tokio::spawn(async move {
                    // A daemon that was killed is not reported.
                    let _ = answer(&gate, stream, &stop).await;
                    drop(place);
                });
            }
            // Another user is not answered.
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(gate: &Gate, stream: UnixStream, stop: &Notify) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(LINE_MAX_BYTES as u64);
        let count = tokio::time::timeout(LINE_LIMIT, limited.read_until(b'\n', &mut line)).await??;
        if count == 0 {
            return Ok(());
        }
        let request = serde_json::from_slice(&line);
        let is_stop = matches!(request, Ok(Request::Stop));
        let reply = match request {
            Ok(request) => reply(gate, request),
            Err(error) => Reply::Wrong(error.to_string()),
        };
        let is_wrong = matches!(reply, Reply::Wrong(_));
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        stream.get_mut().write_all(&text).await?;
        if is_stop {
            stop.notify_one();
        }
        if is_wrong || is_stop {
            return Ok(());
        }
    }
}

fn reply(gate: &Gate, request: Request) -> Reply {
    match request {
        Request::Feed(feed) => {
            if let Err(refusal) = gate.feed(&feed) {
                return Reply::Refused(refusal);
            }
        }
        Request::Fence { reason } => gate.begin_fence(&reason),
        Request::Ask | Request::Stop => {}
    }
    Reply::State(Box::new(gate.state()))
}
