//! The resolver of a drill: it answers every name with the sink's address, and counts what is asked.
//!
//! Questions come from programs that are not trusted: each is read within its packet, and what is kept is bounded.

use super::sink::{Counts, SINK};
use crate::support::lock::lock;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};

/// Where programs find it.
pub(super) const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 53);
const PACKET_MAX_BYTES: usize = 1232;
const HEADER_BYTES: usize = 12;
const NAME_MAX_BYTES: usize = 255;
const TYPE_A: u16 = 1;
const TTL_SECONDS: u32 = 1;

/// A question.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// In small letters, without the last dot.
    name: String,
    kind: u16,
    /// Where it ends in the packet.
    end: usize,
}

/// Reads the question of a packet; none where it has not exactly one.
fn question(packet: &[u8]) -> Option<Question> {
    let is_query = packet.get(2)? & 0xf8 == 0;
    let one = packet.get(4..6)? == [0, 1];
    if !is_query || !one {
        return None;
    }
    let (mut at, mut name) = (HEADER_BYTES, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        match length {
            0 => break,
            // Not shortened: there is nothing before it that it could refer to.
            64.. => return None,
            _ => {
                name.extend((!name.is_empty()).then_some(b'.'));
                name.extend(packet.get(at..at + length)?.to_ascii_lowercase());
                at += length;
            }
        }
        if name.len() > NAME_MAX_BYTES {
            return None;
        }
    }
    let kind = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
    let _class = packet.get(at + 2..at + 4)?;
    Some(Question { name: String::from_utf8_lossy(&name).into_owned(), kind, end: at + 4 })
}

fn is_this_host(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Returns the answer to a question of a packet: an address, or that there is none of this kind.
fn answer(packet: &[u8], question: &Question) -> Vec<u8> {
    let mut out = packet[..2].to_vec();
    let asked = packet[2] & 0x01;
    // An answer with authority; recursion as it was asked for, and available.
    out.extend([0x84 | asked, 0x80]);
    let has = question.kind == TYPE_A;
    out.extend([0, 1, 0, u8::from(has), 0, 0, 0, 0]);
    out.extend(&packet[HEADER_BYTES..question.end]);
    if has {
        let address = if is_this_host(&question.name) { Ipv4Addr::LOCALHOST } else { SINK };
        // The name is that of the question, of the internet.
        out.extend([0xc0, HEADER_BYTES as u8, 0, 1, 0, 1]);
        out.extend(TTL_SECONDS.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    out
}

/// Answers on a thread of its own, as long as this process lives.
pub(super) fn start(counts: &Arc<Mutex<Counts>>) -> std::io::Result<()> {
    let socket = UdpSocket::bind(ADDRESS)?;
    let counts = counts.clone();
    let serve = move || {
        let mut packet = [0; PACKET_MAX_BYTES];
        loop {
            let Ok((count, from)) = socket.recv_from(&mut packet) else { continue };
            let Some(question) = question(&packet[..count]) else { continue };
            if !is_this_host(&question.name) {
                lock(&counts).name(&question.name);
            }
            let _ = socket.send_to(&answer(&packet[..count], &question), from);
        }
    };
    std::thread::Builder::new().name("resolver".into()).spawn(serve).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend(label.as_bytes());
        }
        packet.extend([0]);
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1]);
        packet
    }

    #[test]
    fn each_name_has_the_sink_s_address_and_none_of_another_kind() {
        let packet = asked("Pay.Example", TYPE_A);
        let question = question(&packet).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("pay.example", TYPE_A));
        let answer_of = |packet: &[u8]| answer(packet, &super::question(packet).unwrap());
        let answered = answer_of(&packet);
        assert_eq!((&answered[..2], answered[7]), (&[0xab, 0xcd][..], 1));
        assert!(answered.ends_with(&SINK.octets()));
        assert!(answer_of(&asked("localhost", TYPE_A)).ends_with(&[127, 0, 0, 1]));
        let none = answer_of(&asked("pay.example", 28));
        assert_eq!((none[7], none.len()), (0, packet.len()));
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let packet = asked("a.example", TYPE_A);
        for length in 0..packet.len() {
            assert_eq!(question(&packet[..length]), None, "{length}");
        }
        let changed = |at: usize, to: u8| {
            let mut packet = packet.clone();
            packet[at] = to;
            packet
        };
        // An answer, two questions, a reference, a label beyond the packet.
        for (at, to) in [(2, 0x81), (5, 2), (12, 0xc0), (12, 63)] {
            assert_eq!(question(&changed(at, to)), None, "{at}");
        }
        let long = vec!["a".repeat(63); 5].join(".");
        assert_eq!(question(&asked(&long, TYPE_A)), None);
    }
}
