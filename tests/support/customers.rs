//! Customers who go on asking while something is changed, and count what they lose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// An answer as a customer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub status: u16,
    /// The values of `X-Understudy-Epoch`, in order.
    pub epochs: Vec<String>,
    pub body: String,
}

/// Asks once over a connection of its own.
pub fn ask(port: u16, path: &str) -> std::io::Result<Seen> {
    ask_on(&mut connect(port)?, path)
}

fn connect(port: u16) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(BufReader::new(stream))
}

fn ask_on(stream: &mut BufReader<TcpStream>, path: &str) -> std::io::Result<Seen> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut epochs, mut length) = (String::new(), Vec::new(), 0);
    let cut = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    if stream.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::NotConnected.into());
    }
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(cut());
        }
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-understudy-epoch" => epochs.push(value.to_owned()),
            "content-length" => length = value.parse().map_err(|_| cut())?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Seen { status, epochs, body: String::from_utf8_lossy(&body).into_owned() })
}

/// What one customer got, in order.
pub type Answers = Vec<Result<Seen, String>>;

/// Customers at a port: one with a connection for each request, one who keeps a connection.
pub struct Customers {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Answers>>,
}

impl Customers {
    pub fn at(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ask_always: [fn(u16, &AtomicBool) -> Answers; 2] = [ask_anew, ask_again];
        let threads = ask_always
            .into_iter()
            .map(|asks| {
                let is_over = is_over.clone();
                std::thread::spawn(move || asks(port, &is_over))
            })
            .collect();
        Self { is_over, threads }
    }

    /// Ends and returns each customer's answers, in order.
    pub fn end(self) -> Vec<Answers> {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

const PAUSE: Duration = Duration::from_millis(5);

fn ask_anew(port: u16, is_over: &AtomicBool) -> Answers {
    let mut seen = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        seen.push(ask(port, "/").map_err(|error| error.to_string()));
        std::thread::sleep(PAUSE);
    }
    seen
}

/// A connection that the server closed between two requests is opened again, as every browser does.
fn ask_again(port: u16, is_over: &AtomicBool) -> Answers {
    let mut seen = Vec::new();
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !is_over.load(Ordering::SeqCst) {
        let again = kept.as_mut().map(|kept| ask_on(kept, "/"));
        let answer = match again {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => connect(port).and_then(|mut stream| {
                let answer = ask_on(&mut stream, "/");
                kept = Some(stream);
                answer
            }),
        };
        seen.push(answer.map_err(|error| error.to_string()));
        std::thread::sleep(PAUSE);
    }
    seen
}
