//! A door in front of a server of ours, which has no network and keeps none: for reports, and for a drill's command.
//!
//! Whoever comes is brought to the server's own socket if they name the one account that it is for, and turned away
//! otherwise: the accounts that a seed brought along, root's among them, do not pass, whatever their passwords are.
//! The password is proved to the server itself; the door does not learn it. Nothing here is encrypted, so that only
//! this host and private networks are let in.
//!
//! What can race: a client that gives commands before the server has let it in. The server refuses packets out of
//! their order, and no command passes that makes another user of a session. When the door is closed, each session
//! that came through it is cut.

use super::client::is_near;
use super::handshake::{HEADER_BYTES, Header, Session, narrow, refusal, user};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Time for the greeting and the client's first packet.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// Maximum size of either.
const GREETING_MAX_BYTES: u32 = 16 << 10;
const PAUSE: Duration = Duration::from_millis(100);
/// Mode of a socket for programs of any user: the password decides.
const SOCKET_MODE: u32 = 0o666;
/// Number of bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Where a door is, and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DoorPlace {
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
    /// The account that is let in.
    pub account: &'static str,
    /// Number of clients at a time.
    pub clients: u32,
}

/// An open door. It is closed when it is dropped.
pub(super) struct Door {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    seats: Arc<Semaphore>,
    count: usize,
    socket: Option<PathBuf>,
}

impl Door {
    /// Opens the door to the server at a socket.
    ///
    /// # Errors
    /// What it is to listen at is taken, or cannot be made.
    pub fn open(place: &DoorPlace, server: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let count = place.clients as usize;
        let seats = Arc::new(Semaphore::new(count));
        let room = Room { server: server.to_owned(), account: place.account, seats: seats.clone() };
        let (tcp, unix) = runtime.block_on(async {
            let tcp = match place.listen {
                Some(address) => Some(TcpListener::bind(address).await?),
                None => None,
            };
            Ok::<_, io::Error>((tcp, place.socket.as_deref().map(at_socket).transpose()?))
        })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("database-reports".into()).spawn(move || {
            runtime.block_on(async {
                if let Some(listener) = tcp {
                    tokio::spawn(room.clone().serve_tcp(listener));
                }
                if let Some(listener) = unix {
                    tokio::spawn(room.serve_unix(listener));
                }
                let _ = stopped.await;
            });
            // The sessions end with the runtime.
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), seats, count, socket: place.socket.clone() })
    }

    /// Returns the number of clients that are connected.
    pub fn clients(&self) -> usize {
        self.count.saturating_sub(self.seats.available_permits())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Listens at a path, in place of a socket that nobody listens at any more.
fn at_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ErrorKind::AddrInUse.into());
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// What every client is brought to.
#[derive(Clone)]
struct Room {
    server: PathBuf,
    account: &'static str,
    seats: Arc<Semaphore>,
}

impl Room {
    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) if is_let_in(peer.ip()) => {
                    let _ = stream.set_nodelay(true);
                    self.receive(stream);
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn serve_unix(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.receive(stream),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn receive(&self, mut client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (server, account) = (self.server.clone(), self.account);
        let seat = self.seats.clone().try_acquire_owned();
        tokio::spawn(async move {
            let Ok(seat) = seat else {
                let full = refusal(0, 1040, "08004", "Too many connections");
                return client.write_all(&full).await;
            };
            // Whoever breaks off is not reported.
            bring(client, &server, account, seat).await
        });
    }
}

/// Returns whether what is said to an address is not read on its way.
fn is_let_in(peer: IpAddr) -> bool {
    is_near(&peer.to_canonical().to_string())
}

/// Brings a client to the server, and passes on what both say.
async fn bring(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    server: &Path,
    account: &str,
    _seat: OwnedSemaphorePermit,
) -> io::Result<()> {
    let greeted = tokio::time::timeout(GREETING_LIMIT, greet(&mut client, server, account));
    let Some(mut server) = greeted.await?? else { return client.flush().await };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        ended = commands(&mut from_client, &mut to_server) => ended,
        ended = tokio::io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}

/// Passes the greeting and the client's first packet on, if that names the account; else there is no server.
async fn greet(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &Path,
    account: &str,
) -> io::Result<Option<UnixStream>> {
    let mut server = UnixStream::connect(server).await?;
    let (header, mut greeting) = packet(&mut server).await?;
    let is_greeting = narrow(&mut greeting);
    client.write_all(&header).await?;
    client.write_all(&greeting).await?;
    if !is_greeting {
        return Ok(None);
    }
    let (header, answer) = packet(client).await?;
    if user(&answer) != Some(account.as_bytes()) {
        let text = format!("Access denied; only '{account}' is let in here, without TLS and compression");
        let refused = refusal(Header::of(header).number.wrapping_add(1), 1045, "28000", &text);
        client.write_all(&refused).await?;
        return Ok(None);
    }
    server.write_all(&header).await?;
    server.write_all(&answer).await?;
    Ok(Some(server))
}

/// Reads a packet of a greeting.
async fn packet(from: &mut (impl AsyncRead + Unpin)) -> io::Result<([u8; HEADER_BYTES], Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let length_bytes = Header::of(header).length_bytes;
    if length_bytes > GREETING_MAX_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length_bytes as usize];
    from.read_exact(&mut content).await?;
    Ok((header, content))
}

/// Passes a client's packets on, until one comes that may not pass.
async fn commands(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut session, mut piece) = (Session::default(), vec![0; PIECE_BYTES]);
    loop {
        let mut bytes = [0; HEADER_BYTES];
        client.read_exact(&mut bytes).await?;
        let header = Header::of(bytes);
        let mut left = header.length_bytes as usize;
        let read = client.read_exact(&mut piece[..left.min(1)]).await?;
        if !session.passes(header, piece.first().copied().filter(|_| read > 0)) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        server.write_all(&bytes).await?;
        server.write_all(&piece[..read]).await?;
        left -= read;
        while left > 0 {
            let most = left.min(PIECE_BYTES);
            let read = client.read(&mut piece[..most]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            server.write_all(&piece[..read]).await?;
            left -= read;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_and_private_networks_are_let_in() {
        for (peer, is_in) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::7", true),
            ("203.0.113.9", false),
            ("::ffff:203.0.113.9", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_let_in(peer.parse().unwrap()), is_in, "{peer}");
        }
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_taken_over_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.sock");
        let socket = Some(path.clone());
        let reports = DoorPlace { listen: None, socket, account: "reader", clients: 1 };
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let door = Door::open(&reports, Path::new("/nowhere")).unwrap();
        assert_eq!(Door::open(&reports, Path::new("/nowhere")).err().unwrap().kind(), ErrorKind::AddrInUse);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(door.clients(), 0);
        drop(door);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(Door::open(&reports, Path::new("/nowhere")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
