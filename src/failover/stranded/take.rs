//! Takes what a person chose of a stranded tree into a tree in use.
//!
//! Nothing that is there is replaced or changed: see `restore::beside`. What was taken is on the disk when this
//! returns. A run that is killed has added some of it; the next run finds that there, and goes on.

use super::chosen::{Choice, Chosen};
use super::class::Class;
use super::error::StrandedError;
use super::tree::StrandedView;
use crate::restore::request::{RestoreReport, RestoreRequest};
use crate::restore::run::restore_entries_of;
use crate::source::exclude::Excludes;
use crate::support::progress::Progress;
use serde::Serialize;
use std::sync::atomic::Ordering;

/// The report of a taking.
#[derive(Clone, Debug, Serialize)]
pub struct TakeReport {
    /// Number of paths that were chosen.
    pub chosen: u64,
    /// Number of paths that could have been taken and were not chosen.
    pub remaining: u64,
    #[serde(flatten)]
    pub report: RestoreReport,
}

impl TakeReport {
    /// Returns whether all that a person could take is in the tree.
    pub fn is_all(&self) -> bool {
        self.remaining == 0 && self.report.warnings.damaged + self.report.warnings.missing == 0
    }
}

/// Adds the chosen entries to the directory of `request`.
///
/// # Errors
/// Nothing is chosen, or the rest cannot be added.
pub fn take(
    view: &StrandedView,
    choice: Choice,
    transient: Excludes,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<TakeReport, StrandedError> {
    let (mut chosen, mut to_take) = (0, 0);
    let (counts, _) = view.each(&transient, |class, three| {
        let is_chosen = choice.has(class, three);
        chosen += u64::from(is_chosen);
        let is_to_take = matches!(class, Class::Only | Class::Both);
        to_take += u64::from(is_chosen && is_to_take);
        Ok::<_, StrandedError>(())
    })?;
    if chosen == 0 {
        let named: Vec<_> = choice.paths.iter().map(ToString::to_string).collect();
        let what = if named.is_empty() { "--new".to_owned() } else { named.join(", ") };
        return Err(StrandedError::NothingChosen(what));
    }
    progress.expected_entries.store(chosen, Ordering::Relaxed);
    let paths = view.paths()?.filter_map(move |three| match three {
        Ok(three) => {
            let class = three.class(&transient).filter(|class| choice.has(*class, &three));
            class.and(three.here).map(|entry| Ok(entry.path))
        }
        Err(error) => Some(Err(error)),
    });
    let entries = Chosen::new(view.manifests().entries(&view.stranded.manifest), paths);
    let tag = format!("stranded-{}-{}", view.sequence, &view.stranded.manifest.page.to_string()[..16]);
    let report = restore_entries_of(view.chunks.clone(), entries, &tag, request, progress)?;
    Ok(TakeReport { chosen, remaining: counts.to_take() - to_take, report })
}
