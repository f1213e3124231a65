//! Which query names files, and where they are below the store. Pure.

use crate::model::tree_path::TreePath;
use serde::Deserialize;
use std::fmt;

/// What a template has in place of a value.
const VALUE: &str = "{value}";
/// Maximum length of a value.
pub const VALUE_MAX_BYTES: usize = 4096;
/// Maximum length of a name in a database.
const NAME_MAX_BYTES: usize = 64;
/// What WordPress adds to the name of a picture that it made smaller, or turned.
const MARKS: [&str; 2] = ["-scaled", "-rotated"];

/// A program whose media are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Magento,
    Wordpress,
}

/// A rule as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaConfig {
    pub kind: Option<Kind>,
    /// The database on the server.
    pub schema: String,
    /// What the names of the program's tables begin with.
    pub prefix: Option<String>,
    /// Query whose first column names files.
    pub query: Option<String>,
    /// Where a value's file is below the store.
    pub path: Option<String>,
    /// What is below the directory and in no row, such as a cache.
    pub exclude: Option<Vec<String>>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub schema: String,
    pub query: String,
    /// The template, in two parts.
    before: String,
    after: String,
    /// The directory below which the files are.
    pub directory: TreePath,
    /// Directories below it, and files, that no row names.
    excluded: Vec<TreePath>,
    /// Whether a row's file stands for those that were made of it.
    has_variants: bool,
}

/// Why a value names no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Empty,
    Long,
    Control,
    Climbs,
    Path,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Long => "it is too long",
            Self::Control => "it has a control character",
            Self::Climbs => "it leads out of its directory",
            Self::Path => "it is no path",
        })
    }
}

impl MediaConfig {
    /// Returns the rule. An error is a reason in words.
    pub fn rule(&self) -> Result<Rule, String> {
        let wrong = |reason: String| Err(format!("[[store.database.media]]: {reason}"));
        let prefix = self.prefix.as_deref().unwrap_or_default();
        for (key, name, is_optional) in [("schema", self.schema.as_str(), false), ("prefix", prefix, true)] {
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_$-".contains(&byte));
            if !is_name || name.len() > NAME_MAX_BYTES || (name.is_empty() && !is_optional) {
                return wrong(format!("`{key}` must be a name of letters, digits, `_`, `$` and `-`"));
            }
        }
        if prefix.contains('-') {
            return wrong("`prefix` must be a name of letters, digits, `_` and `$`".into());
        }
        let (query, path, exclude): (String, &str, &[&str]) = match (self.kind, &self.query, &self.path) {
            (Some(_), Some(_), _) => return wrong("set `kind`, or `query` and `path`".into()),
            (None, Some(query), Some(path)) => (query.clone(), path, &[]),
            (None, ..) => {
                return wrong("set `kind` (`magento` or `wordpress`), or `query` and `path`".into());
            }
            (Some(Kind::Magento), None, path) => (
                format!(
                    "SELECT value FROM {prefix}catalog_product_entity_media_gallery WHERE value IS NOT NULL"
                ),
                path.as_deref().unwrap_or("pub/media/catalog/product/{value}"),
                &["cache", "placeholder", "watermark"],
            ),
            (Some(Kind::Wordpress), None, path) => (
                format!(
                    "SELECT meta_value FROM {}postmeta WHERE meta_key = '_wp_attached_file'",
                    self.prefix.as_deref().unwrap_or("wp_")
                ),
                path.as_deref().unwrap_or("wp-content/uploads/{value}"),
                &[],
            ),
        };
        let query = query.trim().trim_end_matches(';').trim_end().to_owned();
        let is_read = query.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"));
        if !is_read || query.contains([';', '\0']) {
            return wrong("`query` must be one SELECT, without `;`".into());
        }
        let template = path.trim_start_matches('/');
        let Some((before, after)) = template.split_once(VALUE).filter(|(_, after)| !after.contains(VALUE))
        else {
            return wrong("`path` must have `{value}` once".into());
        };
        let directory = before.rsplit_once('/').map_or("", |(directory, _)| directory);
        let parse = |path: &str, key: &str| {
            TreePath::parse(path.trim_matches('/').as_bytes())
                .map_err(|error| format!("[[store.database.media]]: `{key}`: {error}"))
        };
        let directory = parse(directory, "path")?;
        let given = self.exclude.iter().flatten().map(String::as_str);
        let default = exclude.iter().copied().filter(|_| self.exclude.is_none());
        let excluded = given.chain(default).map(|below| {
            let below = parse(below, "exclude")?;
            Ok(below.components().fold(directory.clone(), |path, name| path.join(name)))
        });
        let excluded = excluded.collect::<Result<_, String>>()?;
        Ok(Rule {
            schema: self.schema.clone(),
            query,
            before: before.to_owned(),
            after: after.to_owned(),
            directory,
            excluded,
            has_variants: self.kind == Some(Kind::Wordpress),
        })
    }
}

