//! Appends a member's signed decision.
//!
//! A signature holds for one place in the log, so each attempt signs anew, over the record that it follows;
//! after a lost race the caller plans again with what the winner wrote. Nothing is appended that would have
//! no effect.

use super::error::RepositoryError;
use super::parts::Log;
use crate::model::decision::{Decision, Statement};
use crate::model::id::{Sequence, WriterId};
use crate::model::record::StoreState;
use crate::support::signature::SigningKey;

/// The member that decides.
#[derive(Clone, Copy)]
pub struct Maker<'a> {
    pub name: &'a WriterId,
    pub key: &'a SigningKey,
}

impl Log<'_> {
    /// Appends the decision that `next` makes of the state, again after each lost race, each time signed for
    /// the place that it gets.
    ///
    /// Returns the record's number, or `None` if `next` has nothing to decide.
    ///
    /// # Errors
    /// Those of `next`; [`RepositoryError::Decision`] when the decision would have no effect; `Unavailable`
    /// after too many lost races.
    pub fn decide<E: From<RepositoryError>>(
        &self,
        state: &mut StoreState,
        maker: Maker,
        mut next: impl FnMut(&StoreState) -> Result<Option<Decision>, E>,
    ) -> Result<Option<Sequence>, E> {
        let store = self.store.name();
        self.append_until_won(state, maker.name, |state| {
            let Some(decision) = next(state)? else { return Ok(None) };
            let statement = Statement { at: self.store.env().wall(), decision };
            match state.sign(store, &statement, maker.name, maker.key) {
                Ok(event) => Ok(Some(event)),
                Err(source) => Err(RepositoryError::Decision { store: store.clone(), source }.into()),
            }
        })
    }
}
