//! Seeds: the primary's data at one position, brought to a standby through the repository.
//!
//! `mariadb-backup` copies the server's files and makes them whole; a resync ships them as the store
//! `NAME.database`, with the same chunks, deltas and seals as the store's files. So a standby needs no path to
//! the primary to be seeded, and the next seed ships what changed. The position travels in a file beside the
//! data. The root directory is kept from seed to seed, since a new one looks like another filesystem.
//!
//! Until the position is written, what lies there is no seed: a copy that was broken off is made again.

use super::client::Client;
use super::error::DatabaseError;
use super::facts::Variables;
use super::process::{Leashed, check_series};
use super::server::Server;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::Moment;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::repository::store::Store;
use crate::restore::error::RestoreError;
use crate::restore::request::{Existing, RestoreReport, RestoreRequest};
use crate::restore::run::restore;
use crate::support::durable;
use crate::support::env::Env;
use crate::support::progress::Progress;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What follows a store's name in the name of its database's store.
const SUFFIX: &str = ".database";
/// The note beside the data.
pub const NOTE: &str = "seed.json";
/// The data.
pub const DATA: &str = "data";
/// Memory with which a copy is made whole.
const PREPARE_MEMORY: &str = "64M";
/// Maximum size of a note.
const NOTE_MAX_BYTES: u64 = 1 << 20;
/// Where the tool leaves the position: its name was changed once.
const POSITIONS: [&str; 2] = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];

/// What a seed says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedNote {
    /// All up to here is in the data.
    pub position: GtidPosition,
    /// The primary's variables when the seed was made.
    pub variables: Variables,
    /// Path of the binary logs, without their numbers, of a server whose data was taken over: what they say of
    /// past transactions is needed. None for our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bin: Option<String>,
}

/// Returns the name of the store that holds the seeds of a store's database.
///
/// # Errors
/// The name would be too long.
pub fn store_name(store: &StoreName) -> Result<StoreName, DatabaseError> {
    StoreName::parse(&format!("{store}{SUFFIX}")).map_err(|_| {
        DatabaseError::Settings(format!(
            "store '{store}': its name is too long for a database; `{SUFFIX}` is added to it"
        ))
    })
}

/// Returns the directory of the data below a replica's directory: a seed's, or a server's own that was adopted.
pub fn data_dir(root: &Path) -> PathBuf {
    if root.join("ibdata1").exists() { root.to_owned() } else { root.join(DATA) }
}

impl SeedNote {
    /// Reads the note of a seed; none where there is no whole seed.
    pub fn read(root: &Path) -> Result<Option<Self>, DatabaseError> {
        let path = root.join(NOTE);
        let file = |source| DatabaseError::File { path: path.clone(), source };
        let mut text = String::new();
        match File::open(&path) {
            Ok(opened) => opened.take(NOTE_MAX_BYTES).read_to_string(&mut text).map_err(file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file(error)),
        };
        match serde_json::from_str(&text) {
            Ok(note) => Ok(Some(note)),
            Err(error) => Err(DatabaseError::Content { path, text: format!("{error}; seed again") }),
        }
    }
}

/// Makes a copy of the server's data in `root`, replacing the last one.
///
/// # Errors
/// The tool is missing or of another version, or its error.
pub fn back_up(client: &Client, root: &Path, stop: &dyn Fn() -> bool) -> Result<SeedNote, DatabaseError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| DatabaseError::File { path, source }
    };
    let variables = Server::new(client.clone()).variables()?;
    check_series("mariadb-backup", "mariadb-backup", variables.text("version"))?;
    let served = Path::new(variables.text("datadir"));
    if !served.join("ibdata1").exists() {
        return Err(DatabaseError::Settings(format!(
            "{}: the server's data is not on this host, where it is copied from; seed on the host of the server, as a user who may read it",
            served.display()
        )));
    }
    let (data, note) = (root.join(DATA), root.join(NOTE));
    durable::create_dirs(root).map_err(file(root))?;
    for gone in [std::fs::remove_file(&note), std::fs::remove_dir_all(&data)] {
        match gone {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(file(root)(error)),
            _ => {}
        }
    }
    let log_path = PathBuf::from(format!("{}.log", root.display()));
    let log = File::create(&log_path).map_err(file(&log_path))?;
    let target = format!("--target-dir={}", data.display());
    let mut copy = client.options();
    copy.extend(["--backup".to_owned(), target.clone()]);
    run(&client.env, &copy, (&log, &log_path), stop)?;
    let prepare =
        ["--no-defaults".to_owned(), "--prepare".into(), target, format!("--use-memory={PREPARE_MEMORY}")];
    run(&client.env, &prepare, (&log, &log_path), stop)?;
    let seed = SeedNote { position: position_in(&data)?, variables, log_bin: None };
    let text = serde_json::to_vec_pretty(&seed).unwrap_or_default();
    durable::replace(&client.env, &note, 0o600, &text).map_err(file(&note))?;
    Ok(seed)
}

