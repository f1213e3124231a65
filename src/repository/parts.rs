//! The parts of a store. Each is a view of the store with methods of its own, defined in the part's files.

use super::store::Store;

/// The log: `log` reads it, `append` extends it.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    pub(super) store: &'a Store,
}

/// The checkpoints of the log, see `checkpoints`.
#[derive(Clone, Copy)]
pub struct Checkpoints<'a> {
    pub(super) store: &'a Store,
}

/// The keyrings: `keyrings` opens them, `rekey` makes new ones.
#[derive(Clone, Copy)]
pub struct Keyrings<'a> {
    pub(super) store: &'a Store,
}

/// The index segments: `index` reads and writes one, `compact` merges them.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    pub(super) store: &'a Store,
}

/// The packs, see `chunks`.
#[derive(Clone, Copy)]
pub(crate) struct Packs<'a> {
    pub(super) store: &'a Store,
}

/// The archive of the database's binary log, see `binlog`.
#[derive(Clone, Copy)]
pub struct Binlog<'a> {
    pub(super) store: &'a Store,
}

/// The notes of hosts: `standbys` and `upkeep`.
#[derive(Clone, Copy)]
pub struct Notes<'a> {
    pub(super) store: &'a Store,
}

/// The store's local cache, see `cache`.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'a> {
    pub(super) store: &'a Store,
}

/// The note in the cache of what this host saw of the store, see `memory`.
#[derive(Clone, Copy)]
pub(crate) struct HostMemory<'a> {
    pub(super) store: &'a Store,
}

impl Store {
    pub fn log(&self) -> Log<'_> {
        Log { store: self }
    }

    pub fn checkpoints(&self) -> Checkpoints<'_> {
        Checkpoints { store: self }
    }

    pub fn keyrings(&self) -> Keyrings<'_> {
        Keyrings { store: self }
    }

    pub fn segments(&self) -> Segments<'_> {
        Segments { store: self }
    }

    pub(crate) fn packs(&self) -> Packs<'_> {
        Packs { store: self }
    }

    pub fn binlog(&self) -> Binlog<'_> {
        Binlog { store: self }
    }

    pub fn notes(&self) -> Notes<'_> {
        Notes { store: self }
    }

    pub(crate) fn cache(&self) -> Cache<'_> {
        Cache { store: self }
    }

    pub(crate) fn memory(&self) -> HostMemory<'_> {
        HostMemory { store: self }
    }
}
