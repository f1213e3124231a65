//! A small web server that says who it is, as a host of a store does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time that a request for `/slow` takes.
pub const SLOW: Duration = Duration::from_secs(3);

/// A web server on loopback; it ends with this value.
pub struct Origin {
    pub port: u16,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    /// Further lines of each answer's head.
    head: Mutex<String>,
    /// Heads of the requests.
    heads: Mutex<Vec<String>>,
    /// Number of requests that have begun.
    begun: AtomicUsize,
    is_over: AtomicBool,
}

impl Origin {
    pub fn start(name: &str) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), name)
    }

    pub fn start_at(address: SocketAddr, name: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            head: Mutex::default(),
            heads: Mutex::default(),
            begun: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = of_thread.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, address, shared }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Gives the following answers further lines of their head.
    pub fn set_head(&self, lines: &str) {
        *self.shared.head.lock().unwrap() = lines.to_owned();
    }

    /// Returns the heads of the requests until now.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// Returns the number of requests that have begun.
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers the requests of one connection until the client closes it.
fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut got = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        got.extend_from_slice(&part[..count]);
        while let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let request = String::from_utf8_lossy(&got[..end]).into_owned();
            got.drain(..end + 4);
            shared.begun.fetch_add(1, Ordering::SeqCst);
            shared.heads.lock().unwrap().push(request.clone());
            if request.starts_with("GET /slow") {
                std::thread::sleep(SLOW);
            }
            let (name, head) = (&shared.name, shared.head.lock().unwrap().clone());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{head}\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}
