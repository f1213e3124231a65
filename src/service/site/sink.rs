//! The sink of a drill: everything that the shop calls by a name ends here, and is counted.
//!
//! It takes mails as a mail server would, so that a shop that sends one goes on. It answers a request in the clear with
//! 503 and closes what is encrypted: nobody is told that a payment was made. Programs that call it are not trusted:
//! lines, connections and what is kept are bounded.

use super::root::OWN;
use crate::support::lock::lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The address that each name has: of a network that is nobody's (RFC 2544).
pub(super) const SINK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const MAIL_PORTS: [u16; 3] = [25, 587, 2525];
const WEB_PORTS: [u16; 4] = [80, 8000, 8080, 8888];
/// Encrypted ports, of mails and of the web.
const CLOSED_PORTS: [u16; 3] = [443, 465, 8443];
/// Maximum number of different names that are kept, and of connections at a time.
const NAMES_MAX: usize = 200;
const CONNECTIONS_MAX: usize = 64;
const LINE_MAX_BYTES: u64 = 8 << 10;
const MAIL_MAX_BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(30);
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What the programs of a drill asked for and called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Names, with the number of questions.
    pub names: BTreeMap<String, u64>,
    /// Questions for further names.
    pub more_names: u64,
    /// Connections to the sink's ports.
    pub connections: BTreeMap<u16, u64>,
    /// Mails, to a mail server and to this host's `sendmail`.
    pub mails: u64,
}

/// What is counted.
#[derive(Default)]
pub(super) struct Counts(Seen);

impl Counts {
    pub fn name(&mut self, name: &str) {
        let names = &mut self.0.names;
        match names.contains_key(name) || names.len() < NAMES_MAX {
            true => *names.entry(name.to_owned()).or_default() += 1,
            false => self.0.more_names += 1,
        }
    }

    /// Returns all that was counted, with the mails that were given to `sendmail`.
    pub fn seen(&self) -> Seen {
        let given = std::fs::read_dir(mail_dir()).map_or(0, |all| all.flatten().count() as u64);
        Seen { mails: self.0.mails + given, ..self.0.clone() }
    }
}

/// Where `sendmail` puts what it is given: a file each.
pub(super) fn mail_dir() -> PathBuf {
    PathBuf::from(OWN).join("mail")
}

/// The program that is this host's `sendmail` in a drill.
pub(super) fn sendmail() -> String {
    format!("#!/bin/sh\numask 077\nexec cat >\"$(mktemp {}/XXXXXXXXXX)\"\n", mail_dir().display())
}

/// Listens at the sink's ports but for those that are the shop's, as long as this process lives.
pub(super) fn start(of_shop: &[u16], counts: &Arc<Mutex<Counts>>) -> std::io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let ports = MAIL_PORTS.into_iter().chain(WEB_PORTS).chain(CLOSED_PORTS);
    for port in ports.filter(|port| !of_shop.contains(port)) {
        let listener = TcpListener::bind((SINK, port))?;
        let (counts, open) = (counts.clone(), open.clone());
        let serve = move || {
            for stream in listener.incoming().flatten() {
                *lock(&counts).0.connections.entry(port).or_default() += 1;
                if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (counts, leaves) = (counts.clone(), open.clone());
                let talk = move || {
                    // Whoever goes away in the middle is counted already.
                    let _ = converse(&stream, port, &counts);
                    leaves.fetch_sub(1, Ordering::SeqCst);
                };
                if std::thread::Builder::new().name("sink".into()).spawn(talk).is_err() {
                    open.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        std::thread::Builder::new().name("sink".into()).spawn(serve)?;
    }
    Ok(())
}

fn converse(stream: &TcpStream, port: u16, counts: &Mutex<Counts>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut writer = stream;
    if MAIL_PORTS.contains(&port) {
        return take_mails(&mut BufReader::new(stream), &mut writer, &mut || lock(counts).0.mails += 1);
    }
    if WEB_PORTS.contains(&port) {
        let mut reader = BufReader::new(stream);
        // The head of the request; else its sender may see a reset in place of the answer.
        while line(&mut reader)?.is_some_and(|line| !line.is_empty()) {}
        return writer.write_all(UNAVAILABLE);
    }
    Ok(())
}

/// Reads a line; none at the end.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        line.pop();
    }
    Ok(Some(line))
}

/// Takes mails as a server of SMTP does, and keeps none.
fn take_mails(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    taken: &mut dyn FnMut(),
) -> std::io::Result<()> {
    writer.write_all(b"220 understudy ESMTP\r\n")?;
    while let Some(said) = line(reader)? {
        let verb = said.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match &verb[..] {
            b"EHLO" => b"250-understudy\r\n250 8BITMIME\r\n",
            b"AUTH" => b"235 2.7.0 ok\r\n",
            b"DATA" => {
                writer.write_all(b"354 go on\r\n")?;
                let mut bytes = 0;
                loop {
                    let Some(part) = line(reader)? else { return Ok(()) };
                    bytes += part.len() as u64;
                    if part == b"." {
                        break;
                    }
                    if bytes > MAIL_MAX_BYTES {
                        return Ok(());
                    }
                }
                taken();
                b"250 2.0.0 taken\r\n"
            }
            b"QUIT" => {
                writer.write_all(b"221 2.0.0 bye\r\n")?;
                return Ok(());
            }
            b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => b"250 2.0.0 ok\r\n",
            _ => b"502 5.5.1 not here\r\n",
        };
        writer.write_all(answer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(said: &str) -> (u32, String) {
        let (mut mails, mut answers) = (0, Vec::new());
        take_mails(&mut BufReader::new(said.as_bytes()), &mut answers, &mut || mails += 1).unwrap();
        (mails, String::from_utf8(answers).unwrap())
    }

    #[test]
    fn a_mail_is_counted_once_its_end_was_seen() {
        let letter = "MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nSubject: x\r\n\r\nQUIT\r\n..\r\n.\r\n";
        let (mails, answers) = talk(&format!("EHLO shop\r\n{letter}{letter}QUIT\r\nMAIL FROM:<c@z>\r\n"));
        assert_eq!(mails, 2, "{answers}");
        assert!(answers.ends_with("221 2.0.0 bye\r\n"), "{answers}");
        assert_eq!(talk("DATA\r\nhalf").0, 0);
        assert!(talk("STARTTLS\r\n").1.contains("502"));
    }

    #[test]
    fn no_more_names_are_kept_than_fit_and_the_others_are_counted() {
        let mut counts = Counts::default();
        (0..NAMES_MAX + 5).for_each(|number| counts.name(&format!("{number}.example")));
        counts.name("0.example");
        let seen = counts.0;
        assert_eq!((seen.names.len(), seen.more_names, seen.names["0.example"]), (NAMES_MAX, 5, 2));
    }
}
