//! The entries of one directory, by its path.
//!
//! `walkdir` gives them with their kinds and follows no symlink but the directory itself. It also opens each directory that it
//! meets, even if nothing below is wanted. So this is for directories that hold only this program's files; where
//! other users' may lie (`/tmp`), `std::fs::read_dir` looks at names alone.
//!
//! What can race: an entry that vanishes in the meantime is left out. A walk that must not be led elsewhere by an exchanged name
//! takes handles instead (`source::disk`, `restore::at`, `maintain::leftovers`).

use std::io::{self, ErrorKind};
use std::path::Path;
use walkdir::{DirEntry, WalkDir};

/// Returns the entries of `dir`, in no order. A directory that cannot be listed gives its error as the only item.
pub fn entries(dir: &Path) -> impl Iterator<Item = io::Result<DirEntry>> {
    WalkDir::new(dir).max_depth(1).into_iter().filter_map(|found| match found {
        // A file is walked as well, and has nothing below it.
        Ok(root) if root.depth() == 0 => {
            (!root.path().is_dir()).then(|| Err(rustix::io::Errno::NOTDIR.into()))
        }
        Ok(entry) => Some(Ok(entry)),
        // Where a directory does not say of what kind its entries are, `walkdir` looks at each.
        Err(error) if error.depth() > 0 && is_gone(&error) => None,
        Err(error) => Some(Err(plain(error))),
    })
}

fn is_gone(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Returns the kernel's error alone, as `std::fs` gives it: the caller names the path.
fn plain(error: walkdir::Error) -> io::Error {
    error.into_io_error().unwrap_or_else(|| ErrorKind::Other.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(dir: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<DirEntry>| Ok(entry?.file_name().to_str().unwrap().to_owned());
        let mut names = entries(dir).map(name).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    #[test]
    fn entries_are_those_of_the_directory_alone_and_symlinks_stay_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("list/below")).unwrap();
        std::fs::write(at("list/below/deep"), "").unwrap();
        std::fs::write(at("list/file"), "").unwrap();
        symlink("below", at("list/link")).unwrap();
        symlink("nowhere", at("list/dangling")).unwrap();
        symlink("list", at("to-list")).unwrap();
        let all = ["below", "dangling", "file", "link"];
        assert_eq!(names(&at("list")).unwrap(), all);
        assert_eq!(names(&at("to-list")).unwrap(), all);
        let listed = at("list");
        let directories = entries(&listed).filter(|e| e.as_ref().unwrap().file_type().is_dir());
        assert_eq!(directories.count(), 1);
    }

    #[test]
    fn what_cannot_be_listed_is_one_error_as_the_standard_library_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        symlink("file", at("to-file")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for name in ["none", "file", "to-file", "loop", "file/below"] {
            let wanted = std::fs::read_dir(at(name)).unwrap_err();
            let found: Vec<_> = entries(&at(name)).map(Result::unwrap_err).collect();
            assert_eq!(found.iter().map(io::Error::kind).collect::<Vec<_>>(), [wanted.kind()], "{name}");
        }
    }
}
