//! Events of a MariaDB server's binary log, as they lie in its files: headers, checksums, and where a transaction
//! ends. What is in a row is not looked at.
//!
//! Only what belongs into a file passes. A heartbeat, or an event that a server makes up for a replica, is an
//! error, and so is an event that does not end where the file says: nothing can be left out or put in between
//! unnoticed. MariaDB 11.8 does not say where the events between the first and the last one of a transaction end; the
//! last one still says it for all of them. Pure; whatever the bytes are, they are events or an error.
//!
//! The server clears the mark "in use" in a file's first event when it closes the file, so its checksum is that of
//! the event without the mark. [`Format`] holds it without.

use crate::model::gtid::{DomainId, Gtid, GtidPosition, ServerId};
use crate::support::failure::{Failure, FailureKind};
use thiserror::Error;

/// First bytes of a file.
pub const FILE_MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// Size of an event's header: time, type, server, length, end, flags.
pub const EVENT_HEADER_BYTES: usize = 19;
/// Maximum size of an event. Rows are cut into events of 8 KiB; only a row that is larger makes a larger one.
pub const EVENT_MAX_BYTES: usize = 256 << 20;
/// Size of an event's checksum.
const CHECKSUM_BYTES: usize = 4;
/// The flag of a file that its server has not closed.
const IN_USE: u8 = 1;
/// The flag of an event that a server made up for a replica.
const ARTIFICIAL: u16 = 0x20;
/// The flag of a transaction that is one event.
const STANDALONE: u8 = 1;
/// Size of the fields of a statement that precede its variables.
const QUERY_BYTES: usize = 13;
/// Maximum number of transactions that a file's list names.
const LIST_MAX: usize = 1 << 20;

/// The types of events that are told apart.
pub(super) mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT: u8 = 15;
    pub const XID: u8 = 16;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const XA_PREPARE: u8 = 38;
    pub const ANNOTATE: u8 = 160;
    pub const CHECKPOINT: u8 = 161;
    pub const GTID: u8 = 162;
    pub const GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
    pub const QUERY_COMPRESSED: u8 = 165;
}

/// Reason why bytes are no event, or none that has its place there.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EventError {
    #[error("an event is cut off")]
    Cut,
    #[error("an event of {0} bytes is larger than {EVENT_MAX_BYTES}, the most that is read")]
    Large(u64),
    #[error("an event of type {0} does not have its checksum")]
    Checksum(u8),
    #[error("it does not begin as a binary log of MariaDB 10.11 or later does")]
    Format,
    #[error("an event of type {0} is a server's message to a replica, and belongs into no file")]
    Message(u8),
    #[error("an event ends at {found}, and not at {expected}: something is missing before it, or added")]
    Place { found: u32, expected: u32 },
    #[error("an event of type {0} belongs to no transaction")]
    Stray(u8),
    #[error("transaction {0} is not ended")]
    Unended(Gtid),
    #[error("transaction {found} does not follow {last}")]
    Order { found: Gtid, last: Gtid },
    #[error("it is encrypted")]
    Encrypted,
    #[error("the server says there that it has lost events")]
    Incident,
}

impl Failure for EventError {
    fn kind(&self) -> FailureKind {
        FailureKind::Damaged
    }
}

/// Whether events end with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    None,
    Crc32,
}

/// An event as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub time_s: u32,
    pub kind: u8,
    pub server: ServerId,
    /// Where it ends in its file, in 32 bits.
    pub end: u32,
    pub flags: u16,
    /// The event without header and checksum.
    pub body: &'a [u8],
}

/// Returns the length of an event by its header.
pub fn event_bytes(header: &[u8; EVENT_HEADER_BYTES]) -> Result<usize, EventError> {
    let [_, _, _, _, _, _, _, _, _, a, b, c, d, ..] = *header;
    match u32::from_le_bytes([a, b, c, d]) as usize {
        length if length < EVENT_HEADER_BYTES => Err(EventError::Cut),
        length if length > EVENT_MAX_BYTES => Err(EventError::Large(length as u64)),
        length => Ok(length),
    }
}

/// Splits the first event off.
pub fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), EventError> {
    let header = bytes.first_chunk().ok_or(EventError::Cut)?;
    bytes.split_at_checked(event_bytes(header)?).ok_or(EventError::Cut)
}

/// Takes little-endian fields.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], EventError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(EventError::Cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, EventError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, EventError> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}

