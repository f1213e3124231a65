//! Where a repository is: a directory, or a URL of an object store, configured the way its users
//! expect (`AWS_*`, `GOOGLE_*`, `AZURE_*` in the environment).

use super::error::RepositoryError;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
    S3(Url),
    Gcs(Url),
    Azure(Url),
    /// Gone with the process: for tests.
    Memory,
}

impl Location {
    /// A path, `file://`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…` or `memory://`.
    pub fn parse(text: &str) -> Result<Self, RepositoryError> {
        let wrong = |reason: String| RepositoryError::Location { location: text.to_owned(), reason };
        if text.is_empty() {
            return Err(wrong("is empty".into()));
        }
        if !text.contains("://") {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|e| wrong(e.to_string()))?;
        let needs_bucket = |kind: fn(Url) -> Self| {
            if url.host_str().is_some_and(|h| !h.is_empty()) {
                Ok(kind(url.clone()))
            } else {
                Err(wrong("names no bucket".into()))
            }
        };
        match url.scheme() {
            "file" => url
                .to_file_path()
                .map(Self::Directory)
                .map_err(|()| wrong("file:// needs an absolute path".into())),
            "s3" | "s3a" => needs_bucket(Self::S3),
            "gs" => needs_bucket(Self::Gcs),
            "az" | "azure" | "abfs" | "abfss" => needs_bucket(Self::Azure),
            "memory" => Ok(Self::Memory),
            other => Err(wrong(format!(
                "scheme '{other}' is not known; use a path, s3://, gs://, az:// or file://"
            ))),
        }
    }

    pub fn is_local(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Connects. Retries are ours (see `objects`), so that every backend has the same patience.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, RepositoryError> {
        let wrong = |e: object_store::Error| RepositoryError::Location {
            location: self.to_string(),
            reason: e.to_string(),
        };
        let retry = RetryConfig { max_retries: 0, ..Default::default() };
        if !matches!(self, Self::Directory(_) | Self::Memory) {
            // The second call of a process finds the provider installed: no error.
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
            Self::Directory(path) => {
                std::fs::create_dir_all(path).map_err(|e| RepositoryError::Location {
                    location: self.to_string(),
                    reason: e.to_string(),
                })?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(wrong)?;
                Ok(Arc::new(store.with_fsync(true)))
            }
            Self::Memory => Ok(Arc::new(InMemory::new())),
            Self::S3(url) => {
                let http = plain_http("AWS_ENDPOINT_URL")
                    || plain_http("AWS_ENDPOINT")
                    || plain_http("AWS_ENDPOINT_URL_S3");
                let store = AmazonS3Builder::from_env()
                    .with_url(format!("s3://{}", url.host_str().unwrap_or_default()))
                    .with_client_options(client(http))
                    .with_retry(retry)
                    .build()
                    .map_err(wrong)?;
                Ok(below(store, url))
            }
            Self::Gcs(url) => {
                let store = GoogleCloudStorageBuilder::from_env()
                    .with_url(format!("gs://{}", url.host_str().unwrap_or_default()))
                    .with_client_options(client(plain_http("GOOGLE_BASE_URL")))
                    .with_retry(retry)
                    .build()
                    .map_err(wrong)?;
                Ok(below(store, url))
            }
            Self::Azure(url) => {
                let emulator =
                    std::env::var("AZURE_STORAGE_USE_EMULATOR").is_ok_and(|v| v == "true" || v == "1");
                let http = emulator || plain_http("AZURE_STORAGE_ENDPOINT");
                let store = MicrosoftAzureBuilder::from_env()
                    .with_container_name(url.host_str().unwrap_or_default())
                    .with_client_options(client(http))
                    .with_retry(retry)
                    .build()
                    .map_err(wrong)?;
                Ok(below(store, url))
            }
        }
    }
}

/// The part of a bucket that the URL's path names.
fn below(store: impl ObjectStore, url: &Url) -> Arc<dyn ObjectStore> {
    match url.path().trim_matches('/') {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3(url) | Self::Gcs(url) | Self::Azure(url) => {
                // A password in a URL is never shown.
                let mut shown = url.clone();
                let _ = shown.set_password(None);
                shown.fmt(f)
            }
            Self::Memory => f.write_str("memory://"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        assert!(Location::parse("/srv/repo").unwrap().is_local());
        assert!(matches!(Location::parse("s3://bucket/a/b"), Ok(Location::S3(_))));
        assert!(matches!(Location::parse("gs://bucket"), Ok(Location::Gcs(_))));
        assert!(matches!(Location::parse("az://container"), Ok(Location::Azure(_))));
        for bad in ["", "ftp://x", "s3://"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }
}
