//! A segment of a database's archive: the events of whole transactions, raw and compressed, and where they belong.
//!
//! A segment names the one before by its hash, and the positions before and after it, so that one that is missing,
//! altered or exchanged is noticed by whoever reads them in order ([`Chain`]). The events are read again there: what
//! they do must be what the header says. Pure.
//!
//! A transaction that is too large for a segment goes on in the next ones: the header says that it is unfinished.
//! If the next segment goes on elsewhere, that transaction never came to its end, and nothing of it counts.

use super::binlog_event::{Begun, Ended, EventError, Format, Step, Walk, advance, split};
use super::seal::{self, Keys, SealContext, Sealing};
use super::wire::{FormatError, Reader, Writer};
use crate::model::gtid::{Gtid, GtidPosition, ServerId};
use crate::model::id::{ContentHash, Epoch};
use crate::support::failure::{Failure, FailureKind};
use thiserror::Error;

/// First bytes of a segment; the last one is the version.
const MAGIC: [u8; 8] = *b"USBLOG\0\x01";
const WHAT: &str = "an archived segment";
/// Size of events from which a segment is put, once they end a transaction.
pub const SEGMENT_BYTES: usize = 4 << 20;
/// Size of events from which a segment is put within a transaction.
pub const SEGMENT_MOST_BYTES: usize = 16 << 20;
/// Maximum size of a segment's events: the last one may be large.
const EVENTS_MAX_BYTES: usize = SEGMENT_MOST_BYTES + super::binlog_event::EVENT_MAX_BYTES;
/// Maximum size of an object.
pub const OBJECT_MAX_BYTES: u64 = EVENTS_MAX_BYTES as u64 + (1 << 20);
/// Maximum length of a file's name.
const NAME_MAX_BYTES: usize = 255;

/// A segment's place, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    pub epoch: Epoch,
    pub number: u64,
    pub hash: ContentHash,
}

/// What precedes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing is archived before it.
    First,
    /// It goes on where that one ends.
    After(SegmentRef),
    /// What lies between that one and this one is not in the archive.
    BehindGap(SegmentRef),
}

impl Link {
    /// Returns whether a segment with this link may lie at a place: numbers have no gap, and only the first of an
    /// epoch follows one of an earlier epoch.
    fn fits(&self, place: SegmentPlace) -> bool {
        match self.named() {
            Some(previous) if previous.epoch == place.epoch => {
                previous.number.checked_add(1) == Some(place.number)
            }
            Some(previous) => previous.epoch < place.epoch && place.number == 1,
            None => place.number == 1,
        }
    }

    /// Returns the segment that is named.
    pub fn named(&self) -> Option<SegmentRef> {
        match self {
            Self::First => None,
            Self::After(previous) | Self::BehindGap(previous) => Some(*previous),
        }
    }
}

/// Consecutive events of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the server's file.
    pub file: String,
    /// Where the events begin in it.
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// The file's first event.
    pub format: Format,
}

impl Part {
    /// Returns whether events at the beginning of `next` are those behind this part.
    pub fn goes_on_in(&self, next: &Self) -> bool {
        self.file == next.file
            && self.format == next.format
            && self.offset_bytes + self.length_bytes == next.offset_bytes
    }
}

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub link: Link,
    /// The last transactions before this segment, and at its end.
    pub before: GtidPosition,
    pub after: GtidPosition,
    /// The transaction that goes on in the next segment.
    pub unfinished: Option<Begun>,
    /// The server whose files these are.
    pub server: ServerId,
    pub transactions: u64,
    /// When the first and the last of them were committed, in seconds since 1970; 0 without any.
    pub first_s: u32,
    pub last_s: u32,
    pub parts: Vec<Part>,
}

/// A segment with its events, those of all parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub header: SegmentHeader,
    pub events: Vec<u8>,
}

/// Where a segment is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPlace {
    pub epoch: Epoch,
    pub number: u64,
}

