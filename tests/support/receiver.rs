//! Receivers of notifications: a server of HTTP that keeps what it was sent, and a mail server.

use super::servers::free_port;
use super::wait::wait_until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A server of HTTP on a thread of its own, which ends with the test.
pub struct Receiver {
    pub port: u16,
    got: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<String>>,
}

impl Receiver {
    pub fn start() -> Self {
        Self::at(free_port())
    }

    /// Starts one at a port at which nobody answered before.
    pub fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let receiver =
            Self { port, got: Arc::default(), answer: Arc::new(Mutex::new("204 No Content".into())) };
        let (got, answer) = (receiver.got.clone(), receiver.answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = answer.lock().unwrap().clone();
                got.lock().unwrap().extend(take(stream, &answer));
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sets the first line of each answer, without the version, and perhaps headers.
    pub fn answer(&self, with: &str) {
        *self.answer.lock().unwrap() = with.to_owned();
    }

    pub fn got(&self) -> Vec<Received> {
        self.got.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_until("it is told", || self.got.lock().unwrap().len() >= count);
        self.got()
    }

    /// Returns the events of all messages, as `STATE EVENT`.
    pub fn events(&self) -> Vec<String> {
        let word = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        let bodies: Vec<_> = self.got().iter().map(Received::json).collect();
        let events = bodies.iter().flat_map(|body| body["data"]["events"].as_array().unwrap());
        events.map(|event| format!("{} {}", word(event, "state"), word(event, "event"))).collect()
    }
}

fn take(stream: TcpStream, answer: &str) -> Option<Received> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.get_mut().write_all(answer.as_bytes()).ok()?;
    let body = String::from_utf8(body).unwrap();
    answer.contains(" 20").then_some(Received { path, headers, body })
}

/// A mail server that wants TLS and a password.
pub struct MailServer {
    pub port: u16,
    pub certificate: PathBuf,
    dir: PathBuf,
    process: Child,
}

impl MailServer {
    /// Starts one that keeps its mails in `dir`.
    pub fn start(dir: &Path, user: &str, password: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        let port = free_port();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/mail_server.py");
        let process = Command::new("python3")
            .arg(program)
            .arg(port.to_string())
            .arg(dir)
            .args([user, password])
            .spawn()
            .unwrap();
        let server = Self { port, certificate, dir: dir.to_owned(), process };
        wait_until("the mail server answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    /// Returns the mails that were taken, each with its envelope, as the server's own parser reads them.
    pub fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("mails")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns what the server noted of sessions that failed.
    pub fn refused(&self) -> String {
        std::fs::read_to_string(self.dir.join("refused")).unwrap_or_default()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
