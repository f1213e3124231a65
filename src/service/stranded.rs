//! What a person decides about a stranded tree on this host: which of its files come into the tree in use, and
//! that the rest is given up.
//!
//! Nothing that is there is replaced, and the tree stays in the repository until all that could be taken is
//! on the disk, or a person has given it up. Of two who settle one tree at the same time, the log admits one.

use super::host::{Host, HostError};
use crate::failover::stranded::chosen::Choice;
use crate::failover::stranded::error::StrandedError;
use crate::failover::stranded::take::{TakeReport, take};
use crate::failover::stranded::tree::StrandedView;
use crate::model::id::{Sequence, StoreName};
use crate::model::record::StoreState;
use crate::model::tree_path::{PathError, TreePath};
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::restore::request::{Existing, RestoreRequest};
use crate::source::error::SourceError;
use crate::source::exclude::Excludes;
use crate::support::failure::{Failure, FailureKind};
use crate::support::progress::Progress;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The reason why nothing was taken or given up.
#[derive(Debug, Error)]
pub(crate) enum SettleError {
    #[error(transparent)]
    Stranded(#[from] StrandedError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("store '{0}' has no `path` in this host's configuration, so there is no tree in use")]
    NoTree(StoreName),
    #[error(
        "{to_take} paths could be taken, and not {asked}: nothing was dropped; look again before you decide"
    )]
    Changed { to_take: u64, asked: u64 },
}

impl Failure for SettleError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Stranded(error) => error.kind(),
            Self::Repository(error) => error.kind(),
            Self::Host(error) => error.kind(),
            Self::NoTree(_) => FailureKind::Usage,
            Self::Changed { .. } => FailureKind::Held,
        }
    }
}

/// Returns the patterns of what is made again.
pub(crate) fn transient(host: &Host, store: &StoreName) -> Result<Excludes, SourceError> {
    let config = host.config.store(store.as_str());
    let config = config.map(|store| store.stranded.clone()).unwrap_or_default();
    Excludes::parse(&config.transient)
}

/// Reads a path below the store's root, as a person writes it; `.` is the root. None is an empty one.
pub(crate) fn path(given: &[u8]) -> Option<Result<TreePath, PathError>> {
    let trimmed = given.strip_prefix(b"./").unwrap_or(given);
    match trimmed.strip_suffix(b"/").unwrap_or(trimmed) {
        b"." => Some(Ok(TreePath::root())),
        b"" => None,
        path => Some(TreePath::parse(path)),
    }
}

/// A store of this host, a member that decides.
pub(crate) struct Settlement<'a> {
    pub host: &'a Host,
    pub store: &'a Store,
    pub maker: Maker<'a>,
    pub person: &'a str,
}

impl Settlement<'_> {
    /// Returns the tree in use, or the directory that a person named for it.
    fn destination(&self, state: &StoreState, given: Option<&Path>) -> Result<PathBuf, SettleError> {
        let name = self.store.name();
        let path = match given {
            Some(path) => path.to_owned(),
            None if state.primary.as_ref() != Some(self.maker.name) => {
                let (store, host) = (name.clone(), self.maker.name.clone());
                return Err(StrandedError::NotPrimary { store, host }.into());
            }
            None => {
                let config = self.host.config.store(name.as_str());
                let path = config.map(|store| store.path.clone()).filter(|path| !path.as_os_str().is_empty());
                path.ok_or_else(|| SettleError::NoTree(name.clone()))?
            }
        };
        // A symlink that the administrator named is followed, and none below it.
        std::fs::canonicalize(&path).map_err(|source| StrandedError::Destination { path, source }.into())
    }

    /// Adds what was chosen to the tree in use, or to `to`; returns where it is, and the record that settles the
    /// tree if nothing remains.
    ///
    /// # Errors
    /// Nothing is chosen, this host is not the primary, or the rest cannot be added.
    pub fn take(
        &self,
        state: &mut StoreState,
        record: Sequence,
        choice: Choice,
        to: Option<&Path>,
        progress: &Progress,
    ) -> Result<(PathBuf, TakeReport, Option<Sequence>), SettleError> {
        let to = self.destination(state, to)?;
        let view = StrandedView::open(self.store, state, record)?;
        let host = self.host;
        let request = RestoreRequest {
            destination: to.clone(),
            path: TreePath::root(),
            existing: Existing::Add { beside: record },
            threads: host.threads(),
            own: host.own_places().into_iter().chain(host.keys()?.key_file).collect(),
            local: None,
        };
        let transient = transient(host, self.store.name()).map_err(StrandedError::from)?;
        let report = take(&view, choice, transient, &request, progress)?;
        let settled = match report.is_all() {
            true => view.settle(state, self.maker, (report.chosen, 0), self.person)?,
            false => None,
        };
        Ok((to, report, settled))
    }

    /// Gives a tree up of which `paths` could be taken; returns the record that settles it.
    ///
    /// # Errors
    /// It is another number of paths by now, or another has settled the tree.
    pub fn give_up(
        &self,
        state: &mut StoreState,
        record: Sequence,
        paths: u64,
    ) -> Result<Option<Sequence>, SettleError> {
        let view = StrandedView::open(self.store, state, record)?;
        let transient = transient(self.host, self.store.name()).map_err(StrandedError::from)?;
        let (counts, _) = view.each(&transient, |_, _| Ok::<_, StrandedError>(()))?;
        let to_take = counts.to_take();
        if to_take != paths {
            return Err(SettleError::Changed { to_take, asked: paths });
        }
        Ok(view.settle(state, self.maker, (0, to_take), self.person)?)
    }
}