impl SegmentPlace {
    fn context(self) -> SealContext<'static> {
        SealContext::Binlog { epoch: self.epoch.0, number: self.number }
    }
}

/// Encodes a segment.
pub fn encode(
    segment: &Segment,
    level: i32,
    sealing: &Sealing,
    place: SegmentPlace,
    keys: Option<&Keys>,
) -> Result<Vec<u8>, FormatError> {
    let header = &segment.header;
    let mut writer = Writer::default();
    writer.u8(match header.link {
        Link::First => 0,
        Link::After(_) => 1,
        Link::BehindGap(_) => 2,
    });
    if let Some(previous) = header.link.named() {
        writer.number(previous.epoch.0);
        writer.number(previous.number);
        writer.raw(&previous.hash.0);
    }
    writer.bytes(header.before.to_string().as_bytes());
    writer.bytes(header.after.to_string().as_bytes());
    match header.unfinished {
        None => writer.u8(0),
        Some(begun) => {
            writer.u8(1 + u8::from(begun.is_standalone));
            writer.bytes(begun.gtid.to_string().as_bytes());
        }
    }
    writer.number(header.server.0.into());
    writer.number(header.transactions);
    writer.number(header.first_s.into());
    writer.number(header.last_s.into());
    writer.number(header.parts.len() as u64);
    for part in &header.parts {
        writer.bytes(part.file.as_bytes());
        writer.number(part.offset_bytes);
        writer.number(part.length_bytes);
        writer.bytes(&part.format.bytes);
    }
    let packed = zstd::bulk::compress(&segment.events, level)
        .map_err(|error| FormatError::Text(format!("zstd: {error}")))?;
    writer.number(segment.events.len() as u64);
    writer.bytes(&packed);
    seal::close(&MAGIC, sealing, place.context(), keys, &writer.0)
}

/// Returns the generation of the data key that a segment is sealed with; 0 if it is not sealed.
pub fn generation(bytes: &[u8]) -> u32 {
    seal::generation_of(&MAGIC, bytes)
}

fn text<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a str, FormatError> {
    std::str::from_utf8(reader.bytes(what)?).map_err(|_| FormatError::Range(what))
}

fn position(reader: &mut Reader, what: &'static str) -> Result<GtidPosition, FormatError> {
    let text = text(reader, what)?;
    let position: GtidPosition = text.parse().map_err(|_| FormatError::Range(what))?;
    // Each position has one text.
    if position.to_string() == text { Ok(position) } else { Err(FormatError::Range(what)) }
}

fn link(reader: &mut Reader) -> Result<Link, FormatError> {
    let kind = reader.u8("link")?;
    if kind == 0 {
        return Ok(Link::First);
    }
    let (epoch, number) = (Epoch(reader.number("link")?), reader.number("link")?);
    let previous = SegmentRef { epoch, number, hash: ContentHash(reader.array("link")?) };
    match kind {
        1 => Ok(Link::After(previous)),
        2 => Ok(Link::BehindGap(previous)),
        _ => Err(FormatError::Range("link")),
    }
}

fn unfinished(reader: &mut Reader) -> Result<Option<Begun>, FormatError> {
    let is_standalone = match reader.u8("unfinished transaction")? {
        0 => return Ok(None),
        1 => false,
        2 => true,
        _ => return Err(FormatError::Range("unfinished transaction")),
    };
    let text = text(reader, "unfinished transaction")?;
    let gtid: Gtid = text.parse().map_err(|_| FormatError::Range("unfinished transaction"))?;
    match gtid.to_string() == text {
        true => Ok(Some(Begun { gtid, is_standalone })),
        false => Err(FormatError::Range("unfinished transaction")),
    }
}

