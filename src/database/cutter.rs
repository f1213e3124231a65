//! Cuts a server's events into segments: at the end of a transaction, unless one is too large. Pure.

use crate::format::binlog_event::{Begun, EventError, Format, Step, Walk, advance};
use crate::format::binlog_segment::{
    Link, Part, SEGMENT_BYTES, SEGMENT_MOST_BYTES, Seen, Segment, SegmentHeader, SegmentRef,
};
use crate::model::gtid::{GtidPosition, ServerId};

/// A segment that is being filled.
pub struct Cutter {
    link: Link,
    server: ServerId,
    before: GtidPosition,
    /// The last transaction that ended.
    position: GtidPosition,
    parts: Vec<Part>,
    /// The events of all parts. The next one is appended before it is noted.
    pub events: Vec<u8>,
    /// Size of the events up to the last that is in no transaction which has not ended.
    whole_bytes: usize,
    seen: Seen,
    walk: Option<Walk>,
    /// Whether a transaction of this very server has ended, and one of another behind it.
    has_own: bool,
    has_foreign: bool,
}

impl Cutter {
    pub fn new(link: Link, server: ServerId, position: GtidPosition) -> Self {
        Self {
            link,
            server,
            before: position.clone(),
            position,
            parts: Vec::new(),
            events: Vec::new(),
            whole_bytes: 0,
            seen: Seen::default(),
            walk: None,
            has_own: false,
            has_foreign: false,
        }
    }

    pub fn position(&self) -> &GtidPosition {
        &self.position
    }

    /// Returns the position at the end of the last segment that was cut.
    pub fn put_position(&self) -> &GtidPosition {
        &self.before
    }

    /// Returns the first event of the file that is read.
    pub fn format_bytes(&self) -> &[u8] {
        self.parts.last().map_or(&[], |part| &part.format.bytes)
    }

    pub fn offset_bytes(&self) -> u64 {
        self.walk.as_ref().map_or(0, |walk| walk.offset_bytes)
    }

    /// Begins with the events of a file. A transaction that was cut off at the end of the last one is dropped.
    pub fn begin(&mut self, file: &str, format: &Format, offset_bytes: u64, begun: Option<Begun>) {
        self.drop_torn();
        self.walk = Some(Walk { checksum: format.checksum, offset_bytes, begun });
        self.parts.push(Part {
            file: file.to_owned(),
            offset_bytes,
            length_bytes: 0,
            format: format.clone(),
        });
    }

    /// Drops the events of a transaction that has not ended.
    fn drop_torn(&mut self) {
        let torn = self.events.len() - self.whole_bytes;
        self.events.truncate(self.whole_bytes);
        if let Some(part) = self.parts.last_mut() {
            part.length_bytes -= torn as u64;
        }
        self.parts.retain(|part| part.length_bytes > 0);
    }

    /// Notes the event that was appended, of this length.
    ///
    /// # Errors
    /// It is not the next event; nothing of it is kept.
    pub fn note(&mut self, length: usize) -> Result<Step, EventError> {
        let at = self.events.len() - length;
        let Some(walk) = &mut self.walk else { return Err(EventError::Format) };
        let step = walk.take(&self.events[at..]).and_then(|step| {
            if let Step::Ends(ended) = &step {
                advance(&mut self.position, ended.gtid)?;
                self.seen.note(ended);
                let is_own = ended.gtid.server == self.server;
                self.has_foreign |= self.has_own && !is_own && ended.gtid.domain.is_store();
                self.has_own |= is_own;
            }
            Ok(step)
        });
        match step {
            Ok(step) => {
                if let Some(part) = self.parts.last_mut() {
                    part.length_bytes += length as u64;
                }
                if walk.begun.is_none() {
                    self.whole_bytes = self.events.len();
                }
                Ok(step)
            }
            Err(error) => {
                self.events.truncate(at);
                Err(error)
            }
        }
    }

    /// Returns whether the segment is large enough to be put now.
    pub fn is_full(&self) -> bool {
        let begun = self.walk.as_ref().is_some_and(|walk| walk.begun.is_some());
        self.events.len() >= if begun { SEGMENT_MOST_BYTES } else { SEGMENT_BYTES }
    }

    /// Returns whether there is anything in it that is worth a segment.
    pub fn has_news(&self) -> bool {
        self.seen.transactions > 0
    }

    /// Returns whether there are transactions of another server behind this server's own: it follows again.
    pub fn has_foreign(&self) -> bool {
        self.has_foreign
    }

    /// Returns the segment, and goes on with the next one at the same place.
    pub fn cut(&mut self) -> Segment {
        let begun = self.walk.as_ref().and_then(|walk| walk.begun);
        let next = self.parts.last().map(|part| Part {
            offset_bytes: part.offset_bytes + part.length_bytes,
            length_bytes: 0,
            ..part.clone()
        });
        let mut parts = std::mem::replace(&mut self.parts, next.into_iter().collect());
        parts.retain(|part| part.length_bytes > 0);
        let seen = std::mem::take(&mut self.seen);
        self.whole_bytes = 0;
        Segment {
            header: SegmentHeader {
                link: self.link,
                before: std::mem::replace(&mut self.before, self.position.clone()),
                after: self.position.clone(),
                unfinished: begun,
                server: self.server,
                transactions: seen.transactions,
                first_s: seen.first_s,
                last_s: seen.last_s,
                parts,
            },
            events: std::mem::take(&mut self.events),
        }
    }

