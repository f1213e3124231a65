//! The beginning of a session with a MariaDB server, as far as a door in front of one must read it. Pure and total.
//!
//! A packet is a length of three bytes, a number, and that many bytes. The server greets, the client names its user,
//! and once it is let in each command is a packet with the number 0, whose first byte says what it is.

/// Number of bytes before a packet's content.
pub(super) const HEADER_BYTES: usize = 4;
/// The content's length of a packet that another one continues.
const CONTINUED_BYTES: u32 = 0x00ff_ffff;

/// Flags of a greeting and of its answer.
const COMPRESS: u32 = 0x20;
const LOCAL_FILES: u32 = 0x80;
const PROTOCOL_41: u32 = 0x200;
const TLS: u32 = 0x800;
/// Number of bytes before the user in a client's first packet.
const BEFORE_USER_BYTES: usize = 32;
/// First byte of an error in place of a greeting.
const ERROR: u8 = 0xff;
/// Commands that make another session of one that was let in.
const CHANGE_USER: u8 = 0x11;
const RESET: u8 = 0x1f;

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub length_bytes: u32,
    pub number: u8,
}

impl Header {
    pub fn of(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, number] = bytes;
        Self { length_bytes: u32::from_le_bytes([a, b, c, 0]), number }
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, _] = self.length_bytes.to_le_bytes();
        [a, b, c, self.number]
    }
}

/// Takes out of a server's greeting what would hide a session's commands from the door, and what would have the
/// server ask the client for files. Returns whether it is a greeting; else it is an error, which is passed on.
pub(super) fn narrow(greeting: &mut [u8]) -> bool {
    if greeting.first().is_none_or(|first| *first == ERROR) {
        return false;
    }
    // A version, a text that ends with 0, the session's number, eight random bytes, a 0; then the flags' lower half.
    let Some(end) = greeting.iter().skip(1).position(|byte| *byte == 0) else { return false };
    let at = 1 + end + 1 + 4 + 8 + 1;
    let Some([low, high]) = greeting.get_mut(at..at + 2) else { return false };
    let flags = u16::from_le_bytes([*low, *high]) & !((COMPRESS | LOCAL_FILES | TLS) as u16);
    [*low, *high] = flags.to_le_bytes();
    true
}

/// Returns the user that a client's first packet names, by its content; none of one that the greeting did not offer.
pub(super) fn user(content: &[u8]) -> Option<&[u8]> {
    let flags = u32::from_le_bytes(content.get(..4)?.try_into().ok()?);
    if flags & PROTOCOL_41 == 0 || flags & (TLS | COMPRESS) != 0 {
        return None;
    }
    let rest = content.get(BEFORE_USER_BYTES..)?;
    rest.get(..rest.iter().position(|byte| *byte == 0)?)
}

/// What of a session's packets a door must remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// Whether the packet that comes continues the one before.
    is_continued: bool,
    /// Whether the client was let in and has given commands.
    is_in: bool,
}

impl Session {
    /// Looks at a client's packet, by its header and its first byte. Returns whether it may pass.
    pub fn passes(&mut self, header: Header, first: Option<u8>) -> bool {
        let continues = std::mem::replace(&mut self.is_continued, header.length_bytes == CONTINUED_BYTES);
        // What proves the password may begin with any byte, and never has the number 0.
        self.is_in |= !continues && header.number == 0;
        continues || !self.is_in || !matches!(first, Some(CHANGE_USER | RESET))
    }
}

/// Returns a packet with an error in the server's form.
pub(super) fn refusal(number: u8, code: u16, state: &str, text: &str) -> Vec<u8> {
    let [low, high] = code.to_le_bytes();
    let mut content = vec![ERROR, low, high, b'#'];
    content.extend(state.bytes().chain(text.bytes()));
    let length_bytes = content.len() as u32;
    let mut packet = Header { length_bytes, number }.bytes().to_vec();
    packet.append(&mut content);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a client's first packet.
    fn answer(flags: u32, user: &[u8]) -> Vec<u8> {
        let mut content = flags.to_le_bytes().to_vec();
        content.resize(BEFORE_USER_BYTES, 0);
        content.extend(user);
        content.extend(b"\0\x14twenty random bytes.");
        content
    }

    #[test]
    fn a_greeting_offers_neither_tls_nor_compression_nor_files() {
        let mut greeting = b"\x0a5.5.5-10.11.19-MariaDB\0\x07\0\0\0saltsalt\0".to_vec();
        let at = greeting.len();
        greeting.extend([0xfe, 0xff, 0x2d, 2, 0, 0xff, 0x81]);
        let before = greeting.clone();
        assert!(narrow(&mut greeting));
        assert_eq!(greeting[at..at + 2], [0xfe & !0xa0, !0x08]);
        assert_eq!((&greeting[..at], &greeting[at + 2..]), (&before[..at], &before[at + 2..]));
        for cut in 0..at + 2 {
            assert!(!narrow(&mut before[..cut].to_vec()), "{cut}");
        }
        let error = refusal(0, 1040, "08004", "Too many connections");
        assert!(!narrow(&mut error[HEADER_BYTES..].to_vec()));
        assert_eq!(Header::of(error[..4].try_into().unwrap()).length_bytes as usize, error.len() - 4);
    }

    #[test]
    fn a_user_is_read_only_of_what_was_offered() {
        assert_eq!(user(&answer(PROTOCOL_41, b"reader")), Some(&b"reader"[..]));
        assert_eq!(user(&answer(PROTOCOL_41, b"")), Some(&b""[..]));
        for flags in [0, TLS | PROTOCOL_41, COMPRESS | PROTOCOL_41] {
            assert_eq!(user(&answer(flags, b"reader")), None, "{flags:x}");
        }
        assert_eq!(user(&answer(PROTOCOL_41, b"reader")[..BEFORE_USER_BYTES + 6]), None);
    }

    #[test]
    fn nobody_becomes_another_user_once_they_are_in() {
        let packet = |length_bytes, number| Header { length_bytes, number };
        let mut session = Session::default();
        assert!(session.passes(packet(20, 3), Some(CHANGE_USER)), "it proves a password");
        assert!(session.passes(packet(9, 0), Some(3)));
        for number in [0, 3] {
            assert!(!session.passes(packet(9, number), Some(CHANGE_USER)));
            assert!(!session.passes(packet(1, number), Some(RESET)));
        }
        // A long statement goes on with any byte.
        assert!(session.passes(packet(CONTINUED_BYTES, 0), Some(3)));
        assert!(session.passes(packet(9, 1), Some(CHANGE_USER)));
        assert!(!session.passes(packet(9, 0), Some(CHANGE_USER)));
        assert!(!Session::default().passes(packet(9, 0), Some(CHANGE_USER)));
        assert!(session.passes(packet(0, 0), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let length = bytes.len();
            user(&bytes);
            narrow(&mut bytes);
            prop_assert_eq!(bytes.len(), length);
        }
    }
}
