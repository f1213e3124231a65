//! A proxy before an API of AWS that misbehaves as it is told.

use super::cloudfront::Emulator;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// It answers with a status and a code, and passes nothing on.
    Refuses(u16, &'static str),
    /// It passes the request on, and answers nothing.
    ReplyLost,
    /// It closes the connection.
    Closes,
    /// It answers after a minute.
    Hangs,
    /// It passes on the first half of the answer's body, with its length set right.
    Half,
    /// It answers with more than anybody should read.
    Huge,
}

type Rule = Box<dyn FnMut(&str) -> Option<ApiFault> + Send>;

/// A proxy; it ends with this value.
pub struct ApiProxy {
    pub port: u16,
    rule: Arc<Mutex<Rule>>,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl ApiProxy {
    /// Starts a proxy that passes everything on.
    pub fn start(emulator: &Emulator) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let (heads, is_over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (of_thread, kept, over, target) = (rule.clone(), heads.clone(), is_over.clone(), emulator.port);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (rule, kept) = (of_thread.clone(), kept.clone());
                std::thread::spawn(move || drop(serve(stream, target, &rule, &kept)));
            }
        });
        Self { port, rule, heads, is_over }
    }

    /// Does from now on what a rule says of a request's first line.
    pub fn set(&self, rule: impl FnMut(&str) -> Option<ApiFault> + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Returns the first lines of the requests that begin so.
    pub fn asked(&self, beginning: &str) -> usize {
        self.heads().iter().filter(|head| head.starts_with(beginning)).count()
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Reads a head and a body of a known length.
fn read(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let (mut got, mut part) = (Vec::new(), [0; 16 << 10]);
    loop {
        let end = got.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&got[..end]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                })
                .unwrap_or(0);
            if got.len() >= end + 4 + length {
                return Ok((head, got[end + 4..].to_vec()));
            }
        }
        match stream.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => got.extend_from_slice(&part[..count]),
        }
    }
}

fn serve(
    mut client: TcpStream,
    target: u16,
    rule: &Mutex<Rule>,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    loop {
        let (head, body) = read(&mut client)?;
        let line = head.lines().next().unwrap_or_default().to_owned();
        heads.lock().unwrap().push(head.clone());
        let fault = (rule.lock().unwrap())(&line);
        match fault {
            Some(ApiFault::Closes) => return client.shutdown(Shutdown::Both),
            Some(ApiFault::Hangs) => {
                std::thread::sleep(Duration::from_secs(60));
                return Ok(());
            }
            Some(ApiFault::Refuses(status, code)) => {
                let body = format!(
                    "<ErrorResponse><Error><Code>{code}</Code><Message>told to</Message></Error></ErrorResponse>"
                );
                let length = body.len();
                write!(client, "HTTP/1.1 {status} No\r\nContent-Length: {length}\r\n\r\n{body}")?;
                continue;
            }
            Some(ApiFault::Huge) => {
                write!(client, "HTTP/1.1 200 OK\r\nETag: E\r\nContent-Length: 1000000000\r\n\r\n")?;
                let part = vec![b' '; 1 << 20];
                loop {
                    client.write_all(&part)?;
                }
            }
            _ => {}
        }
        let mut server = TcpStream::connect(("127.0.0.1", target))?;
        server.write_all(format!("{head}\r\n\r\n").as_bytes())?;
        server.write_all(&body)?;
        let (head, mut body) = read(&mut server)?;
        match fault {
            Some(ApiFault::ReplyLost) => return client.shutdown(Shutdown::Both),
            Some(ApiFault::Half) => body.truncate(body.len() / 2),
            _ => {}
        }
        let others = |line: &&str| !line.to_ascii_lowercase().starts_with("content-length:");
        let head: Vec<&str> = head.lines().filter(others).collect();
        write!(client, "{}\r\nContent-Length: {}\r\n\r\n", head.join("\r\n"), body.len())?;
        client.write_all(&body)?;
    }
}