impl<'a> Event<'a> {
    /// Parses one whole event, and checks its checksum.
    pub fn parse(bytes: &'a [u8], checksum: Checksum) -> Result<Self, EventError> {
        let mut fields = Fields(bytes);
        let (time_s, [kind]) = (fields.u32()?, fields.take()?);
        let (server, length) = (ServerId(fields.u32()?), fields.u32()?);
        let (end, flags) = (fields.u32()?, u16::from_le_bytes(fields.take()?));
        if length as usize != bytes.len() {
            return Err(EventError::Cut);
        }
        let mut body = fields.0;
        if checksum == Checksum::Crc32 {
            let at = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|at| *at >= EVENT_HEADER_BYTES);
            let (covered, sum) = bytes.split_at(at.ok_or(EventError::Cut)?);
            if crc32(covered).to_le_bytes() != *sum {
                return Err(EventError::Checksum(kind));
            }
            body = &covered[EVENT_HEADER_BYTES..];
        }
        Ok(Self { time_s, kind, server, end, flags, body })
    }

    /// Returns the transaction that begins here, and whether it is one event.
    pub(super) fn gtid(&self) -> Result<(Gtid, bool), EventError> {
        let mut fields = Fields(self.body);
        let (number, domain, [flags]) = (fields.u64()?, DomainId(fields.u32()?), fields.take()?);
        Ok((Gtid { domain, server: self.server, number }, flags & STANDALONE != 0))
    }

    /// Returns the state at the beginning of a file; none if this is another event.
    pub fn list(&self) -> Result<Option<GtidPosition>, EventError> {
        if self.kind != kind::GTID_LIST {
            return Ok(None);
        }
        let mut fields = Fields(self.body);
        let count = (fields.u32()? & 0x0fff_ffff) as usize;
        if count > LIST_MAX {
            return Err(EventError::Large(count as u64));
        }
        let gtids = (0..count).map(|_| {
            let (domain, server) = (DomainId(fields.u32()?), ServerId(fields.u32()?));
            Ok(Gtid { domain, server, number: fields.u64()? })
        });
        gtids.collect::<Result<GtidPosition, _>>().map(Some)
    }

    /// Returns whether this event may precede others of a transaction that ends with one event.
    pub(super) fn is_part(&self) -> bool {
        matches!(self.kind, kind::INTVAR | kind::RAND | kind::USER_VAR | kind::ANNOTATE)
    }

    /// Returns whether this event ends a transaction of several events.
    pub(super) fn is_end(&self) -> bool {
        match self.kind {
            kind::XID | kind::XA_PREPARE => true,
            kind::QUERY => self.body.ends_with(b"\0COMMIT") || self.body.ends_with(b"\0ROLLBACK"),
            _ => false,
        }
    }

    /// Returns when a transaction that ends here was committed, as far as it is known: when its last statement
    /// began, and for a statement by itself, how long that took.
    fn committed_s(&self) -> u32 {
        let took_s = match (self.kind, self.body.get(4..8)) {
            (kind::QUERY | kind::QUERY_COMPRESSED, Some(&[a, b, c, d])) if self.body.len() >= QUERY_BYTES => {
                u32::from_le_bytes([a, b, c, d])
            }
            _ => 0,
        };
        self.time_s.saturating_add(took_s)
    }
}

/// A file's first event, without the mark "in use".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
}

impl Format {
    /// Parses a file's first event.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        let format = Self::of(bytes)?;
        // What was made up for a replica ends nowhere.
        match format.bytes.get(13..17) {
            Some(end) if *end != [0; 4] => Ok(format),
            _ => Err(EventError::Format),
        }
    }

    /// Parses the same event as a replica has received it.
    pub(super) fn received(bytes: &[u8]) -> Result<Self, EventError> {
        Self::of(bytes)
    }

    fn of(bytes: &[u8]) -> Result<Self, EventError> {
        let mut bytes = bytes.to_vec();
        if bytes.get(4) != Some(&kind::FORMAT) {
            return Err(EventError::Format);
        }
        if let Some(flags) = bytes.get_mut(17) {
            *flags &= !IN_USE;
        }
        let event = Event::parse(&bytes, Checksum::Crc32)?;
        // Version 4, and the length of headers.
        let is_known = event.body.starts_with(&[4, 0]) && event.body.get(56) == Some(&19);
        let checksum = match event.body.last() {
            Some(0) if is_known => Checksum::None,
            Some(1) if is_known => Checksum::Crc32,
            _ => return Err(EventError::Format),
        };
        Ok(Self { bytes, checksum })
    }

    /// Returns where a file's second event begins.
    pub fn end(&self) -> u64 {
        (FILE_MAGIC.len() + self.bytes.len()) as u64
    }
}

