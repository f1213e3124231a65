//! Faults that a test makes on purpose, to see that its like would be caught: one at a time, for the thread that chooses it, and
//! in debug builds only. Anywhere else there are none.

/// A part of a scan, or of what writers and pruners agree on, that is left out, or done as it was once done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// What cannot be read is taken to have gone.
    VanishedForUnreadable,
    /// Of all that was absent, the last is remembered.
    SingleAbsent,
    /// A directory is not asked whether it is still in its place.
    NoLeave,
    /// Names join by their inode's number alone.
    GroupsByInode,
    /// A manifest's writer takes what it is given.
    NoClosingCheck,
    /// A run commits although something was moved that it may rely on.
    NoRestart,
    /// A pruning that lost a race commits what it planned before.
    NoReplan,
    /// Objects of the same content have the same name.
    NoSalt,
    /// Doomed packs count as any other.
    NoDoomedSet,
    /// Segments that no record names are taken although their packs are gone or doomed.
    NoOrphanCheck,
    /// What was given up is taken over from the base unseen.
    NoRecheck,
}

#[cfg(debug_assertions)]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// What this thread leaves out from now on.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }

    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }
}

#[cfg(not(debug_assertions))]
mod chosen {
    #[inline(always)]
    pub fn is(_: super::Mutant) -> bool {
        false
    }
}

pub use chosen::*;
