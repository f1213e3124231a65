//! Requests to the object store, with retries, timeouts, counters and a bandwidth limit.
//!
//! A request that failed may have been applied all the same, if its reply was lost. All requests are safe to
//! repeat: reads, creations of objects named by their content, and creations of records, which are read back
//! and compared (see `log`).
//!
//! A store may refuse a creation because another request is in progress (S3's 409, which says nothing about
//! the object). The object is then looked up, and if it does not exist, the creation is tried again.
//! `Existed` therefore means that a writer has created it.
//!
//! Pauses, timeouts and the bandwidth limit use tokio's clock, not the `Env`: tokio's timer wakes these
//! tasks, and a clock of another origin would only disagree with it. Nothing that is stored or reported
//! depends on them. If this process lacks file handles or memory, the request waits, and then reports that as
//! an error of this machine and not of the store.

use super::error::RepositoryError;
use crate::api::requests::Requests;
use crate::model::escape;
use crate::support::chain::chain;
use crate::support::clock::UnixNanos;
use crate::support::failure::FailureKind;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rustix::io::Errno;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Number of objects in a row after which a list is taken to be in order: fewer than a page.
const IN_ORDER: u32 = 500;

/// The timeouts and the number of attempts.
#[derive(Clone, Debug)]
pub struct Patience {
    pub attempts: u32,
    /// Pause before the second attempt. It doubles each time.
    pub backoff: Duration,
    /// Timeout of one attempt, in addition to the time that its bytes take at 256 KiB a second.
    pub timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 5, backoff: Duration::from_millis(200), timeout: Duration::from_secs(30) }
    }
}

/// Counts the requests and bytes of one run.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    retries: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// What became of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    Created,
    /// The object existed. Perhaps this very request created it, and its reply was lost.
    Existed,
}

/// An object store with retries.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<dyn ObjectStore>,
    patience: Patience,
    meter: Arc<Meter>,
    bandwidth: Option<Arc<Bandwidth>>,
}

/// A common limit for sent and received bytes.
///
/// Each transfer reserves its time after those reserved before, by all that share the limit.
pub struct Bandwidth {
    bytes_per_second: u64,
    free_at: tokio::sync::Mutex<Instant>,
}

impl Bandwidth {
    pub fn new(bytes_per_second: u64) -> Self {
        let free_at = tokio::sync::Mutex::new(Instant::now());
        Self { bytes_per_second: bytes_per_second.max(1), free_at }
    }