impl Rule {
    /// Returns the file that a value names.
    ///
    /// # Errors
    /// It names none that this rule is about.
    pub fn path_of(&self, value: &[u8]) -> Result<TreePath, Refused> {
        let start = value.iter().position(|byte| *byte != b'/').unwrap_or(value.len());
        let value = &value[start..];
        match value {
            [] => return Err(Refused::Empty),
            _ if value.len() > VALUE_MAX_BYTES => return Err(Refused::Long),
            _ if value.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) => return Err(Refused::Control),
            _ => {}
        }
        let full = [self.before.as_bytes(), value, self.after.as_bytes()].concat();
        if full.split(|byte| *byte == b'/').any(|name| name == b"." || name == b"..") {
            return Err(Refused::Climbs);
        }
        let path = TreePath::parse(&full).map_err(|_| Refused::Path)?;
        if path.is_within(&self.directory) { Ok(path) } else { Err(Refused::Climbs) }
    }

    /// Returns whether no row need name a file.
    pub fn leaves_out(&self, path: &TreePath) -> bool {
        self.excluded.iter().any(|excluded| path.is_within(excluded))
    }

    /// Returns the files of which a file may have been made: a row that names one of them stands for it.
    pub fn origins(&self, path: &TreePath) -> Vec<TreePath> {
        if !self.has_variants || !path.is_within(&self.directory) {
            return Vec::new();
        }
        let Some((directory, name)) = path.split() else { return Vec::new() };
        let (Ok(name), Ok(directory)) = (std::str::from_utf8(name), TreePath::parse(directory)) else {
            return Vec::new();
        };
        let Some((stem, extension)) = name.rsplit_once('.') else { return Vec::new() };
        let plain = without_size(stem);
        let mut names = vec![format!("{plain}.{extension}")];
        names.extend(MARKS.iter().map(|mark| format!("{plain}{mark}.{extension}")));
        // The first page of a document, as a picture.
        names.extend(plain.strip_suffix("-pdf").map(|document| format!("{document}.pdf")));
        names.into_iter().filter(|other| other != name).map(|name| directory.join(name.as_bytes())).collect()
    }
}