/// A transaction that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    pub gtid: Gtid,
    pub is_standalone: bool,
}

/// A transaction that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub gtid: Gtid,
    /// When it was committed, in seconds since 1970, by the server's clock.
    pub committed_s: u32,
}

/// What an event does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It belongs to the file, and to no transaction. The list at its beginning names the last transactions.
    File(Option<GtidPosition>),
    Begins(Gtid),
    Inside,
    Ends(Ended),
}

/// Walks through the events of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    pub checksum: Checksum,
    /// Where the next event begins.
    pub offset_bytes: u64,
    pub begun: Option<Begun>,
}

impl Walk {
    /// Takes the next event.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Step, EventError> {
        let event = Event::parse(bytes, self.checksum)?;
        if event.kind == kind::HEARTBEAT || event.flags & ARTIFICIAL != 0 {
            return Err(EventError::Message(event.kind));
        }
        let next = self.offset_bytes + bytes.len() as u64;
        let is_unsaid =
            event.end == 0 && !event.is_end() && self.begun.is_some_and(|begun| !begun.is_standalone);
        // A file may be larger than the field, which keeps the lower half.
        if event.end != next as u32 && !is_unsaid {
            return Err(EventError::Place { found: event.end, expected: next as u32 });
        }
        let step = self.step(&event)?;
        self.offset_bytes = next;
        Ok(step)
    }

    fn step(&mut self, event: &Event) -> Result<Step, EventError> {
        let of_file = matches!(
            event.kind,
            kind::STOP | kind::ROTATE | kind::FORMAT | kind::CHECKPOINT | kind::GTID_LIST | kind::GTID
        );
        match (event.kind, self.begun) {
            (kind::START_ENCRYPTION, _) => Err(EventError::Encrypted),
            (kind::INCIDENT, _) => Err(EventError::Incident),
            // A file begins once.
            (kind::FORMAT, _) => Err(EventError::Stray(kind::FORMAT)),
            (_, Some(begun)) if of_file => Err(EventError::Unended(begun.gtid)),
            (kind::GTID, None) => {
                let (gtid, is_standalone) = event.gtid()?;
                self.begun = Some(Begun { gtid, is_standalone });
                Ok(Step::Begins(gtid))
            }
            (_, None) if of_file => Ok(Step::File(event.list()?)),
            (other, None) => Err(EventError::Stray(other)),
            (_, Some(Begun { gtid, is_standalone })) => {
                let ends = if is_standalone { !event.is_part() } else { event.is_end() };
                if !ends {
                    return Ok(Step::Inside);
                }
                self.begun = None;
                Ok(Step::Ends(Ended { gtid, committed_s: event.committed_s() }))
            }
        }
    }
}

