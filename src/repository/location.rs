//! The location of a repository: a directory, or the address of an object store.
//!
//! Object stores are configured as their users expect (`AWS_*`, `GOOGLE_*`, `AZURE_*` in the environment).
//! The text after the bucket is the prefix of all keys, unchanged: no character of it is encoded or decoded,
//! so two addresses are two places. Parts that an address cannot have (credentials, a port, a query) are
//! refused, not ignored.

use super::error::RepositoryError;
use super::objects::judge_directory;
use crate::support::private;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// Name of the variable that selects another checksum than SHA-256 for uploads to S3.
const CHECKSUM: &str = "AWS_CHECKSUM_ALGORITHM";

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryUrl {
    Directory(PathBuf),
    S3(Bucket),
    Gcs(Bucket),
    Azure(Bucket),
}

/// A bucket or container, with the prefix of all keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The address as it was given.
    text: String,
    name: String,
    prefix: Key,
}

impl Bucket {
    /// Parses `rest`, the part after `scheme://`.
    fn parse(text: &str, rest: &str) -> Result<Self, String> {
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.contains('@') {
            return Err(
                "an address cannot contain a user, password or account: give them in the environment".into(),
            );
        }
        if name.contains(':') {
            return Err(
                "an address cannot contain a port: give the server in the environment (AWS_ENDPOINT_URL)"
                    .into(),
            );
        }
        if let Some(wrong) =
            name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '$'))
        {
            return Err(format!("'{wrong}' is not allowed in a bucket's name"));
        }
        if name.is_empty() {
            return Err("the name of the bucket is missing".into());
        }
        let parts: Vec<_> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        let prefix = Key::parse(parts.join("/")).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), name: name.to_owned(), prefix })
    }

    /// Returns where an earlier version looked for this address, if that differs.
    ///
    /// It encoded some characters, and cut off a query and fragment.
    fn former_prefix(&self) -> Option<Key> {
        let url = Url::parse(&self.text).ok()?;
        let former = Key::from(url.path().trim_matches('/'));
        (former != self.prefix).then_some(former)
    }
}

/// A connection.
pub struct Opened {
    pub store: Arc<dyn ObjectStore>,
    /// The place that an earlier version used for this address, if it differs, with that place's address.
    pub former: Option<(Arc<dyn ObjectStore>, String)>,
}

impl RepositoryUrl {
    /// Parses a path, `file://`, `s3://BUCKET/PREFIX`, `gs://…` or `az://…`.
    pub fn parse(text: &str) -> Result<Self, RepositoryError> {
        let wrong = |reason: String| RepositoryError::Location { location: without_secrets(text), reason };
        if text.is_empty() {
            return Err(wrong("the address is empty".into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Directory(PathBuf::from(text)));
        };
        let bucket = || Bucket::parse(text, rest).map_err(wrong);
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                if rest.contains(['?', '#']) {
                    return Err(wrong(
                        "a file:// address cannot contain '?' or '#': give the plain path".into(),
                    ));
                }
                let url = Url::parse(text).map_err(|e| wrong(e.to_string()))?;
                let path = url.to_file_path().map_err(|()| wrong("file:// needs an absolute path".into()))?;
                Ok(Self::Directory(path))
            }
            "s3" | "s3a" => bucket().map(Self::S3),
            "gs" => bucket().map(Self::Gcs),
            "az" | "azure" | "abfs" | "abfss" => bucket().map(Self::Azure),
            other => {
                Err(wrong(format!("unknown scheme '{other}'; use a path, s3://, gs://, az:// or file://")))
            }
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Connects. Retries are done in `objects`, so that every backend is treated with the same patience.
    pub fn open(&self) -> Result<Opened, RepositoryError> {
        let wrong = |e: object_store::Error| RepositoryError::Location {
            location: self.to_string(),
            reason: e.to_string(),
        };
        let retry = RetryConfig { max_retries: 0, ..Default::default() };
        if !self.is_local() {
            // The second call in a process fails because the provider is installed, which is no error.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let plain_http = |name: &str| std::env::var(name).is_ok_and(|v| v.starts_with("http://"));
        let client = |http: bool| {
            ClientOptions::new()
                .with_allow_http(http)
                .with_timeout_disabled()
                .with_connect_timeout(std::time::Duration::from_secs(10))
        };
        match self {
            Self::Directory(path) => open_directory(path),
            Self::S3(bucket) => {
                let http = plain_http("AWS_ENDPOINT_URL")
                    || plain_http("AWS_ENDPOINT")
                    || plain_http("AWS_ENDPOINT_URL_S3");
                let mut builder = AmazonS3Builder::from_env()
                    .with_bucket_name(&bucket.name)
                    .with_client_options(client(http))
                    .with_retry(retry);
                // A bucket with Object Lock requires a checksum. SHA-256 is computed for the signature in any
                // case.
                if std::env::var_os(CHECKSUM).is_none() {
                    builder = builder.with_checksum_algorithm(Checksum::SHA256);
                }
                Ok(below(builder.build().map_err(wrong)?, "s3", bucket))
            }
            Self::Gcs(bucket) => {
                let store = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(&bucket.name)
                    .with_client_options(client(plain_http("GOOGLE_BASE_URL")))
                    .with_retry(retry)
                    .build()
                    .map_err(wrong)?;
                Ok(below(store, "gs", bucket))
            }
            Self::Azure(bucket) => {
                let emulator =
                    std::env::var("AZURE_STORAGE_USE_EMULATOR").is_ok_and(|v| v == "true" || v == "1");
                let http = emulator || plain_http("AZURE_STORAGE_ENDPOINT");
                let store = MicrosoftAzureBuilder::from_env()
                    .with_container_name(&bucket.name)
                    .with_client_options(client(http))
                    .with_retry(retry)
                    .build()
                    .map_err(wrong)?;
                Ok(below(store, "az", bucket))
            }
        }
    }
}

/// Returns the part of a bucket that the address names.
fn below(store: impl ObjectStore, scheme: &str, bucket: &Bucket) -> Opened {
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let at = |prefix: &Key| -> Arc<dyn ObjectStore> {
        match prefix.as_ref() {
            "" => store.clone(),
            _ => Arc::new(PrefixStore::new(store.clone(), prefix.clone())),
        }
    };
    let former = bucket.former_prefix();
    let former = former.map(|prefix| (at(&prefix), format!("{scheme}://{}/{prefix}", bucket.name)));
    Opened { store: at(&bucket.prefix), former }
}

/// Returns an address without the part before `@`, which may be a password.
fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

impl std::fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3(bucket) | Self::Gcs(bucket) | Self::Azure(bucket) => f.write_str(&bucket.text),
        }
    }
}

