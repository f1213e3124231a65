//! Merge-joins three manifests over the pages in which they differ. Pure over its streams.
//!
//! A path that the former primary changed is on a page that its manifest and the base's do not share. Its
//! entry of the new primary is on a page that the new primary's manifest and the former one's do not share,
//! or it is that of the former primary. So four streams of differing pages suffice, and memory holds a window
//! of each, whatever the size of the trees.

use super::class::Three;
use crate::model::diff::next_side;
use crate::model::entry::Entry;
use crate::model::manifest_root::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{EntryStream, ManifestReader};
use std::cmp::Ordering;
use std::iter::Peekable;

/// Paths that may differ between the base and the former primary, in order, with their three entries.
pub struct Comparison<S: Iterator> {
    /// The entries on pages that base and former primary do not share.
    base: Peekable<S>,
    here: Peekable<S>,
    /// The entries on pages that former and new primary do not share.
    apart: Peekable<S>,
    theirs: Peekable<S>,
}

impl Comparison<EntryStream> {
    /// Compares three manifests; one that does not exist is empty.
    ///
    /// # Errors
    /// A page above the leaves cannot be read.
    pub(crate) fn of(
        manifests: &ManifestReader,
        base: Option<&ManifestRoot>,
        here: &ManifestRoot,
        theirs: Option<&ManifestRoot>,
    ) -> Result<Self, RepositoryError> {
        let differing = |other: Option<&ManifestRoot>| match other {
            None => Ok((EntryStream::none(), manifests.entries(here))),
            Some(other) => {
                let (other, here) = manifests.differing_leaves(other, here)?;
                Ok::<_, RepositoryError>((manifests.entries_of(other), manifests.entries_of(here)))
            }
        };
        let ((base, here), (theirs, apart)) = (differing(base)?, differing(theirs)?);
        Ok(Self::new(base, here, apart, theirs))
    }
}

impl<S: Iterator<Item = Result<Entry, E>>, E> Comparison<S> {
    fn new(base: S, here: S, apart: S, theirs: S) -> Self {
        let [base, here, apart, theirs] = [base, here, apart, theirs].map(Iterator::peekable);
        Self { base, here, apart, theirs }
    }

    fn step(&mut self) -> Result<Option<Three>, E> {
        let Some(side) = next_side(peeked(&mut self.base)?, peeked(&mut self.here)?) else { return Ok(None) };
        let base = if side == Ordering::Greater { None } else { self.base.next().transpose()? };
        let here = if side == Ordering::Less { None } else { self.here.next().transpose()? };
        let Some(path) = here.as_ref().or(base.as_ref()).map(|entry| &entry.path) else { return Ok(None) };
        let apart = at(&mut self.apart, path)?;
        let theirs = at(&mut self.theirs, path)?;
        // Its page is shared with the new primary, which therefore has the same entry.
        let shared = || here.clone().filter(|_| apart.is_none());
        let theirs = theirs.or_else(shared);
        Ok(Some(Three { base, here, theirs }))
    }
}

impl<S: Iterator<Item = Result<Entry, E>>, E> Iterator for Comparison<S> {
    type Item = Result<Three, E>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Returns the next entry without taking it. An error is taken.
fn peeked<'s, S: Iterator<Item = Result<Entry, E>>, E: 's>(
    stream: &'s mut Peekable<S>,
) -> Result<Option<&'s Entry>, E> {
    if let Some(error) = stream.next_if(Result::is_err) {
        error?;
    }
    Ok(stream.peek().and_then(|entry| entry.as_ref().ok()))
}