fn part(reader: &mut Reader) -> Result<Part, FormatError> {
    let file = text(reader, "part")?.to_owned();
    // It names a file that a restore may write.
    if file.is_empty() || file.len() > NAME_MAX_BYTES || file.contains(['/', '\0']) || file.starts_with('.') {
        return Err(FormatError::Range("part"));
    }
    let (offset_bytes, length_bytes) = (reader.number("part")?, reader.number("part")?);
    let bytes = reader.bytes("part")?;
    let format = Format::parse(bytes).map_err(|error| FormatError::Text(error.to_string()))?;
    let is_in_place = offset_bytes >= format.end() && offset_bytes.checked_add(length_bytes).is_some();
    if !is_in_place || format.bytes != bytes {
        return Err(FormatError::Range("part"));
    }
    Ok(Part { file, offset_bytes, length_bytes, format })
}

/// Decodes the segment that lies at a place.
pub fn decode(bytes: &[u8], place: SegmentPlace, keys: Option<&Keys>) -> Result<Segment, FormatError> {
    let body = seal::open(&MAGIC, WHAT, place.context(), keys, bytes)?;
    let mut reader = Reader(&body);
    let link = link(&mut reader)?;
    if !link.fits(place) {
        return Err(FormatError::Text("it follows another segment than the one before this place".into()));
    }
    let (before, after) = (position(&mut reader, "position")?, position(&mut reader, "position")?);
    let unfinished = unfinished(&mut reader)?;
    let server = ServerId(reader.fitting("server")?);
    let transactions = reader.number("transactions")?;
    let (first_s, last_s) = (reader.fitting("time")?, reader.fitting("time")?);
    let count = reader.count(4, "parts")?;
    let parts = (0..count).map(|_| part(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let length: usize = reader.fitting("events")?;
    let of_parts = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.length_bytes));
    if length > EVENTS_MAX_BYTES || of_parts != Some(length as u64) {
        return Err(FormatError::Range("events"));
    }
    let packed = reader.bytes("events")?;
    reader.end()?;
    let events = zstd::bulk::decompress(packed, length)
        .map_err(|error| FormatError::Text(format!("zstd: {error}")))?;
    if events.len() != length {
        return Err(FormatError::Range("events"));
    }
    let header =
        SegmentHeader { link, before, after, unfinished, server, transactions, first_s, last_s, parts };
    Ok(Segment { header, events })
}

/// Reason why a segment does not continue those before it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChainError {
    #[error("it names another segment as the one before it: that one, or this one, was exchanged")]
    Link,
    #[error("it begins at {found}, and the one before it ended at {expected}")]
    Position { found: String, expected: String },
    #[error("its events are not what its header says")]
    Header,
    #[error("{file}: {source}")]
    Event { file: String, source: EventError },
}

impl Failure for ChainError {
    fn kind(&self) -> FailureKind {
        FailureKind::Damaged
    }
}

/// An event of a segment, with what it does.
pub struct Told<'a> {
    pub part: &'a Part,
    pub bytes: &'a [u8],
    pub step: Step,
}

/// Segments that are read in order: the state between two of them.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The segment that was read last; with number 0 there was none.
    pub last: SegmentRef,
    pub position: GtidPosition,
    unfinished: Option<Begun>,
    part: Option<Part>,
}

impl Chain {
    /// Returns the state after a segment, whose word is taken for what precedes it.
    pub fn after(last: SegmentRef, header: &SegmentHeader) -> Self {
        let (position, part) = (header.after.clone(), header.parts.last().cloned());
        Self { last, position, unfinished: header.unfinished, part }
    }

    /// Returns the state before a segment, whose word is taken for what precedes it.
    pub fn before(header: &SegmentHeader, carried: Option<&SegmentHeader>) -> Self {
        let none = SegmentRef { epoch: Epoch(0), number: 0, hash: ContentHash([0; 32]) };
        let last = header.link.named().unwrap_or(none);
        match carried {
            Some(carried) => Self::after(last, carried),
            None => Self { last, position: header.before.clone(), unfinished: None, part: None },
        }
    }

