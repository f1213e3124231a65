//! Files of which one whole version exists at any time, and which may be lost: a cache's.
//!
//! They are not synced to the disk: see `durable` for files that must be there. A process that is killed
//! leaves a temporary file, which is recognised by its name.

use super::private;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Returns a number for a file's name; no two threads of this process get the same.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Writes a temporary file and renames it, so that no reader sees a part of it. Makes its directory.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        private::make_dirs(dir)?;
    }
    let temporary = path.with_extension(format!("{}-{}", std::process::id(), unique()));
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written =
        file.and_then(|mut file| file.write_all(bytes)).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // On a full disk, the partial file must not take up space.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Returns whether a name is one of a temporary file of [`replace`].
pub(crate) fn is_temporary(name: &str) -> bool {
    let suffix = name.rsplit_once('.').and_then(|(_, suffix)| suffix.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    suffix.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the way makes the rename fail, as a full disk makes the write fail.
        std::fs::create_dir_all(dir.path().join("head/in-the-way")).unwrap();
        assert!(replace(&dir.path().join("head"), b"note").is_err());
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["head"]);
    }
}
