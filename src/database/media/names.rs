//! The names that rows have: a hash of each in memory, and the names themselves in a file that has no name, so that
//! nothing of it stays when this process ends.
//!
//! Two names with one hash would be taken for one: with 16 bytes that does not happen by chance, and who makes two
//! such names hides one of them from a report, no more.

use crate::database::error::DatabaseError;
use crate::model::tree_path::TreePath;
use crate::support::env::Env;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Maximum number of names: 160 MB of hashes.
const NAMES_MAX: usize = 10_000_000;

type Hash = [u8; 16];

fn hash(path: &TreePath) -> Hash {
    let mut short = Hash::default();
    short.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..16]);
    short
}

/// Names that are collected.
pub(super) struct Collecting {
    hashes: Vec<Hash>,
    spool: BufWriter<File>,
    dir: PathBuf,
}

/// All names, each once.
pub(super) struct Names {
    /// Ascending; the flag says that there is a file.
    hashes: Vec<(Hash, bool)>,
    spool: File,
    dir: PathBuf,
}

impl Collecting {
    /// Begins, with a file in this directory of our own.
    pub fn begin(dir: &Path, env: &Env) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::File { path: dir.to_owned(), source };
        crate::support::private::make_dirs(dir).map_err(failed)?;
        let path = dir.join(format!("media-{:016x}", env.nonce()));
        let opened = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let spool = opened.map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Self { hashes: Vec::new(), spool: BufWriter::new(spool), dir: dir.to_owned() })
    }

    fn failed(&self, source: io::Error) -> DatabaseError {
        DatabaseError::File { path: self.dir.clone(), source }
    }

    pub fn add(&mut self, path: &TreePath) -> Result<(), DatabaseError> {
        if self.hashes.len() >= NAMES_MAX {
            self.hashes.sort_unstable();
            self.hashes.dedup();
            // Else each further name would sort them all again.
            if self.hashes.len() >= NAMES_MAX / 10 * 9 {
                return Err(DatabaseError::Settings(format!(
                    "the database names more than {NAMES_MAX} files, and so many are not compared"
                )));
            }
        }
        self.hashes.push(hash(path));
        let bytes = path.as_bytes();
        let length = (bytes.len() as u32).to_le_bytes();
        let written = self.spool.write_all(&length).and_then(|()| self.spool.write_all(bytes));
        written.map_err(|source| self.failed(source))
    }

    pub fn finish(self) -> Result<Names, DatabaseError> {
        let Self { mut hashes, spool, dir } = self;
        let spool = spool
            .into_inner()
            .map_err(|error| DatabaseError::File { path: dir.clone(), source: error.into_error() })?;
        hashes.sort_unstable();
        hashes.dedup();
        Ok(Names { hashes: hashes.into_iter().map(|hash| (hash, false)).collect(), spool, dir })
    }
}

impl Names {
    pub fn count(&self) -> u64 {
        self.hashes.len() as u64
    }

    fn at(&self, path: &TreePath) -> Option<usize> {
        let hash = hash(path);
        self.hashes.binary_search_by(|(other, _)| other.cmp(&hash)).ok()
    }

    pub fn has(&self, path: &TreePath) -> bool {
        self.at(path).is_some()
    }

    /// Notes that a file is there; returns whether a row names it.
    pub fn found(&mut self, path: &TreePath) -> bool {
        let at = self.at(path);
        if let Some(at) = at {
            self.hashes[at].1 = true;
        }
        at.is_some()
    }

    /// Calls `each` with each name that has no file, in the order of the rows.
    pub fn missing<E: From<DatabaseError>>(
        mut self,
        each: &mut dyn FnMut(TreePath) -> Result<(), E>,
    ) -> Result<(), E> {
        let dir = self.dir.clone();
        let failed = |source| DatabaseError::File { path: dir.clone(), source };
        self.spool.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut spool = BufReader::new(self.spool.try_clone().map_err(failed)?);
        let mut length = [0; 4];
        loop {
            match spool.read_exact(&mut length) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(failed(error).into()),
            }
            let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
            spool.read_exact(&mut bytes).map_err(failed)?;
            let path = TreePath::parse(&bytes).map_err(|error| failed(io::Error::other(error)))?;
            // The second row that names a file names it in vain.
            if self.at(&path).is_some_and(|at| !std::mem::replace(&mut self.hashes[at].1, true)) {
                each(path)?;
            }
        }
    }
}