    /// Returns whether a segment goes on with the transaction that is unfinished.
    pub fn goes_on_in(&self, header: &SegmentHeader) -> bool {
        let next = header.parts.first();
        self.part.as_ref().zip(next).is_some_and(|(last, next)| last.goes_on_in(next))
    }

    /// Returns the transaction that goes on in a segment.
    pub fn begun_in(&self, header: &SegmentHeader) -> Option<Gtid> {
        self.unfinished.filter(|_| self.goes_on_in(header)).map(|begun| begun.gtid)
    }

    /// Reads the next segment, and tells each of its events.
    ///
    /// # Errors
    /// It is not the next, or not what it says.
    pub fn read(
        &mut self,
        place: SegmentRef,
        segment: &Segment,
        tell: &mut dyn FnMut(Told),
    ) -> Result<(), ChainError> {
        let header = &segment.header;
        match header.link {
            Link::First if self.last.number != 0 => return Err(ChainError::Link),
            Link::After(previous) if previous != self.last => return Err(ChainError::Link),
            Link::After(_) if header.before != self.position => {
                return Err(ChainError::Position {
                    found: header.before.to_string(),
                    expected: self.position.to_string(),
                });
            }
            Link::BehindGap(previous) if previous != self.last => return Err(ChainError::Link),
            Link::BehindGap(_) => self.position = header.before.clone(),
            Link::After(_) | Link::First => {}
        }
        let mut begun = self.unfinished.filter(|_| self.goes_on_in(header));
        let (mut rest, mut position) = (&segment.events[..], header.before.clone());
        let mut seen = Seen::default();
        for part in &header.parts {
            let wrong = |source| ChainError::Event { file: part.file.clone(), source };
            let (mut events, behind) = rest.split_at(part.length_bytes as usize);
            rest = behind;
            let mut walk = Walk { checksum: part.format.checksum, offset_bytes: part.offset_bytes, begun };
            while !events.is_empty() {
                let (bytes, behind) = split(events).map_err(wrong)?;
                events = behind;
                let step = walk.take(bytes).map_err(wrong)?;
                if let Step::Ends(ended) = &step {
                    advance(&mut position, ended.gtid).map_err(wrong)?;
                    seen.note(ended);
                }
                tell(Told { part, bytes, step });
            }
            begun = walk.begun;
        }
        let told = (&header.after, header.unfinished, header.transactions, header.first_s, header.last_s);
        if told != (&position, begun, seen.transactions, seen.first_s, seen.last_s) {
            return Err(ChainError::Header);
        }
        *self = Self::after(place, header);
        Ok(())
    }
}

/// What the transactions of a segment come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub transactions: u64,
    pub first_s: u32,
    pub last_s: u32,
}

impl Seen {
    pub fn note(&mut self, ended: &Ended) {
        if self.transactions == 0 {
            self.first_s = ended.committed_s;
        }
        (self.transactions, self.last_s) = (self.transactions + 1, ended.committed_s);
    }
}

#[cfg(test)]
mod tests {
    use super::super::binlog_event::tests::{format_event, transaction};
    use super::*;
    use proptest::prelude::*;

    fn place(number: u64) -> SegmentPlace {
        SegmentPlace { epoch: Epoch(3), number }
    }

    fn reference(number: u64) -> SegmentRef {
        SegmentRef { epoch: Epoch(3), number, hash: ContentHash([number as u8; 32]) }
    }

