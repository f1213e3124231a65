//! Orders to the supervisor of a store's server, at a socket in the supervisor's own directory.
//!
//! One line for each: an order, and an answer once it is done. The supervisor's user and root are answered, and
//! nobody else: other users cannot enter the directory, and the kernel is asked as well.
//!
//! What can race: orders of two processes. They are done one after the other, each on its own epoch. Who asks
//! and is killed asks again: an order that is done already is answered at once.

use super::error::DatabaseError;
use super::minimal::Place;
use super::restored::GoBack;
use super::role_file;
use crate::model::gtid::GtidPosition;
use crate::model::id::Epoch;
use crate::support::failure::FailureKind;
use crate::support::local_socket::{Bound, SocketPlace};
use crate::support::trusted::is_trusted;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Maximum length of a line.
const LINE_MAX_BYTES: u64 = 64 << 10;
/// Time for an order's line to arrive.
const LINE_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What a server is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A replica of the primary's server.
    Follow,
    /// The primary's server, which takes writes.
    Serve {
        /// All up to here must be applied first, as a handover said.
        #[serde(default)]
        position: Option<GtidPosition>,
        /// Whether a broken replica is taken as it is.
        #[serde(default)]
        accept_loss: bool,
        /// What takes the place of the replica's data.
        #[serde(default)]
        back: Option<Box<GoBack>>,
    },
    /// One that refuses writes, and says what its last one was.
    Hand,
    /// The primary's server, whose commits wait until a standby has acknowledged them, or do not.
    Wait { on: bool },
    /// A replica that acknowledges what it has received, or does not.
    Acknowledge { on: bool },
    /// A replica that stands at a position; none for where it is.
    Hold {
        #[serde(default)]
        position: Option<GtidPosition>,
        /// The snapshot whose position that is.
        #[serde(default)]
        snapshot: Option<String>,
    },
    /// A replica that goes on.
    Release,
    /// A replica that stands still while a drill copies it, which holds a lock meanwhile.
    Still {
        /// Whether it does so though customers wait for its acknowledgements.
        customers_wait: bool,
    },
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub what: What,
    /// The epoch that it was given in; none if the supervisor is to read the log itself.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Number of fences that were known when it was given.
    pub fences: u64,
}

impl Order {
    /// Returns what is to take the place of the replica's data.
    pub(super) fn back(&self) -> Option<&GoBack> {
        match &self.what {
            What::Serve { back, .. } => back.as_deref(),
            _ => None,
        }
    }
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Done {
        /// The position of the server: what it has, or what it had applied when it stopped being a replica.
        position: Option<GtidPosition>,
        /// What a person should know.
        note: Option<String>,
    },
    Refused {
        kind: FailureKind,
        reason: String,
    },
}

impl Answer {
    pub(super) fn done(position: Option<GtidPosition>) -> Self {
        Self::Done { position, note: None }
    }

    pub(super) fn failed(error: &DatabaseError) -> Self {
        use crate::support::failure::Failure;
        Self::Refused { kind: error.kind(), reason: error.to_string() }
    }
}

/// An order, and who waits for its answer.
pub struct Asked {
    pub order: Order,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    /// Answers. Who asked may have gone.
    pub fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }
}

fn place_of(place: &Place) -> SocketPlace {
    SocketPlace {
        dir: place.dir.clone(),
        name: "orders.socket".into(),
        is_default: true,
        listener: "supervisor of this database",
        key: "store.database.directory",
    }
}

/// Listens at the socket of a place. Orders arrive at the receiver until the last of them is dropped.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(place: &Place) -> Result<mpsc::Receiver<Asked>, DatabaseError> {
    let path = place.dir.join("orders.socket");
    let failed = |source| DatabaseError::File { path: path.clone(), source };
    let bound = place_of(place).bind().map_err(|error| DatabaseError::Settings(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (sender, inbox) = mpsc::channel();
    std::thread::Builder::new()
        .name("database-orders".into())
        .spawn(move || runtime.block_on(serve(bound, sender)))
        .map_err(failed)?;
    Ok(inbox)
}

async fn serve(bound: Bound, inbox: mpsc::Sender<Asked>) {
    let Ok(own) = bound.listener.try_clone() else { return };
    let Ok(listener) = UnixListener::from_std(own) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid())) => {
                let inbox = inbox.clone();
                tokio::spawn(async move {
                    // Whoever asked and was killed is not reported.
                    let _ = take(stream, inbox).await;
                });
            }
            // Another user is not answered.
            Ok(_) => {}
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn take(stream: UnixStream, inbox: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(LINE_MAX_BYTES);
    tokio::time::timeout(LINE_LIMIT, limited.read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice(&line) {
        Ok(order) => {
            let (reply, answer) = oneshot::channel();
            // Without a supervisor the answer's sender is gone, and so is the connection.
            let _ = inbox.send(Asked { order, reply });
            answer.await.map_err(|_| ErrorKind::BrokenPipe)?
        }
        Err(error) => Answer::Refused { kind: FailureKind::Usage, reason: error.to_string() },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await
}

/// Returns whether a supervisor listens at a place.
pub fn is_answered(place: &Place) -> bool {
    place_of(place).connect().is_ok_and(|stream| stream.is_some())
}

/// Gives an order, and waits for its answer.
///
/// # Errors
/// No supervisor answers; the order was refused, or is not done within `limit`. A supervisor goes on with what
/// it has begun.
pub fn give(
    place: &Place,
    what: What,
    epoch: Option<Epoch>,
    limit: Duration,
) -> Result<(Option<GtidPosition>, Option<String>), DatabaseError> {
    let socket = place_of(place);
    let failed = |source| DatabaseError::File { path: socket.path(), source };
    let Some(mut stream) = socket.connect().map_err(failed)? else {
        return Err(DatabaseError::NoSupervisor(socket.path()));
    };
    stream.set_nonblocking(false).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    let order = Order { what, epoch, fences: role_file::read(place)?.fences };
    let mut text = serde_json::to_vec(&order).unwrap_or_default();
    text.push(b'\n');
    stream.write_all(&text).map_err(failed)?;
    let mut line = Vec::new();
    match BufReader::new(stream).take(LINE_MAX_BYTES).read_until(b'\n', &mut line) {
        Ok(0) => return Err(DatabaseError::NoSupervisor(socket.path())),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Err(DatabaseError::Late { server: socket.path().display().to_string(), limit });
        }
        Err(error) => return Err(failed(error)),
    }
    match serde_json::from_slice(&line) {
        Ok(Answer::Done { position, note }) => Ok((position, note)),
        Ok(Answer::Refused { kind, reason }) => Err(DatabaseError::Refused { kind, reason }),
        Err(error) => Err(DatabaseError::Answer {
            server: socket.path().display().to_string(),
            text: error.to_string(),
        }),
    }
}
