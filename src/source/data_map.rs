//! The ranges of a file that hold data, and the holes between them.

use rustix::fd::BorrowedFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The allocated ranges of a file, ascending; the bytes between them read as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataMap(pub(super) Vec<(u64, u64)>);

impl DataMap {
    /// Returns the map of a file without holes.
    pub fn full(size_bytes: u64) -> Self {
        Self(vec![(0, size_bytes)])
    }

    /// Asks the filesystem for the map. One that does not support this reports no holes.
    pub(crate) fn of(file: BorrowedFd, size_bytes: u64) -> Result<Self, Errno> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < size_bytes {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start.min(size_bytes),
                // A hole reaches to the end.
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) if at == 0 => return Ok(Self::full(size_bytes)),
                Err(error) => return Err(error),
            };
            let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(size_bytes),
                Err(Errno::NXIO) => size_bytes,
                Err(error) => return Err(error),
            };
            if end > start {
                ranges.push((start, end));
            }
            at = end.max(at + 1);
        }
        Ok(Self(ranges))
    }

    /// Returns the number of bytes, of a file of `size_bytes`, that are in no range.
    pub(crate) fn hole_bytes(&self, size_bytes: u64) -> u64 {
        size_bytes.saturating_sub(self.0.iter().map(|(from, to)| to - from).sum())
    }

    /// Returns the stretches of `start..end`: `(start, end, is_data)`, adjoining, data and holes in turns.
    pub(crate) fn stretches(&self, start: u64, end: u64) -> Vec<(u64, u64, bool)> {
        let mut stretches = Vec::new();
        let mut at = start;
        let first = self.0.partition_point(|(_, to)| *to <= start);
        for (from, to) in &self.0[first..] {
            let (from, to) = ((*from).max(start), (*to).min(end));
            if from >= end {
                break;
            }
            if from > at {
                stretches.push((at, from, false));
            }
            match stretches.last_mut() {
                Some((_, last, true)) if *last == from => *last = to,
                _ => stretches.push((from, to, true)),
            }
            at = to;
        }
        if at < end {
            stretches.push((at, end, false));
        }
        stretches
    }
}
