//! The decisions in a log, in order, each with what became of it.
//!
//! The whole log is read from its first record, and folded as always: what is listed here as without effect
//! has none anywhere.

use super::error::RepositoryError;
use super::parts::Log;
use super::reading::Start;
use crate::model::id::Sequence;
use crate::model::record::{Record, StoreState};

/// A record that decides, or that is irregular.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub record: Record,
    /// The reason why it has no effect, or was not to be appended.
    pub irregular: Option<String>,
}

impl Log<'_> {
    /// Returns every record that is about the store's members and primary.
    pub(crate) fn history(&self) -> Result<Vec<Happened>, RepositoryError> {
        let (mut state, mut noted) = (StoreState::default(), 0);
        let mut found: Vec<(Sequence, Option<String>)> = Vec::new();
        let reading = self.reading(Start::Records)?;
        let met = self.read_records(&mut state, &reading, &mut |state, decides| {
            let Some((sequence, _)) = state.head else { return };
            let new = state.authority.irregular.count > noted;
            noted = state.authority.irregular.count;
            let why = state.authority.irregular.last.last().filter(|_| new).map(|last| last.why.clone());
            if new || decides {
                found.push((sequence, why));
            }
        })?;
        let passed = self.passed(&StoreState::default(), &state, reading.seen, met.seen)?;
        self.store.memory().remember(&state, passed)?;
        let happened = found
            .into_iter()
            .map(|(sequence, irregular)| Ok(Happened { record: self.record_at(sequence)?, irregular }));
        happened.collect()
    }
}