/// Takes the entry at `path`, and drops those before it.
fn at<S: Iterator<Item = Result<Entry, E>>, E>(
    stream: &mut Peekable<S>,
    path: &TreePath,
) -> Result<Option<Entry>, E> {
    while peeked(stream)?.is_some_and(|entry| entry.path < *path) {
        stream.next();
    }
    match peeked(stream)?.is_some_and(|entry| entry.path == *path) {
        true => stream.next().transpose(),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::Class;
    use super::*;
    use crate::api::stranded::StrandedCounts;
    use crate::model::entry::{Content, File, Fingerprint, Kind, Timestamp, Xattrs};
    use crate::model::id::ContentHash;
    use crate::source::exclude::Excludes;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A tree: for each path the content of a file, or a directory with an mtime.
    type Tree = BTreeMap<u8, (bool, u8)>;

    fn path(number: u8) -> TreePath {
        let top = if number.is_multiple_of(5) { "var/cache/" } else { "" };
        TreePath::parse(format!("{top}{number:03}").as_bytes()).unwrap()
    }

    fn entry(number: u8, (is_file, value): (bool, u8)) -> Entry {
        let file = || File {
            size_bytes: 1,
            hash: ContentHash([value; 32]),
            content: Content::Whole { blocks: None },
            torn: false,
        };
        let seconds = if is_file { 0 } else { i64::from(value) };
        Entry {
            path: path(number),
            kind: if is_file { Kind::File(file()) } else { Kind::Directory },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { seconds, nanos: 0 },
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint::default(),
        }
    }

    /// Returns the entries of a tree by page: a page ends at some paths, whatever the tree.
    fn pages(tree: &Tree) -> Vec<Vec<Entry>> {
        let mut entries: Vec<_> = tree.iter().map(|(number, value)| entry(*number, *value)).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let ends = |entry: &Entry| blake3::hash(entry.path.as_bytes()).as_bytes()[0].is_multiple_of(3);
        entries.split_inclusive(ends).map(<[_]>::to_vec).collect()
    }

    type Stream = std::vec::IntoIter<Result<Entry, ()>>;

    fn differing(a: &Tree, b: &Tree) -> (Stream, Stream) {
        let (a, b) = (pages(a), pages(b));
        let only = |of: &Vec<Vec<Entry>>, not: &Vec<Vec<Entry>>| {
            let pages = of.iter().filter(|page| !not.contains(page));
            pages.flatten().cloned().map(Ok).collect::<Vec<_>>().into_iter()
        };
        (only(&a, &b), only(&b, &a))
    }

    /// The definition, path by path.
    fn naive(base: &Tree, here: &Tree, theirs: &Tree) -> BTreeMap<TreePath, Class> {
        let seen = |tree: &Tree, number: &u8| {
            tree.get(number).map(|(is_file, value)| (*is_file, if *is_file { *value } else { 0 }))
        };
        let numbers: BTreeSet<_> = base.keys().chain(here.keys()).chain(theirs.keys()).collect();
        let classes = numbers.into_iter().filter_map(|number| {
            let [base, here, theirs] = [base, here, theirs].map(|tree| seen(tree, number));
            let class = if here == base {
                return None;
            } else if here == theirs {
                Class::Same
            } else if number.is_multiple_of(5) {
                Class::Transient
            } else if here.is_none() {
                Class::Deleted
            } else if theirs == base {
                Class::Only
            } else {
                Class::Both
            };
            Some((path(*number), class))
        });
        classes.collect()
    }

    fn tree() -> impl Strategy<Value = Tree> {
        prop::collection::btree_map(0u8..24, (any::<bool>(), 0u8..3), 0..16)
    }

    proptest! {
        #[test]
        fn the_classes_of_differing_pages_are_those_of_all_paths(
            base in tree(), here in tree(), theirs in tree(), like in 0u8..4,
        ) {
            // Trees that share most pages are the usual case.
            let mix = |a: &Tree, b: &Tree| a.iter().filter(|(n, _)| **n < 18)
                .chain(b.iter().filter(|(n, _)| **n >= 18)).map(|(n, v)| (*n, *v)).collect::<Tree>();
            let here = if like & 1 == 1 { mix(&base, &here) } else { here };
            let theirs = if like & 2 == 2 { mix(&here, &theirs) } else { theirs };
            let ((b, h), (a, t)) = (differing(&base, &here), differing(&here, &theirs));
            let transient = Excludes::parse(&["var/cache/".to_owned()]).unwrap();
            let (mut found, mut counts) = (BTreeMap::new(), StrandedCounts::default());
            for three in Comparison::new(b, h, a, t) {
                let three = three.unwrap();
                if let Some(class) = three.class(&transient) {
                    counts.count(class, &three);
                    found.insert(three.entry().unwrap().path.clone(), class);
                }
            }
            let expected = naive(&base, &here, &theirs);
            let number = |class| expected.values().filter(|c| **c == class).count() as u64;
            prop_assert_eq!(counts.only, number(Class::Only));
            prop_assert_eq!(counts.is_stranded(), [Class::Only, Class::Both, Class::Deleted].into_iter().any(|c| number(c) > 0));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_error_of_any_stream_is_passed_on() {
        for failing in 0..4 {
            let stream = |number| {
                let items = if number == failing { vec![Err(())] } else { vec![Ok(entry(1, (true, 1)))] };
                items.into_iter()
            };
            let mut all = Comparison::new(stream(0), stream(1), stream(2), stream(3));
            assert_eq!(all.next(), Some(Err(())), "stream {failing}");
        }
    }
}