    /// Returns a segment with transactions of these numbers, at this place of its file.
    fn segment(link: Link, offset: u64, numbers: std::ops::RangeInclusive<u64>) -> Segment {
        let mut events = Vec::new();
        for number in numbers.clone() {
            let at = offset + events.len() as u64;
            events.extend(transaction(at, number, 2, 50));
        }
        let position = |number: u64| format!("1-11-{number}").parse::<GtidPosition>().unwrap();
        let part = Part {
            file: "bin.000001".into(),
            offset_bytes: offset,
            length_bytes: events.len() as u64,
            format: Format::parse(&format_event()).unwrap(),
        };
        let header = SegmentHeader {
            link,
            before: position(numbers.start() - 1),
            after: position(*numbers.end()),
            unfinished: None,
            server: ServerId(11),
            transactions: numbers.end() - numbers.start() + 1,
            first_s: 1_800_000_000 + *numbers.start() as u32,
            last_s: 1_800_000_000 + *numbers.end() as u32,
            parts: vec![part],
        };
        Segment { header, events }
    }

    fn encoded(segment: &Segment, number: u64) -> Vec<u8> {
        encode(segment, 1, &Sealing::default(), place(number), None).unwrap()
    }

    #[test]
    fn a_segment_comes_back_in_its_place_with_its_key_and_not_elsewhere() {
        let keys = seal::tests::keys(3, 1);
        let segment = segment(Link::After(reference(6)), 300, 5..=9);
        let sealing = Sealing { generation: 1, salt: [5; 16] };
        let bytes = encode(&segment, 1, &sealing, place(7), Some(&keys)).unwrap();
        assert_eq!(generation(&bytes), 1);
        assert!(!bytes.windows(10).any(|window| window == b"bin.000001"));
        assert_eq!(decode(&bytes, place(7), Some(&keys)).unwrap(), segment);
        for elsewhere in [place(8), SegmentPlace { epoch: Epoch(4), number: 7 }] {
            assert_eq!(decode(&bytes, elsewhere, Some(&keys)), Err(FormatError::Tampered));
        }
        for at in (0..bytes.len()).step_by(7) {
            assert!(decode(&bytes[..at], place(7), Some(&keys)).is_err());
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(&bad, place(7), Some(&keys)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_chain_is_read_and_what_is_missing_exchanged_or_untrue_is_named() {
        let one = segment(Link::First, 300, 1..=3);
        let end = 300 + one.events.len() as u64;
        let two = segment(Link::After(reference(1)), end, 4..=5);
        let chain = || {
            let mut chain = Chain::before(&one.header, None);
            chain.read(reference(1), &one, &mut |_| {}).unwrap();
            chain
        };
        let mut numbers = Vec::new();
        let mut read = chain();
        read.read(reference(2), &two, &mut |told| {
            if let Step::Ends(ended) = told.step {
                numbers.push(ended.gtid.number);
            }
        })
        .unwrap();
        assert_eq!((numbers, read.position.to_string()), (vec![4, 5], "1-11-5".into()));
        let refused = |segment: &Segment| chain().read(reference(2), segment, &mut |_| {}).unwrap_err();
        assert_eq!(refused(&segment(Link::First, end, 4..=5)), ChainError::Link);
        let other = segment(Link::After(reference(9)), end, 4..=5);
        assert_eq!(refused(&other), ChainError::Link);
        let later = segment(Link::After(reference(1)), end, 5..=6);
        assert!(matches!(refused(&later), ChainError::Position { .. }));
        let mut untrue = two.clone();
        untrue.header.transactions = 3;
        assert_eq!(refused(&untrue), ChainError::Header);
        let mut shifted = two.clone();
        shifted.header.parts[0].offset_bytes += 1;
        assert!(matches!(refused(&shifted), ChainError::Event { .. }));
        // Behind a gap that is known, the position is the segment's own.
        let behind = segment(Link::BehindGap(reference(1)), end, 40..=41);
        let mut read = chain();
        read.read(reference(2), &behind, &mut |_| {}).unwrap();
        assert_eq!(read.position.to_string(), "1-11-41");
    }

    #[test]
    fn a_transaction_goes_on_in_the_next_segment_or_never_was() {
        let whole = segment(Link::First, 300, 7..=7);
        let cut = split(&whole.events).unwrap().0.len() + 73;
        let gtid: Gtid = "1-11-7".parse().unwrap();
        let begun = Some(Begun { gtid, is_standalone: false });
        let mut one = whole.clone();
        one.events.truncate(cut);
        one.header.parts[0].length_bytes = cut as u64;
        one.header = SegmentHeader {
            after: one.header.before.clone(),
            unfinished: begun,
            transactions: 0,
            first_s: 0,
            last_s: 0,
            ..one.header
        };
        let mut two = whole.clone();
        two.events = whole.events[cut..].to_vec();
        two.header.link = Link::After(reference(1));
        two.header.parts[0].offset_bytes += cut as u64;
        two.header.parts[0].length_bytes -= cut as u64;
        let mut chain = Chain::before(&one.header, None);
        chain.read(reference(1), &one, &mut |_| {}).unwrap();
        assert!(chain.goes_on_in(&two.header));
        let mut again = chain.clone();
        chain.read(reference(2), &two, &mut |_| {}).unwrap();
        assert_eq!(chain.position.to_string(), "1-11-7");
        // In another file the transaction begins anew.
        let mut two = segment(Link::After(reference(1)), 300, 7..=8);
        two.header.parts[0].file = "bin.000002".into();
        assert!(!again.goes_on_in(&two.header));
        again.read(reference(2), &two, &mut |_| {}).unwrap();
        assert_eq!(again.position.to_string(), "1-11-8");
    }

    #[test]
    fn a_segment_lies_behind_the_one_that_it_names_and_nowhere_else() {
        let of = |link, place| {
            decode(
                &encode(&segment(link, 300, 4..=5), 1, &Sealing::default(), place, None).unwrap(),
                place,
                None,
            )
            .is_ok()
        };
        let at = |epoch, number| SegmentPlace { epoch: Epoch(epoch), number };
        for (link, place, fits) in [
            (Link::First, at(3, 1), true),
            (Link::First, at(3, 2), false),
            (Link::After(reference(6)), at(3, 7), true),
            (Link::After(reference(6)), at(3, 6), false),
            (Link::BehindGap(reference(6)), at(3, 8), false),
            (Link::After(reference(6)), at(4, 1), true),
            (Link::After(reference(6)), at(4, 7), false),
            (Link::After(reference(6)), at(2, 1), false),
        ] {
            assert_eq!(of(link, place), fits, "{link:?} {place:?}");
        }
    }

    #[test]
    fn a_bomb_and_a_way_out_are_refused() {
        let mut bomb = segment(Link::First, 300, 1..=1);
        bomb.events = vec![0; 1000];
        assert!(decode(&encoded(&bomb, 1), place(1), None).is_err());
        for file in ["", "../x", "a/b", ".hidden", "a\0"] {
            let mut way_out = segment(Link::First, 300, 1..=1);
            way_out.header.parts[0].file = file.into();
            let refused = decode(&encoded(&way_out, 1), place(1), None);
            assert_eq!(refused, Err(FormatError::Range("part")), "{file}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let context = place(1).context();
            let bytes = seal::close(&MAGIC, &Sealing::default(), context, None, &body).unwrap();
            let _ = decode(&bytes, place(1), None);
            let _ = decode(&body, place(1), None);
        }

        #[test]
        fn a_changed_body_is_refused_or_read_and_nothing_panics(
            at in any::<prop::sample::Index>(), value in any::<u8>()
        ) {
            let segment = segment(Link::After(reference(1)), 300, 4..=5);
            let bytes = encoded(&segment, 2);
            let mut body = bytes[seal::HEAD_BYTES..bytes.len() - 32].to_vec();
            let at = at.index(body.len());
            body[at] = value;
            let bytes = seal::close(&MAGIC, &Sealing::default(), place(2).context(), None, &body).unwrap();
            if let Ok(read) = decode(&bytes, place(2), None) {
                let mut chain = Chain::before(&read.header, None);
                let _ = chain.read(reference(2), &read, &mut |_| {});
            }
        }
    }
}