/// Returns a name without the size at its end: `shoe-300x200` is `shoe`.
fn without_size(stem: &str) -> &str {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((plain, size)) = stem.rsplit_once('-') else { return stem };
    match size.split_once('x') {
        Some((width, height)) if is_number(width) && is_number(height) && !plain.is_empty() => plain,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(kind: Option<Kind>) -> MediaConfig {
        MediaConfig { kind, schema: "shop".into(), ..Default::default() }
    }

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_rule_is_of_a_known_program_or_of_a_query_and_a_path() {
        let magento =
            MediaConfig { prefix: Some("mg_".into()), ..config(Some(Kind::Magento)) }.rule().unwrap();
        assert!(magento.query.contains("FROM mg_catalog_product_entity_media_gallery "), "{}", magento.query);
        assert_eq!(magento.path_of(b"/m/b/mb01.jpg"), Ok(path("pub/media/catalog/product/m/b/mb01.jpg")));
        assert!(magento.leaves_out(&path("pub/media/catalog/product/cache/1/x.jpg")));
        assert!(!magento.leaves_out(&path("pub/media/catalog/product/c/a/cache.jpg")));
        let wordpress = config(Some(Kind::Wordpress)).rule().unwrap();
        assert!(wordpress.query.contains(" wp_postmeta "), "{}", wordpress.query);
        let own = |query: &str, path: &str| {
            let (query, path) = (Some(query.to_owned()), Some(path.to_owned()));
            MediaConfig { query, path, ..config(None) }.rule()
        };
        let rule = own("select file from downloads;", "/files/d-{value}.bin").unwrap();
        assert_eq!((rule.query.as_str(), &rule.directory), ("select file from downloads", &path("files")));
        assert_eq!(rule.path_of(b"7"), Ok(path("files/d-7.bin")));
        for (query, path) in [
            ("DELETE FROM a", "a/{value}"),
            ("SELECT 1; DROP TABLE a", "a/{value}"),
            ("SELECT 1", "a"),
            ("SELECT 1", "{value}{value}"),
            ("SELECT 1", "../{value}"),
        ] {
            assert!(own(query, path).unwrap_err().starts_with("[[store.database.media]]"), "{query} {path}");
        }
        assert!(config(None).rule().is_err());
        let both = MediaConfig { query: Some("SELECT 1".into()), ..config(Some(Kind::Magento)) };
        assert!(both.rule().is_err());
        for schema in ["", "a`b", "a b", "a;b"] {
            assert!(MediaConfig { schema: schema.into(), ..config(Some(Kind::Magento)) }.rule().is_err());
        }
    }

    #[test]
    fn a_value_that_leads_elsewhere_names_no_file() {
        let rule = config(Some(Kind::Magento)).rule().unwrap();
        for (value, wanted) in [
            (&b""[..], Refused::Empty),
            (b"///", Refused::Empty),
            (b"/a/../../../../etc/passwd", Refused::Climbs),
            (b"..", Refused::Climbs),
            (b"./a", Refused::Climbs),
            (b"a\nb", Refused::Control),
            (b"a\x1b[31m", Refused::Control),
            (b"a\0", Refused::Control),
            (b"a//b", Refused::Path),
            (b"a/", Refused::Path),
            (&[b'a'; 300], Refused::Path),
            (&[b'a'; VALUE_MAX_BYTES + 1], Refused::Long),
        ] {
            assert_eq!(rule.path_of(value), Err(wanted), "{value:?}");
        }
        // A name need not be UTF-8.
        assert!(rule.path_of(b"a/\xff.jpg").is_ok());
    }

    #[test]
    fn a_picture_that_wordpress_made_of_another_one_needs_no_row() {
        let rule = config(Some(Kind::Wordpress)).rule().unwrap();
        let of = |name: &str| -> Vec<String> {
            let origins = rule.origins(&path(&format!("wp-content/uploads/2026/{name}")));
            origins.iter().map(|path| path.to_string().rsplit('/').next().unwrap().to_owned()).collect()
        };
        assert_eq!(of("shoe-300x200.jpg"), ["shoe.jpg", "shoe-scaled.jpg", "shoe-rotated.jpg"]);
        assert_eq!(of("shoe.jpg"), ["shoe-scaled.jpg", "shoe-rotated.jpg"]);
        assert!(of("terms-pdf-106x150.jpg").contains(&"terms.pdf".to_owned()));
        assert_eq!(of("x-1x.jpg")[0], "x-1x-scaled.jpg");
        assert!(of("none").is_empty());
    }

    proptest! {
        #[test]
        fn whatever_a_value_is_its_file_is_in_the_directory(value in prop::collection::vec(any::<u8>(), 0..60)) {
            for kind in [Kind::Magento, Kind::Wordpress] {
                let rule = config(Some(kind)).rule().unwrap();
                if let Ok(path) = rule.path_of(&value) {
                    prop_assert!(path.is_within(&rule.directory) && path != rule.directory);
                    prop_assert!(path.components().all(|name| name != b".." && name != b"."));
                    let _ = rule.origins(&path);
                }
            }
        }
    }
}