/// Moves a position on by a transaction, which must follow.
pub fn advance(position: &mut GtidPosition, gtid: Gtid) -> Result<(), EventError> {
    position.advance(gtid).map_err(|last| EventError::Order { found: gtid, last })
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// Returns the CRC-32 of zlib.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| TABLE[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns an event that begins at `offset`, with its checksum.
    pub fn event(kind: u8, server: u32, time_s: u32, flags: u16, offset: u64, body: &[u8]) -> Vec<u8> {
        let length = EVENT_HEADER_BYTES + body.len() + CHECKSUM_BYTES;
        let mut bytes = time_s.to_le_bytes().to_vec();
        bytes.push(kind);
        for field in [server, length as u32, (offset + length as u64) as u32] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(flags.to_le_bytes());
        bytes.extend(body);
        let sum = crc32(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    /// Returns the first event of a file.
    pub fn format_event() -> Vec<u8> {
        let mut body = vec![0; 233];
        (body[0], body[56]) = (4, 19);
        body[232] = 1;
        event(kind::FORMAT, 11, 1_800_000_000, 0, 4, &body)
    }

    pub fn gtid_body(number: u64, domain: u32, flags: u8) -> Vec<u8> {
        let mut body = number.to_le_bytes().to_vec();
        body.extend(domain.to_le_bytes());
        body.extend([flags, 0, 0, 0, 0, 0, 0]);
        body
    }

    /// Returns a transaction of these rows, each of `row_bytes`.
    pub fn transaction(offset: u64, number: u64, rows: usize, row_bytes: usize) -> Vec<u8> {
        let time_s = 1_800_000_000 + number as u32;
        let mut bytes = event(kind::GTID, 11, time_s, 0, offset, &gtid_body(number, 1, 0));
        for row in 0..rows {
            let at = offset + bytes.len() as u64;
            bytes.extend(event(23, 11, time_s, 0, at, &vec![row as u8; row_bytes]));
        }
        let at = offset + bytes.len() as u64;
        bytes.extend(event(kind::XID, 11, time_s, 0, at, &number.to_le_bytes()));
        bytes
    }

    fn walk() -> Walk {
        Walk { checksum: Checksum::Crc32, offset_bytes: 256, begun: None }
    }

    fn steps(walk: &mut Walk, mut bytes: &[u8]) -> Result<Vec<Step>, EventError> {
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            let (event, rest) = split(bytes)?;
            steps.push(walk.take(event)?);
            bytes = rest;
        }
        Ok(steps)
    }

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_transaction_ends_with_its_last_event_and_a_statement_with_itself() {
        let rows = transaction(256, 7, 2, 30);
        let ended = Ended { gtid: "1-11-7".parse().unwrap(), committed_s: 1_800_000_007 };
        let gtid = ended.gtid;
        let wanted = vec![Step::Begins(gtid), Step::Inside, Step::Inside, Step::Ends(ended)];
        assert_eq!(steps(&mut walk(), &rows), Ok(wanted));
        // A statement: its variables first, then itself, which took three seconds.
        let mut body = vec![0; 13];
        body[4] = 3;
        body.extend(b"\0ALTER TABLE t");
        let mut bytes = event(kind::GTID, 11, 5, 0, 256, &gtid_body(8, 1, STANDALONE));
        for (kind, body) in [(kind::INTVAR, &[0; 9][..]), (kind::QUERY, &body)] {
            let at = 256 + bytes.len() as u64;
            bytes.extend(event(kind, 11, 5, 0, at, body));
        }
        let found = steps(&mut walk(), &bytes).unwrap();
        assert_eq!(
            found[1..],
            [Step::Inside, Step::Ends(Ended { gtid: "1-11-8".parse().unwrap(), committed_s: 8 })]
        );
        for (text, ends) in [(&b"\0COMMIT"[..], true), (b"\0ROLLBACK", true), (b"\0SAVEPOINT COMMIT", false)]
        {
            let mut bytes = event(kind::GTID, 11, 5, 0, 256, &gtid_body(8, 1, 0));
            let body = [&[0; 13][..], text].concat();
            bytes.extend(event(kind::QUERY, 11, 5, 0, 256 + bytes.len() as u64, &body));
            let mut walk = walk();
            steps(&mut walk, &bytes).unwrap();
            assert_eq!(walk.begun.is_none(), ends, "{text:?}");
        }
    }

    #[test]
    fn heartbeats_and_artificial_events_never_pass() {
        for (kind, flags) in [(kind::HEARTBEAT, 0), (kind::ROTATE, ARTIFICIAL), (kind::GTID_LIST, ARTIFICIAL)]
        {
            let bytes = event(kind, 11, 0, flags, 256, &[0; 12]);
            assert_eq!(walk().take(&bytes), Err(EventError::Message(kind)));
        }
        // What a server sends at the start of a stream ends nowhere.
        let mut bytes = event(kind::ROTATE, 11, 0, 0, 256, b"\x04\0\0\0\0\0\0\0bin.000001");
        bytes[13..17].fill(0);
        let sum = crc32(&bytes[..bytes.len() - 4]);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(walk().take(&bytes), Err(EventError::Place { found: 0, .. })));
        let mut format = format_event();
        format[13..17].fill(0);
        let at = format.len() - 4;
        let sum = crc32(&format[..at]);
        format[at..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Format::parse(&format), Err(EventError::Format));
    }

    /// Returns an event without the place where it ends.
    fn unsaid(mut event: Vec<u8>) -> Vec<u8> {
        event[13..17].fill(0);
        let at = event.len() - CHECKSUM_BYTES;
        let sum = crc32(&event[..at]);
        event[at..].copy_from_slice(&sum.to_le_bytes());
        event
    }

    #[test]
    fn within_a_transaction_an_event_need_not_say_where_it_ends_and_its_last_one_notices_what_is_missing() {
        let whole = transaction(256, 7, 2, 30);
        let (first, rest) = split(&whole).unwrap();
        let (row, rest) = split(rest).unwrap();
        let (_, last) = split(rest).unwrap();
        let row = unsaid(row.to_vec());
        let of = |events: &[&[u8]]| steps(&mut walk(), &events.concat());
        assert!(matches!(of(&[first, &row, &row, last]).unwrap()[3], Step::Ends(_)));
        for wrong in [&[first, &row, last][..], &[first, &row, &row, &row, last]] {
            assert!(matches!(of(wrong), Err(EventError::Place { .. })));
        }
        // The first and the last one say it, and so does a statement by itself.
        assert!(matches!(of(&[&unsaid(first.to_vec())]), Err(EventError::Place { found: 0, .. })));
        let last = unsaid(last.to_vec());
        assert!(matches!(of(&[first, &row, &row, &last]), Err(EventError::Place { found: 0, .. })));
        let gtid = event(kind::GTID, 11, 5, 0, 256, &gtid_body(8, 1, STANDALONE));
        let query = event(kind::QUERY, 11, 5, 0, 256, &[0; 20]);
        assert!(matches!(of(&[&gtid, &unsaid(query)]), Err(EventError::Place { found: 0, .. })));
    }

    #[test]
    fn what_is_out_of_place_is_named() {
        let (one, two) = (transaction(256, 1, 1, 9), transaction(256, 2, 1, 9));
        assert!(matches!(steps(&mut walk(), &[&one[..], &two].concat()), Err(EventError::Place { .. })));
        let gtid = split(&one).unwrap().0.to_vec();
        let at = 256 + gtid.len() as u64;
        let after_gtid =
            |kind, body: &[u8]| steps(&mut walk(), &[&gtid[..], &event(kind, 11, 0, 0, at, body)].concat());
        let unended = EventError::Unended("1-11-1".parse().unwrap());
        assert_eq!(after_gtid(kind::GTID, &gtid_body(2, 1, 0)), Err(unended.clone()));
        assert_eq!(after_gtid(kind::ROTATE, &[0; 20]), Err(unended));
        let first = |kind| walk().take(&event(kind, 11, 0, 0, 256, &[0; 20]));
        assert_eq!(first(kind::XID), Err(EventError::Stray(kind::XID)));
        assert_eq!(first(kind::FORMAT), Err(EventError::Stray(kind::FORMAT)));
        assert_eq!(first(kind::START_ENCRYPTION), Err(EventError::Encrypted));
        assert_eq!(first(kind::INCIDENT), Err(EventError::Incident));
        assert_eq!(first(kind::CHECKPOINT), Ok(Step::File(None)));
    }

    #[test]
    fn a_file_that_is_in_use_begins_as_when_it_is_closed() {
        let closed = format_event();
        let mut open = closed.clone();
        open[17] |= IN_USE;
        let format = Format::parse(&open).unwrap();
        assert_eq!((&format.bytes, format.checksum, format.end()), (&closed, Checksum::Crc32, 260));
        let mut list = 2u32.to_le_bytes().to_vec();
        for (domain, server, number) in [(1u32, 11u32, 9u64), (1, 12, 12)] {
            list.extend(domain.to_le_bytes());
            list.extend(server.to_le_bytes());
            list.extend(number.to_le_bytes());
        }
        let step = walk().take(&event(kind::GTID_LIST, 11, 0, 0, 256, &list));
        assert_eq!(step, Ok(Step::File(Some("1-12-12".parse().unwrap()))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in any::<u8>()) {
            let _ = Format::parse(&bytes);
            let _ = steps(&mut walk(), &bytes);
            // With a right header and checksum they come further.
            let mut walk = walk();
            let offset = walk.offset_bytes;
            let _ = walk.take(&event(kind, 11, 0, 0, offset, &bytes));
            let next = walk.offset_bytes;
            let _ = walk.take(&event(kind, 11, 0, 0, next, &bytes));
        }

        #[test]
        fn a_flipped_bit_is_an_error(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = transaction(256, 9, 2, 40);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(steps(&mut walk(), &bytes).is_err());
        }
    }
}