fn run(
    env: &Env,
    arguments: &[String],
    log: (&File, &Path),
    stop: &dyn Fn() -> bool,
) -> Result<(), DatabaseError> {
    let (program, package) = ("mariadb-backup", "mariadb-backup");
    let mut running = Leashed::start(program, arguments, log.0, package)?;
    match running.wait(env, stop)?.success() {
        true => Ok(()),
        false => Err(DatabaseError::Tool { program: program.to_owned(), text: super::process::tail(log.1) }),
    }
}

/// Reads the position of a copy: its file's third column.
fn position_in(data: &Path) -> Result<GtidPosition, DatabaseError> {
    let path = POSITIONS.iter().map(|name| data.join(name)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| data.join(POSITIONS[0]));
    let text = std::fs::read_to_string(&path)
        .map_err(|source| DatabaseError::File { path: path.clone(), source })?;
    let position = text.split_whitespace().nth(2).unwrap_or_default().parse::<GtidPosition>();
    match position {
        Ok(position) if !position.is_empty() => Ok(position),
        _ => Err(DatabaseError::Content {
            path,
            text: "no position in it: the primary has committed nothing under a gtid_domain_id of its own; see `understudy database check`".into(),
        }),
    }
}

/// Restores a seed into a replica's directory.
///
/// `is_ours` says that what is there is an older replica, which is overwritten where it differs; a directory
/// that holds anything else is refused.
///
/// # Errors
/// Those of the restore.
pub fn bring(
    store: &Store,
    moment: Moment,
    root: &Path,
    is_ours: bool,
    how: (usize, Vec<PathBuf>),
    progress: &Progress,
) -> Result<(Sequence, RestoreReport), RestoreError> {
    let state = store.log().state()?;
    let (sequence, record) = store.log().find(&state, moment)?;
    let index = Arc::new(Index::open(store, &state)?);
    let request = RestoreRequest {
        destination: root.to_owned(),
        path: TreePath::root(),
        existing: if is_ours { Existing::Mirror } else { Existing::Refuse },
        threads: how.0,
        own: how.1,
        local: None,
    };
    let tag = record.manifest.page.to_string()[..16].to_owned();
    let report = restore(ChunkReader::new(store.clone(), index), &record.manifest, &tag, &request, progress)?;
    Ok((sequence, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_by_both_names_and_its_absence_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let said = position_in(dir.path()).unwrap_err().to_string();
        assert!(said.contains("xtrabackup_binlog_info"), "{said}");
        let file = dir.path().join("mariadb_backup_binlog_info");
        std::fs::write(&file, "bin.000001\t330\t1-11-42,7-1-3\n").unwrap();
        assert_eq!(position_in(dir.path()).unwrap().to_string(), "1-11-42,7-1-3");
        std::fs::write(&file, "bin.000001\t330\t\n").unwrap();
        assert!(position_in(dir.path()).unwrap_err().to_string().contains("database check"));
    }

    #[test]
    fn a_seed_s_store_has_a_name_of_its_own() {
        assert_eq!(store_name(&StoreName::parse("acme").unwrap()).unwrap().as_str(), "acme.database");
        assert!(store_name(&StoreName::parse(&"a".repeat(60)).unwrap()).is_err());
    }
}
