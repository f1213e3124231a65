//! The errors of a repository, with the key of the object.

use super::distrust::Distrust;
use super::key_change::KeyChange;
use crate::format::passphrase::PASSPHRASE_MIN_CHARS;
use crate::format::wire::FormatError;
use crate::model::authority::Irregularity;
use crate::model::closure::Misplaced;
use crate::model::id::{ChunkId, Sequence, StoreName};
use crate::model::record::FoldError;
use crate::support::failure::{Failure, FailureKind};
use crate::support::trusted;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An error of the repository layer.
#[derive(Debug, Error)]
pub enum RepositoryError {
    #[error("{}{operation} failed: {reason}", at(key, *kind))]
    Request { operation: &'static str, key: String, reason: String, kind: FailureKind },
    #[error("{key}: the {what} is missing; run `understudy verify` to see what is affected")]
    MissingObject { key: String, what: &'static str },
    #[error("repository address '{location}': {reason}")]
    Location { location: String, reason: String },
    #[error(
        "repository '{0}' ignores create-only conditions: two writers would overwrite each other's records. Use a backend that honours If-None-Match (S3, GCS, Azure, MinIO, Ceph, Garage 2, a local directory)"
    )]
    TwoWin(String),
    #[error("{key}: {source}; run `understudy verify` to see what is affected")]
    Format { key: String, source: FormatError },
    #[error("chunk {chunk} is in no index; run `understudy verify` to see what is affected")]
    UnknownChunk { chunk: ChunkId },
    #[error(
        "store '{store}': its log is damaged: {source}; run `understudy verify {store}` to see what is affected"
    )]
    Log { store: StoreName, source: FoldError },
    #[error("store '{store}': the decision would have no effect, and nothing was appended: {source}")]
    Decision { store: StoreName, source: Irregularity },
    #[error("store '{0}' has no snapshot here; `understudy status` lists the stores")]
    NoStore(StoreName),
    #[error("store '{store}' has no snapshot {wanted}; available: {available}")]
    NoSnapshot { store: StoreName, wanted: String, available: String },
    #[error("{path}: its manifest entry is inconsistent; run `understudy verify` to see what is affected")]
    Entry { path: String },
    #[error(
        "store '{store}': record {sequence} is missing from its log; run `understudy verify {store}` to see what is affected"
    )]
    MissingRecord { store: StoreName, sequence: Sequence },
    #[error(
        "store '{store}' is encrypted, and no key here opens it. It claims to have the keys {slots}, which cannot be checked without a key. Give the key file (--key-file, `key_file`; looked for at {}) or the passphrase (UNDERSTUDY_PASSPHRASE){reason}", key_file.display()
    )]
    NoKey { store: StoreName, slots: String, key_file: PathBuf, reason: String },
    #[error("key file {}: a line is not an age identity (AGE-SECRET-KEY-1…)", path.display())]
    KeyFile { path: PathBuf },
    #[error("key file {}", unread(path, source))]
    ReadKeyFile { path: PathBuf, source: std::io::Error },
    #[error("key file {}: it exists and was not changed; name another file", .0.display())]
    KeyFileExists(PathBuf),
    #[error("key file {}: it contains no key; give another file, or move it away so that a new one is created", .0.display())]
    EmptyKeyFile(PathBuf),
    #[error(
        "store '{0}' is new and would be encrypted, but there is no place for its key: give --key-file, or set HOME, or `encryption = \"none\"`"
    )]
    NoPlaceForKey(StoreName),
    #[error(
        "store '{0}' is new and the passphrase would become one of its keys, but it is too short: use at least {PASSPHRASE_MIN_CHARS} characters"
    )]
    ShortPassphrase(StoreName),
    #[error("store '{0}' is not encrypted: it has no keys to change")]
    NotEncrypted(StoreName),
    #[error(
        "store '{0}' exists and is not encrypted, but nothing here says that this is intended: nothing was written to it. If it is intended, set `encryption = \"none\"` for it, or give --allow-unencrypted once"
    )]
    Unconfirmed(StoreName),
    #[error(
        "store '{store}' has a keyring that no key here made or accepted: {maker}, for {holders}. Each of these keys can read what would be shipped. If they are yours, give --trust-keyring once"
    )]
    StrangeKeyring { store: StoreName, maker: String, holders: String },
    #[error("{key}: {reason}. If that is intended, delete {}", note.display())]
    Distrusted { key: String, reason: Distrust, note: PathBuf },
    #[error(
        "store '{store}' has no keyring, but this host saw it encrypted before: the keyring was removed. If that is intended, delete {}", note.display()
    )]
    KeyringGone { store: StoreName, note: PathBuf },
    #[error(
        "store '{store}': record {sequence} names keyring {ring}, which is missing here, or the record is not sealed with that keyring's newest key: the record was forged, or the keyring was rolled back"
    )]
    Unnamed { store: StoreName, sequence: Sequence, ring: u32 },
    #[error(
        "{}: cannot read what this host remembers of store '{store}'. Restore this file; without it, this host would accept whatever the repository has now", note.display()
    )]
    Memory { store: StoreName, note: PathBuf },
    #[error(
        "store '{store}': an object {} with data key {generation}, but the store's keyring has {known}: an object was exchanged, or the keyring was rolled back",
        if *generation == 0 { "without a seal stands where all are sealed, or" } else { "is sealed" }
    )]
    Keyring { store: StoreName, generation: u32, known: u32 },
    #[error("store '{store}': the keys were not changed: {change}")]
    KeyChange { store: StoreName, change: KeyChange },
    #[error(
        "store '{store}': its log was rolled back: this host saw record {seen}, and now the log {found}. If that is intended, delete {}", note.display()
    )]
    RolledBack { store: StoreName, seen: Sequence, found: String, note: PathBuf },
    /// A manifest that could not be restored: a fault of this program, found before it did harm.
    #[error("{path}: {misplaced}; nothing was committed; this is a bug in understudy")]
    Unsound { path: String, misplaced: Misplaced },
    #[error("{what}: {source}{}", advice(source))]
    Local { what: String, source: std::io::Error },
}