    /// Notes where the last segment was put.
    pub fn put(&mut self, this: SegmentRef) {
        self.link = Link::After(this);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::binlog_event::split;
    use crate::format::binlog_event::tests::{format_event, transaction};
    use crate::format::binlog_segment::Chain;
    use crate::model::id::{ContentHash, Epoch};
    use proptest::prelude::*;

    fn reference(number: u64) -> SegmentRef {
        SegmentRef { epoch: Epoch(1), number, hash: ContentHash([number as u8; 32]) }
    }

    /// Feeds events, cuts where it is due, and at `cuts`; returns the segments.
    fn segments(cutter: &mut Cutter, mut bytes: &[u8], cuts: &[usize]) -> Vec<Segment> {
        let (mut segments, mut at) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let (event, rest) = split(bytes).unwrap();
            bytes = rest;
            cutter.events.extend_from_slice(event);
            cutter.note(event.len()).unwrap();
            at += 1;
            if cutter.is_full() || cuts.contains(&at) && cutter.has_news() {
                segments.push(cutter.cut());
                cutter.put(reference(segments.len() as u64));
            }
        }
        segments
    }

    fn check(segments: &[Segment]) -> GtidPosition {
        let mut chain = Chain::before(&segments[0].header, None);
        for (at, segment) in segments.iter().enumerate() {
            chain.read(reference(at as u64 + 1), segment, &mut |_| {}).unwrap();
        }
        chain.position
    }

    #[test]
    fn a_large_transaction_goes_on_in_several_segments_and_others_are_never_cut() {
        let format = Format::parse(&format_event()).unwrap();
        let offset = format.end();
        let mut bytes = transaction(offset, 1, 1, 10);
        for (number, rows) in [(2, 50), (3, 5), (4, 30)] {
            bytes.extend(transaction(offset + bytes.len() as u64, number, rows, 1 << 20));
        }
        let mut cutter = Cutter::new(Link::First, ServerId(11), GtidPosition::default());
        cutter.begin("bin.000001", &format, offset, None);
        let mut found = segments(&mut cutter, &bytes, &[]);
        let unfinished: Vec<bool> = found.iter().map(|one| one.header.unfinished.is_some()).collect();
        assert_eq!(unfinished, [true, true, true, false, true, false]);
        assert!(found.iter().all(|one| one.events.len() < SEGMENT_MOST_BYTES + (2 << 20)));
        if cutter.has_news() {
            found.push(cutter.cut());
        }
        assert_eq!(check(&found).to_string(), "1-11-4");
        let all: Vec<u8> = found.iter().flat_map(|one| one.events.clone()).collect();
        assert!(all == bytes);
    }

    #[test]
    fn what_a_crash_cut_off_is_dropped_and_begins_anew_in_the_next_file() {
        let format = Format::parse(&format_event()).unwrap();
        let offset = format.end();
        let one = transaction(offset, 1, 2, 10);
        let torn = transaction(offset + one.len() as u64, 2, 2, 10);
        let torn = &torn[..split(&torn).unwrap().0.len()];
        let mut cutter = Cutter::new(Link::First, ServerId(11), GtidPosition::default());
        cutter.begin("bin.000001", &format, offset, None);
        assert!(segments(&mut cutter, &[&one, torn].concat(), &[]).is_empty());
        cutter.begin("bin.000002", &format, offset, None);
        let two = transaction(offset, 2, 2, 10);
        segments(&mut cutter, &two, &[]);
        let segment = cutter.cut();
        assert_eq!(segment.events, [one, two].concat());
        assert_eq!(segment.header.parts.len(), 2);
        assert_eq!(check(&[segment]).to_string(), "1-11-2");
    }

    #[test]
    fn a_wrong_event_leaves_nothing_behind_and_a_foreign_one_is_noticed() {
        let format = Format::parse(&format_event()).unwrap();
        let offset = format.end();
        let one = transaction(offset, 5, 1, 10);
        let mut cutter = Cutter::new(Link::First, ServerId(11), "1-12-4".parse().unwrap());
        cutter.begin("bin.000001", &format, offset, None);
        segments(&mut cutter, &one, &[]);
        assert!(!cutter.has_foreign());
        cutter.events.extend_from_slice(&one);
        assert!(cutter.note(one.len()).is_err());
        assert_eq!(cutter.cut().events, one);
        let mut follows = Cutter::new(Link::First, ServerId(12), "1-11-4".parse().unwrap());
        follows.begin("bin.000001", &format, offset, None);
        segments(&mut follows, &one, &[]);
        assert!(!follows.has_foreign(), "what it received before it wrote is its past");
        follows.has_own = true;
        segments(&mut follows, &transaction(offset + one.len() as u64, 6, 1, 10), &[]);
        assert!(follows.has_foreign());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_events_come_back(
            rows in prop::collection::vec((0usize..4, 1usize..200), 1..20),
            cuts in prop::collection::vec(0usize..100, 0..20),
        ) {
            let format = Format::parse(&format_event()).unwrap();
            let offset = format.end();
            let mut bytes = Vec::new();
            for (at, (rows, row_bytes)) in rows.iter().enumerate() {
                bytes.extend(transaction(offset + bytes.len() as u64, at as u64 + 1, *rows, *row_bytes));
            }
            let mut cutter = Cutter::new(Link::First, ServerId(11), GtidPosition::default());
            cutter.begin("bin.000001", &format, offset, None);
            let mut found = segments(&mut cutter, &bytes, &cuts);
            if cutter.has_news() {
                found.push(cutter.cut());
            }
            let all: Vec<u8> = found.iter().flat_map(|one| one.events.clone()).collect();
            prop_assert_eq!(all, bytes);
            prop_assert_eq!(check(&found).to_string(), format!("1-11-{}", rows.len()));
        }
    }
}
