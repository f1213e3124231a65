//! The network of a drill: a loopback that is up, and to which every address belongs.
//!
//! So programs listen at the addresses that they are configured with, and whatever is called is a port of this
//! namespace. It is set up by messages to the kernel (rtnetlink); the bytes are made by pure functions.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::io;

/// Number of the loopback in a new namespace.
const LOOPBACK: u32 = 1;
const NEW_LINK: u16 = 16;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
/// Request, acknowledged; and creating.
const ASKED: u16 = 0x1 | 0x4;
const CREATE: u16 = 0x400;
const UP: u32 = 1;
const HEADER_BYTES: usize = 16;

/// Returns a message with its header.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + body.len()) as u32;
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((ASKED | flags).to_ne_bytes());
    // Its number, and the sender, whom the kernel knows.
    out.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(body);
    out
}

/// Returns the message that brings the loopback up.
fn up() -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(LOOPBACK.to_ne_bytes());
    // What is set, and which of it is changed.
    body.extend(UP.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    message(NEW_LINK, 0, &body)
}

/// Returns the message by which every address of a family is this host's.
fn everything_is_here(family: AddressFamily) -> Vec<u8> {
    const TABLE_LOCAL: u8 = 255;
    const BY_ADMINISTRATOR: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const OUT: u16 = 4;
    let family = family.as_raw() as u8;
    // Prefixes of no length; no flags.
    let mut body = vec![family, 0, 0, 0, TABLE_LOCAL, BY_ADMINISTRATOR, SCOPE_HOST, LOCAL, 0, 0, 0, 0];
    body.extend(8u16.to_ne_bytes());
    body.extend(OUT.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    message(NEW_ROUTE, CREATE, &body)
}

/// Returns the error number in an answer; 0 for none.
fn errno(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(HEADER_BYTES..HEADER_BYTES + 4)?.try_into().ok()?);
    (kind == ERROR).then_some(-code)
}

/// Sets the network of this process's namespace up, which is a new one.
pub(super) fn set_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let tell = |message: Vec<u8>| -> io::Result<()> {
        send(&socket, &message, SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (_, count) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        match errno(&answer[..count.min(4096)]) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(io::Error::other("the kernel's answer is not understood")),
        }
    };
    tell(up())?;
    tell(everything_is_here(AddressFamily::INET))?;
    // A kernel may be without IPv6, which then leads nowhere.
    let _ = tell(everything_is_here(AddressFamily::INET6));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let up = up();
        assert_eq!((up.len(), up[0], up[4], up[6]), (32, 32, 16, 5));
        let route = everything_is_here(AddressFamily::INET);
        assert_eq!((route.len(), &route[16..20], route[20]), (36, &[2, 0, 0, 0][..], 255));
    }

    #[test]
    fn an_answer_is_an_error_number_or_is_not_understood() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; 4];
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(HEADER_BYTES, 0);
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(errno(&answer(ERROR, -17)), Some(17));
        assert_eq!(errno(&answer(ERROR, 0)), Some(0));
        assert_eq!((errno(&answer(16, 0)), errno(&[]), errno(&[0; 18])), (None, None, None));
    }
}
