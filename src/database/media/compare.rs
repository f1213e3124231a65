//! Compares what rows name with the files of a snapshot.

use super::names::{Collecting, Names};
use super::reader::Reader;
use super::rule::Rule;
use super::values::each_value;
use crate::database::client::Client;
use crate::database::error::DatabaseError;
use crate::model::entry::Kind;
use crate::model::id::Sequence;
use crate::model::record::{ManifestRoot, StoreState};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::support::env::Env;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time for one query.
const QUERY_LIMIT: Duration = Duration::from_secs(3600);
/// Maximum number of paths of a kind that a report keeps.
const LISTED_MAX: usize = 20;
/// Number of characters of a refused value that are shown.
const SHOWN_MAX_CHARS: usize = 120;

/// What is wrong with a path or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A row names it, and there is no such file.
    Missing,
    /// It is there, and no row names it.
    Unnamed,
    /// A value that names no file below the store.
    Refused,
}

/// Paths of one kind: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub count: u64,
    pub first: Vec<String>,
}

impl Listed {
    fn note(&mut self, path: &str) {
        self.count += 1;
        if self.first.len() < LISTED_MAX {
            self.first.push(path.to_owned());
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaReport {
    pub snapshot: Sequence,
    pub rows: u64,
    /// Number of different files that they name.
    pub named: u64,
    /// Number of files below the directories.
    pub files: u64,
    /// Named by a row, and not there.
    pub missing: Listed,
    /// There, and named by no row.
    pub unnamed: Listed,
    /// Values that name no file below the store.
    pub refused: Listed,
    /// Directories of media that the snapshot does not have.
    pub absent: Vec<String>,
    pub seconds: f64,
}

impl MediaReport {
    /// Returns whether customers miss nothing: what is there and named by no row harms nobody.
    pub fn is_clean(&self) -> bool {
        self.missing.count == 0 && self.refused.count == 0 && self.absent.is_empty()
    }
}

/// The files of a snapshot.
pub struct Files<'a> {
    pub store: &'a Store,
    pub state: &'a StoreState,
    pub snapshot: Sequence,
    pub manifest: &'a ManifestRoot,
}

/// A comparison as it is to be.
pub struct Comparison<'a> {
    pub rules: &'a [Rule],
    pub files: Files<'a>,
    /// What asks the server.
    pub client: &'a Client,
    /// Directory of our own, for the names.
    pub dir: &'a Path,
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
}

/// Takes each path that is wrong, or each value.
pub type Tell<'a> = dyn FnMut(What, &str) -> Result<(), DatabaseError> + 'a;

impl Comparison<'_> {
    /// Compares; `tell` is called with all that is wrong.
    ///
    /// # Errors
    /// The server's, the repository's, or those of `tell`.
    pub fn run(&self, tell: &mut Tell) -> Result<MediaReport, DatabaseError> {
        let begun = self.env.stopwatch();
        let mut report = MediaReport { snapshot: self.files.snapshot, ..MediaReport::default() };
        let mut names = self.ask(&mut report, tell)?;
        report.named = names.count();
        self.look(&mut names, &mut report, tell)?;
        names.missing::<DatabaseError>(&mut |path: TreePath| {
            let path = path.to_string();
            report.missing.note(&path);
            tell(What::Missing, &path)
        })?;
        report.seconds = begun.seconds();
        Ok(report)
    }

    /// Collects what the rows name.
    fn ask(&self, report: &mut MediaReport, tell: &mut Tell) -> Result<Names, DatabaseError> {
        let mut names = Collecting::begin(self.dir, self.env)?;
        let reader = Reader::make(self.client, self.dir, self.env)?;
        for rule in self.rules {
            let asked = (rule.schema.as_str(), rule.query.as_str());
            each_value(&reader.client, asked, QUERY_LIMIT, self.stop, &mut |value| {
                report.rows += 1;
                match rule.path_of(value) {
                    Ok(path) => names.add(&path),
                    Err(why) => {
                        let value = String::from_utf8_lossy(value);
                        let shown: String = value.chars().take(SHOWN_MAX_CHARS).collect();
                        let said = format!("{shown:?}: {why}");
                        report.refused.note(&said);
                        tell(What::Refused, &said)
                    }
                }
            })?;
        }
        names.finish()
    }

    /// Looks at the files below the directories, each once.
    fn look(
        &self,
        names: &mut Names,
        report: &mut MediaReport,
        tell: &mut Tell,
    ) -> Result<(), DatabaseError> {
        let Files { store, state, manifest, .. } = self.files;
        let index = Arc::new(Index::open(store, state)?);
        let manifests = ManifestReader::new(ChunkReader::new(store.clone(), index).cached());
        for directory in outermost(self.rules) {
            let mut is_there = false;
            for entry in manifests.entries_within(manifest, directory) {
                let entry = entry?;
                if (self.stop)() {
                    return Err(DatabaseError::Stopped);
                }
                is_there = true;
                if matches!(entry.kind, Kind::Directory) || !self.is_about(&entry.path) {
                    continue;
                }
                report.files += 1;
                let is_named = names.found(&entry.path);
                if !is_named && !self.needs_no_row(&entry.path, names) {
                    let path = entry.path.to_string();
                    report.unnamed.note(&path);
                    tell(What::Unnamed, &path)?;
                }
            }
            if !is_there {
                report.absent.push(directory.to_string());
            }
        }
        Ok(())
    }

    fn is_about(&self, path: &TreePath) -> bool {
        self.rules.iter().any(|rule| path.is_within(&rule.directory))
    }

    fn needs_no_row(&self, path: &TreePath, names: &Names) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.leaves_out(path) || rule.origins(path).iter().any(|origin| names.has(origin)))
    }
}

/// Returns the directories of rules that are in no other one.
fn outermost(rules: &[Rule]) -> Vec<&TreePath> {
    let all: Vec<&TreePath> = rules.iter().map(|rule| &rule.directory).collect();
    let mut kept: Vec<&TreePath> = Vec::new();
    for directory in &all {
        let is_inside = all.iter().any(|other| directory.is_within(other) && directory != other);
        if !is_inside && !kept.contains(directory) {
            kept.push(directory);
        }
    }
    kept
}