    async fn book(&self, bytes: u64) {
        let start = {
            let mut free_at = self.free_at.lock().await;
            let start = (*free_at).max(Instant::now());
            *free_at = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

impl Objects {
    pub fn new(inner: Arc<dyn ObjectStore>, patience: Patience, bandwidth: Option<Arc<Bandwidth>>) -> Self {
        Self { inner, patience, meter: Arc::default(), bandwidth }
    }

    /// Returns the same store with a meter of its own.
    pub(crate) fn metered(&self) -> Self {
        Self { meter: Arc::default(), ..self.clone() }
    }

    /// Returns the same store without a bandwidth limit.
    pub(crate) fn unlimited(&self) -> Self {
        Self { bandwidth: None, ..self.clone() }
    }

    /// Returns the same store with another patience, and without a bandwidth limit.
    pub(crate) fn with_patience(&self, patience: Patience) -> Self {
        Self { patience, ..self.unlimited() }
    }

    pub fn requests(&self) -> Requests {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let m = &self.meter;
        Requests {
            put: get(&m.puts),
            get: get(&m.gets),
            head: get(&m.heads),
            list: get(&m.lists),
            retried: get(&m.retries),
            sent_bytes: get(&m.sent_bytes),
            received_bytes: get(&m.received_bytes),
        }
    }

    async fn book(&self, bytes: u64) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.book(bytes).await;
        }
    }

    /// Runs `request` until it succeeds, fails permanently, or the attempts are used up.
    async fn attempt<T, F>(
        &self,
        operation: &'static str,
        key: &Path,
        bytes: u64,
        counter: &AtomicU64,
        request: impl Fn() -> F,
    ) -> Result<T, RepositoryError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let timeout = self.patience.timeout + Duration::from_secs(bytes >> 18);
        let mut backoff = self.patience.backoff;
        let mut attempt = 1;
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            let (reason, kind) = match tokio::time::timeout(timeout, request()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let (kind, advice) = judge(&error);
                    // It may contain a server's whole answer, even a page.
                    let text = chain(&error).split_whitespace().collect::<Vec<_>>().join(" ");
                    (format!("{}{advice}", escape::line(&text)), kind)
                }
                Err(_) => (format!("no answer within {timeout:?}"), FailureKind::Unavailable),
            };
            let may_pass = matches!(kind, FailureKind::Unavailable | FailureKind::Failed);
            if !may_pass || attempt >= self.patience.attempts {
                return Err(RepositoryError::Request { operation, key: key.to_string(), reason, kind });
            }
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(backoff).await;
            backoff *= 2;
            attempt += 1;
        }
    }

    /// Reads a whole object of at most `limit_bytes`; returns `None` if there is none.
    pub(crate) async fn get(&self, key: &Path, limit_bytes: u64) -> Result<Option<Bytes>, RepositoryError> {
        let request = || async {
            match self.inner.get(key).await {
                Ok(found) if found.meta.size > limit_bytes => Err(object_store::Error::NotSupported {
                    source: format!(
                        "object has {} bytes; at most {limit_bytes} are expected",
                        found.meta.size
                    )
                    .into(),
                }),
                Ok(found) => {
                    let size = found.meta.size;
                    let bytes = found.bytes().await?;
                    if bytes.len() as u64 == size { Ok(Some(bytes)) } else { Err(short(size, bytes.len())) }
                }
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let bytes = self.attempt("get", key, 0, &self.meter.gets, request).await?;
        let received = bytes.as_ref().map_or(0, |b| b.len() as u64);
        self.meter.received_bytes.fetch_add(received, Ordering::Relaxed);
        self.book(received).await;
        Ok(bytes)
    }

    /// Reads a range of an object that must exist.
    pub(crate) async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, RepositoryError> {
        let wanted = range.end - range.start;
        self.book(wanted).await;
        let request = || async {
            let bytes = self.inner.get_range(key, range.clone()).await?;
            if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(short(wanted, bytes.len())) }
        };
        let bytes = self.attempt("get", key, wanted, &self.meter.gets, request).await?;
        self.meter.received_bytes.fetch_add(wanted, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Returns an object's size; `None` if there is none.
    pub(crate) async fn head(&self, key: &Path) -> Result<Option<u64>, RepositoryError> {
        let request = || async {
            match self.inner.head(key).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.attempt("head", key, 0, &self.meter.heads, request).await
    }

    /// Returns when an object was put, by the store's clock.
    ///
    /// Returns `None` if there is none.
    pub(crate) async fn modified(&self, key: &Path) -> Result<Option<UnixNanos>, RepositoryError> {
        let request = || async {
            match self.inner.head(key).await {
                Ok(meta) => Ok(Some(modified(&meta))),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.attempt("head", key, 0, &self.meter.heads, request).await
    }

    /// Creates an object; never overwrites one.
    pub(crate) async fn create(&self, key: &Path, payload: PutPayload) -> Result<Creation, RepositoryError> {
        self.put(key, payload, PutMode::Create).await
    }

    /// Overwrites a note, or an object that was found damaged, with the content that its name stands for.
    pub(crate) async fn overwrite(&self, key: &Path, payload: PutPayload) -> Result<(), RepositoryError> {
        self.put(key, payload, PutMode::Overwrite).await.map(|_| ())
    }

    async fn put(&self, key: &Path, payload: PutPayload, mode: PutMode) -> Result<Creation, RepositoryError> {
        let bytes = payload.content_length() as u64;
        self.book(bytes).await;
        let request = || async {
            let options = PutOptions { mode: mode.clone(), ..Default::default() };
            let refused = match self.inner.put_opts(key, payload.clone(), options).await {
                Ok(_) => return Ok(Creation::Created),
                Err(
                    error @ (object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }),
                ) => error,
                Err(error) => return Err(error),
            };
            if mode == PutMode::Create && (!is_conflict(&refused) || self.is_there(key).await?) {
                return Ok(Creation::Existed);
            }
            Err(object_store::Error::Generic { store: "repository", source: refused.into() })
        };
        let creation = self.attempt("put", key, bytes, &self.meter.puts, request).await?;
        self.meter.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(creation)
    }

    async fn is_there(&self, key: &Path) -> object_store::Result<bool> {
        self.meter.heads.fetch_add(1, Ordering::Relaxed);
        match self.inner.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists all objects below `prefix`, after `after` if it is given, sorted by key.
    pub(crate) async fn list(
        &self,
        prefix: Option<&Path>,
        after: Option<&Path>,
    ) -> Result<Vec<ObjectMeta>, RepositoryError> {
        let root = Path::default();
        let request = || async {
            let stream = match after {
                Some(after) => self.inner.list_with_offset(prefix, after),
                None => self.inner.list(prefix),
            };
            stream.try_collect::<Vec<_>>().await
        };
        let mut found = self.attempt("list", prefix.unwrap_or(&root), 0, &self.meter.lists, request).await?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// Returns the first object below `prefix`, after `after` if it is given.
    ///
    /// A store that lists in order is asked for one page only.
    pub(crate) async fn first(
        &self,
        prefix: &Path,
        after: Option<&Path>,
    ) -> Result<Option<ObjectMeta>, RepositoryError> {
        let request = || async {
            let mut stream = match after {
                Some(after) => self.inner.list_with_offset(Some(prefix), after),
                None => self.inner.list(Some(prefix)),
            };
            let (mut first, mut last, mut in_order) = (None::<ObjectMeta>, None, 0);
            while let Some(found) = stream.try_next().await? {
                in_order =
                    if last.as_ref().is_none_or(|last| *last < found.location) { in_order + 1 } else { 0 };
                last = Some(found.location.clone());
                if first.as_ref().is_none_or(|first| found.location < first.location) {
                    first = Some(found);
                }
                if in_order == IN_ORDER {
                    break;
                }
            }
            Ok(first)
        };
        self.attempt("list", prefix, 0, &self.meter.lists, request).await
    }

    /// Lists the names of the folders directly below `prefix`, or the repository's root.
    pub(crate) async fn names(&self, prefix: Option<&Path>) -> Result<Vec<String>, RepositoryError> {
        let root = Path::default();
        let request = || async { self.inner.list_with_delimiter(prefix).await };
        let found = self.attempt("list", prefix.unwrap_or(&root), 0, &self.meter.lists, request).await?;
        let names = found.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned));
        Ok(names.collect())
    }

    /// Deletes an object. A missing one is no error.
    pub(crate) async fn delete(&self, key: &Path) -> Result<(), RepositoryError> {
        let request = || async {
            match self.inner.delete(key).await {
                Err(error) if is_absent(&error) => Ok(()),
                other => other,
            }
        };
        self.attempt("delete", key, 0, &self.meter.heads, request).await
    }
}

fn short(wanted: u64, got: usize) -> object_store::Error {
    object_store::Error::Generic {
        store: "repository",
        source: format!("short read: {got} of {wanted} bytes").into(),
    }
}

/// Returns when an object was put, by the store's clock.
pub(crate) fn modified(meta: &ObjectMeta) -> UnixNanos {
    UnixNanos(meta.last_modified.timestamp_nanos_opt().unwrap_or(0).max(0) as u64)
}

/// Returns whether a refusal may be due to a concurrent request. (Azure returns the same error for both
/// cases.)
fn is_conflict(error: &object_store::Error) -> bool {
    causes(error).any(|cause| cause.to_string().contains("409 Conflict"))
}

/// Returns whether an object is missing. If its bucket is missing, this says nothing about the object.
fn is_absent(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !is_without_bucket(error)
}

/// Returns whether the bucket or container is missing, as S3, GCS and Azure report it.
fn is_without_bucket(error: &object_store::Error) -> bool {
    let says = |text: &str| ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| text.contains(code));
    causes(error).any(|cause| says(&cause.to_string()))
}

/// Returns the kind of an error, and advice where the error itself gives none.
fn judge(error: &object_store::Error) -> (FailureKind, &'static str) {
    use object_store::Error;
    if is_without_bucket(error) {
        let advice = "; the bucket does not exist: create it, or change the address";
        return (FailureKind::Usage, advice);
    }
    let by_variant = match error {
        Error::NotFound { .. } | Error::NotSupported { .. } => FailureKind::Damaged,
        Error::Unauthenticated { .. }
        | Error::PermissionDenied { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. }
        | Error::InvalidPath { .. } => FailureKind::Usage,
        _ => FailureKind::Unavailable,
    };
    let system = causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    match system.map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) if is_link(error) => (
            FailureKind::Usage,
            "; this filesystem has no hard links, which are needed to create an object without overwriting another: use a directory on another filesystem (not exFAT, not a mounted cloud drive), or an object store's address",
        ),
        Some(errno) => judge_errno(errno).unwrap_or((by_variant, "")),
        None => (by_variant, ""),
    }
}

/// Returns the kind of an error of this system, if its number alone decides it.
fn judge_errno(errno: Errno) -> Option<(FailureKind, &'static str)> {
    use FailureKind::{Failed, Usage};
    Some(match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => (Failed, super::error::advice(&errno.into())),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::OPNOTSUPP => (Usage, ""),
        _ => return None,
    })
}

