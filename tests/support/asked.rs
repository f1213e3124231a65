//! A port at which a host's agents answer other members, as the daemon's does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use understudy::failover::agent::run::Agent;
use understudy::failover::peers::ASK_PATH;
use understudy::failover::peers::answer::{Answerer, AskedAgent};
use understudy::model::id::StoreName;
use understudy::support::env::Env;

/// A port on loopback; it closes with this value.
pub struct AskedPort {
    pub address: String,
    is_over: Arc<AtomicBool>,
}

impl AskedPort {
    /// Answers for one store.
    pub fn start(store: StoreName, agent: Arc<Agent>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let answerer = Answerer::new(Env::system().wall());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                answer(stream, &answerer, &store, &agent);
            }
        });
        Self { address, is_over }
    }
}

impl Drop for AskedPort {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

/// Answers the one request of a connection.
fn answer(mut stream: TcpStream, answerer: &Answerer, store: &StoreName, agent: &Arc<Agent>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        head.push(std::mem::take(&mut line).to_ascii_lowercase());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    assert!(head[0].starts_with(&format!("post {ASK_PATH} ")), "{head:?}");
    let agents = |asked: &StoreName| (asked == store).then(|| agent.clone() as Arc<dyn AskedAgent>);
    let (status, text) = match answerer.answer(&body, agents, Env::system().wall()) {
        Ok(text) => ("200 OK", text),
        Err(error) => ("403 Forbidden", error.to_string().into_bytes()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", text.len());
    let _ = stream.write_all(&[head.as_bytes(), &text].concat());
}
