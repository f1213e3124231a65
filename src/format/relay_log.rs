//! Events of a replica's relay logs: what it has received of its primary, as it lies in its files.
//!
//! Between the events of the primary lie those of the replica itself and those that the primary made up for it, and
//! no event says where it lies in this file. So, unlike in a binary log (`super::binlog_event`), only the order of
//! what belongs to transactions is looked at. Pure; whatever the bytes are, they are events or an error.

use super::binlog_event::{Begun, Checksum, Event, EventError, Format, kind};
use crate::model::gtid::Gtid;

/// What an event of a relay log does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayStep {
    /// It belongs to no transaction.
    Apart,
    /// It says how those behind it are read.
    Format(Format),
    Begins(Gtid),
    Inside,
    Ends(Gtid),
}

/// Walks through the relay logs of one replica, file after file.
#[derive(Debug)]
pub struct RelayWalk {
    checksum: Checksum,
    begun: Option<Begun>,
}

impl Default for RelayWalk {
    fn default() -> Self {
        Self { checksum: Checksum::Crc32, begun: None }
    }
}

impl RelayWalk {
    /// Takes the next event.
    pub fn take(&mut self, bytes: &[u8]) -> Result<RelayStep, EventError> {
        if bytes.get(4) == Some(&kind::FORMAT) {
            let format = Format::received(bytes)?;
            self.checksum = format.checksum;
            return Ok(RelayStep::Format(format));
        }
        let event = Event::parse(bytes, self.checksum)?;
        match event.kind {
            kind::START_ENCRYPTION => Err(EventError::Encrypted),
            // A connection that began anew within a transaction goes on with it.
            kind::STOP | kind::ROTATE | kind::CHECKPOINT | kind::GTID_LIST | kind::HEARTBEAT => {
                Ok(RelayStep::Apart)
            }
            kind::GTID => {
                // One before it that did not end was cut off with the server, and is received again.
                let (gtid, is_standalone) = event.gtid()?;
                self.begun = Some(Begun { gtid, is_standalone });
                Ok(RelayStep::Begins(gtid))
            }
            _ => Ok(self.inside(&event)),
        }
    }

    fn inside(&mut self, event: &Event) -> RelayStep {
        let Some(Begun { gtid, is_standalone }) = self.begun else { return RelayStep::Apart };
        let ends = if is_standalone { !event.is_part() } else { event.is_end() };
        if !ends {
            return RelayStep::Inside;
        }
        self.begun = None;
        RelayStep::Ends(gtid)
    }
}

#[cfg(test)]
mod tests {
    use super::super::binlog_event::{
        split,
        tests::{event, format_event, gtid_body, transaction},
    };
    use super::*;
    use proptest::prelude::*;

    fn steps(mut bytes: &[u8]) -> Result<Vec<RelayStep>, EventError> {
        let (mut walk, mut steps) = (RelayWalk::default(), Vec::new());
        while !bytes.is_empty() {
            let (event, rest) = split(bytes)?;
            steps.push(walk.take(event)?);
            bytes = rest;
        }
        Ok(steps)
    }

    fn ended(bytes: &[u8]) -> Vec<u64> {
        let ends = |step| if let RelayStep::Ends(gtid) = step { Some(gtid.number) } else { None };
        steps(bytes).unwrap().into_iter().filter_map(ends).collect()
    }

    #[test]
    fn a_transaction_goes_on_over_a_new_connection_and_one_that_was_cut_off_begins_again() {
        // Where events end is their primary's business.
        let whole = transaction(70_000, 7, 3, 100);
        let (head, tail) = whole.split_at(whole.len() / 2 - 20);
        let (first, rest) = split(&whole).unwrap();
        let (row, more) = split(rest).unwrap();
        let connected =
            [event(kind::ROTATE, 11, 0, 0x20, 0, b"\0\0\0\0\0\0\0\0binlog.000004"), format_event()];
        let over = [format_event(), first.to_vec(), row.to_vec(), connected.concat(), more.to_vec()].concat();
        assert_eq!(ended(&over), [7]);
        let again = [format_event(), first.to_vec(), row.to_vec(), whole.clone()].concat();
        assert_eq!(ended(&again), [7]);
        assert!(ended(&[format_event(), first.to_vec(), row.to_vec()].concat()).is_empty());
        assert_eq!([head, tail].concat(), whole);
        let statement = event(kind::GTID, 11, 0, 0, 9, &gtid_body(8, 1, 1));
        let drop = event(kind::QUERY, 11, 0, 0, 9, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0DROP TABLE t");
        assert_eq!(ended(&[format_event(), statement, drop, whole].concat()), [8, 7]);
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let mut bytes = [format_event(), transaction(4, 7, 1, 10)].concat();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(steps(&bytes), Err(EventError::Checksum(16)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_events_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = steps(&bytes);
            let _ = steps(&[format_event(), bytes].concat());
        }
    }
}