/// Returns the kind of an error of a repository's directory. An address that cannot be a directory is wrong;
/// any other failure may pass.
pub(crate) fn judge_directory(error: &std::io::Error) -> (FailureKind, &'static str) {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw_os_error) else {
        return (FailureKind::Usage, "");
    };
    judge_errno(errno).unwrap_or(match errno {
        Errno::NOTDIR
        | Errno::EXIST
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::NOENT
        | Errno::INVAL
        | Errno::ROFS => (FailureKind::Usage, ""),
        _ => (FailureKind::Unavailable, ""),
    })
}

/// Returns whether creating an object in a directory failed when it was to get its name.
fn is_link(error: &object_store::Error) -> bool {
    causes(error).any(|cause| cause.to_string().starts_with("Unable to rename file"))
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(errno: rustix::io::Errno, said: &str) -> object_store::Error {
        #[derive(Debug, thiserror::Error)]
        #[error("{said}: {source}")]
        struct Local {
            said: String,
            source: std::io::Error,
        }
        let source = Box::new(Local { said: said.into(), source: errno.into() });
        object_store::Error::Generic { store: "LocalFileSystem", source }
    }

    #[test]
    fn an_error_of_the_system_is_told_for_what_it_is() {
        use FailureKind::{Failed, Unavailable, Usage};
        use rustix::io::Errno;
        for (errno, kind) in [
            (Errno::MFILE, Failed),
            (Errno::NFILE, Failed),
            (Errno::NOMEM, Failed),
            (Errno::ACCESS, Usage),
            (Errno::PERM, Usage),
            (Errno::NOSYS, Usage),
            (Errno::OPNOTSUPP, Usage),
            (Errno::NOSPC, Unavailable),
            (Errno::IO, Unavailable),
            (Errno::TIMEDOUT, Unavailable),
        ] {
            assert_eq!(judge(&local(errno, "Unable to open file")).0, kind, "{errno:?}");
        }
        let advice = |errno, said| judge(&local(errno, said)).1;
        assert!(advice(Errno::PERM, "Unable to rename file").contains("hard links"));
        assert!(!advice(Errno::PERM, "Unable to open file").contains("hard links"));
        assert!(!advice(Errno::NOSPC, "Unable to rename file").contains("hard links"));
    }

    #[test]
    fn where_the_bucket_is_not_there_nothing_is_said_of_an_object() {
        let of = |text: &str| object_store::Error::NotFound { path: "k".into(), source: text.into() };
        assert!(is_absent(&of("<Error><Code>NoSuchKey</Code></Error>")));
        for code in ["NoSuchBucket", "ContainerNotFound"] {
            let error = of(&format!("404 Not Found: <Error>\n<Code>{code}</Code></Error>"));
            assert!(!is_absent(&error));
            assert_eq!(judge(&error).0, FailureKind::Usage);
        }
    }

    #[test]
    fn a_directory_that_a_disk_or_a_mount_refuses_may_come_back() {
        use rustix::io::Errno;
        for (errno, kind) in [
            (Errno::NOTDIR, FailureKind::Usage),
            (Errno::ACCESS, FailureKind::Usage),
            (Errno::MFILE, FailureKind::Failed),
            (Errno::NOTCONN, FailureKind::Unavailable),
            (Errno::STALE, FailureKind::Unavailable),
            (Errno::IO, FailureKind::Unavailable),
            (Errno::NOSPC, FailureKind::Unavailable),
        ] {
            assert_eq!(judge_directory(&errno.into()).0, kind, "{errno:?}");
        }
    }

    #[test]
    fn only_a_conflict_is_one() {
        let of = |text: &str| object_store::Error::AlreadyExists { path: "k".into(), source: text.into() };
        assert!(is_conflict(&of("Server returned non-2xx status code: 409 Conflict: <Error/>")));
        assert!(!is_conflict(&of("Server returned non-2xx status code: 412 Precondition Failed")));
    }
}
