//! Deliberate faults, by which a test shows that faults of their kind would be caught.
//!
//! One at a time is active, for the thread that chooses it, and in debug builds only. In other builds there
//! are none.

/// A part of a scan, or of the protocol between writers and pruners, that is left out, or done as it once
/// wrongly was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An unreadable entry is taken for a removed one.
    VanishedForUnreadable,
    /// Of several absent entries only the last is remembered.
    SingleAbsent,
    /// A directory is not checked to be still in its place.
    NoLeave,
    /// Names join by their inode's number alone.
    GroupsByInode,
    /// The writer of a manifest accepts any entry.
    NoClosingCheck,
    /// A run commits although objects that it relies on may be gone.
    NoRestart,
    /// A pruning that lost a race commits its earlier plan.
    NoReplan,
    /// Objects of the same content have the same name.
    NoSalt,
    /// Doomed packs are treated as any other.
    NoDoomedSet,
    /// Segments that no record names are used although their packs are deleted or doomed.
    NoOrphanCheck,
    /// Data that a record gave up is taken over from the base unchecked.
    NoRecheck,
    /// A host that was promoted opens when the old primary's lease is old, without breaking it.
    NoBreak,
    /// A host that has just started does not wait for the promises that it may have made.
    NoStartWait,
    /// The database stops waiting for a standby before the log says so.
    LoosenFirst,
    /// A primary serves beyond the time of its lease.
    LateFence,
}

#[cfg(debug_assertions)]
mod chosen {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Sets the fault of this thread from now on.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }
}

#[cfg(not(debug_assertions))]
mod chosen {
    #[inline(always)]
    pub(crate) fn is(_: super::Mutant) -> bool {
        false
    }
}

#[cfg(debug_assertions)]
pub use chosen::choose;
pub(crate) use chosen::is;