/// Opens a directory that belongs to this user alone, or is shared with a group on purpose.
fn open_directory(path: &Path) -> Result<Opened, RepositoryError> {
    let unopened = |error: std::io::Error| {
        let (kind, advice) = judge_directory(&error);
        let (key, reason) = (path.display().to_string(), format!("{error}{advice}"));
        RepositoryError::Request { operation: "open", key, reason, kind }
    };
    private::hold_alone(path).map_err(unopened)?;
    // A directory is shared with a group: new files of this process are shared as well.
    if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o020 != 0) {
        private::share_with_group();
    }
    // It may exist without answering, like a mount whose server is gone.
    std::fs::read_dir(path).map_err(unopened)?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| RepositoryError::Location {
        location: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(Opened { store: Arc::new(store.with_fsync(true)), former: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_told_apart() {
        assert!(RepositoryUrl::parse("/srv/repo").unwrap().is_local());
        assert!(matches!(RepositoryUrl::parse("s3://bucket/a/b"), Ok(RepositoryUrl::S3(_))));
        assert!(matches!(RepositoryUrl::parse("gs://bucket"), Ok(RepositoryUrl::Gcs(_))));
        assert!(matches!(RepositoryUrl::parse("az://container"), Ok(RepositoryUrl::Azure(_))));
        assert_eq!(
            RepositoryUrl::parse("file:///srv/my%20repo").unwrap(),
            RepositoryUrl::Directory("/srv/my repo".into()),
            "a file's address is encoded as any"
        );
        assert_eq!(
            RepositoryUrl::parse("/srv/a?b#c%20").unwrap(),
            RepositoryUrl::Directory("/srv/a?b#c%20".into())
        );
    }

    #[test]
    fn what_an_address_cannot_say_is_refused_and_no_password_is_shown() {
        for bad in [
            "",
            "ftp://x",
            "memory://",
            "s3://",
            "s3:///prefix",
            "s3://bucket:9000/prefix",
            "s3://user:secret@bucket/prefix",
            "abfss://container@secret.dfs.core.windows.net/prefix",
            "s3://bucket?secret/prefix",
            "s3://bucket#1",
            "s3://b ucket/x",
            "s3://b%20/x",
            "s3://bucket/a/../b",
            "s3://bucket/a/./b",
            "s3://bucket/a\nb",
            "file:///srv/a?b",
            "file:///srv/a#b",
            "file://elsewhere/srv",
        ] {
            let error = RepositoryUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("user:secret") && !error.contains("container@"), "{error}");
        }
    }

    fn prefix(text: &str) -> String {
        match RepositoryUrl::parse(text).unwrap() {
            RepositoryUrl::S3(bucket) => bucket.prefix.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_prefix_is_what_stands_there() {
        for same in ["shop?1", "shop#2", "a b/ü", "a%20b", "100%", "~x/*", "a+b&c=d"] {
            assert_eq!(prefix(&format!("s3://bucket/{same}")), same);
        }
        assert_eq!(prefix("s3://bucket//a//b/"), "a/b");
    }

    #[test]
    fn where_an_address_leads_elsewhere_than_once_that_place_is_known() {
        let former = |text: &str| match RepositoryUrl::parse(text).unwrap() {
            RepositoryUrl::S3(bucket) => bucket.former_prefix().map(|former| former.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(former("s3://bucket/pre fix").as_deref(), Some("pre%2520fix"));
        assert_eq!(former("s3://bucket/shop?1").as_deref(), Some("shop"));
        assert_eq!(former("s3://bucket/~shop").as_deref(), Some("%7Eshop"));
        // That place has an address of its own.
        assert_eq!(prefix("s3://bucket/pre%2520fix"), "pre%2520fix");
    }

    proptest! {
        #[test]
        fn plain_addresses_keep_their_keys(parts in prop::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", 0..4), slash in "/?") {
            let text = format!("s3://bucket/{}{slash}", parts.join("/"));
            let RepositoryUrl::S3(bucket) = RepositoryUrl::parse(&text).unwrap() else { panic!() };
            prop_assert_eq!(bucket.prefix.to_string(), parts.join("/"));
            prop_assert_eq!(bucket.former_prefix(), None);
        }

        #[test]
        fn no_two_prefixes_are_one_place(one in "[ -~ä]{1,6}", two in "[ -~ä]{1,6}") {
            let parse = |text: &str| match RepositoryUrl::parse(&format!("s3://bucket/{text}")) {
                Ok(RepositoryUrl::S3(bucket)) => Some(bucket.prefix),
                _ => None,
            };
            let plain = |text: &str| text.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            if let (Some(a), Some(b)) = (parse(&one), parse(&two)) {
                prop_assert_eq!(a == b, plain(&one) == plain(&two));
            }
        }
    }
}