/// Returns the path of a file that was not read, and why: a refusal names the path itself.
fn unread(path: &Path, source: &std::io::Error) -> String {
    match trusted::is_distrust(source) {
        true => source.to_string(),
        false => format!("{}: {source}", path.display()),
    }
}

/// Returns the key, then who failed: the repository, unless it was this machine.
fn at(key: &str, kind: FailureKind) -> String {
    match (key, kind) {
        ("", _) => "repository: ".to_owned(),
        (_, FailureKind::Failed) => format!("{key}: "),
        _ => format!("{key}: repository "),
    }
}

/// Returns advice for an error of this machine, where the error itself gives none.
pub(crate) fn advice(error: &std::io::Error) -> &'static str {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => {
            "; this process has too many open files: raise its limit (`ulimit -n`, LimitNOFILE)"
        }
        Some(Errno::NFILE) => "; this machine has too many open files: raise its limit (fs.file-max)",
        Some(Errno::NOMEM) => "; this machine, or this process's control group, is out of memory",
        _ => "",
    }
}

impl Failure for RepositoryError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Request { kind, .. } => *kind,
            Self::Location { .. }
            | Self::TwoWin(_)
            | Self::NoKey { .. }
            | Self::KeyFile { .. }
            | Self::KeyFileExists(_)
            | Self::EmptyKeyFile(_)
            | Self::NoPlaceForKey(_)
            | Self::ShortPassphrase(_)
            | Self::NotEncrypted(_)
            | Self::Unconfirmed(_)
            | Self::StrangeKeyring { .. } => FailureKind::Usage,
            Self::Decision { source: Irregularity::NotPrimary(_), .. } => FailureKind::Fenced,
            Self::Decision { .. } => FailureKind::Usage,
            Self::KeyChange { change, .. } => change.kind(),
            Self::Keyring { .. }
            | Self::RolledBack { .. }
            | Self::Distrusted { .. }
            | Self::KeyringGone { .. }
            | Self::Unnamed { .. }
            | Self::Format { .. }
            | Self::UnknownChunk { .. }
            | Self::Log { .. }
            | Self::Entry { .. }
            | Self::MissingRecord { .. }
            | Self::MissingObject { .. } => FailureKind::Damaged,
            Self::NoStore(_) | Self::NoSnapshot { .. } => FailureKind::Missing,
            // One that is refused, or is not there: give another.
            Self::ReadKeyFile { source, .. } if advice(source).is_empty() => FailureKind::Usage,
            Self::ReadKeyFile { .. } | Self::Local { .. } | Self::Memory { .. } | Self::Unsound { .. } => {
                FailureKind::Failed
            }
        }
    }
}

impl RepositoryError {
    /// Returns the error of a writer that gives up after losing `count` races for the next record.
    pub(crate) fn lost_races(store: &StoreName, count: u32) -> Self {
        Self::Request {
            operation: "put",
            key: super::object_key::log_prefix(store).to_string(),
            reason: format!("lost {count} races for the next record"),
            kind: FailureKind::Unavailable,
        }
    }

    /// Adds the key to a decoder's error.
    pub(crate) fn format(key: impl ToString) -> impl FnOnce(FormatError) -> Self {
        move |source| Self::Format { key: key.to_string(), source }
    }

    /// Adds the attempted action to an error of this machine.
    pub fn local(what: impl ToString) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Local { what: what.to_string(), source }
    }
}
