//! An object store that misbehaves at a chosen call.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fails,
    Hangs,
    /// The call takes effect, but the caller gets an error.
    ReplyLost,
    /// Reads return fewer bytes; a pack or index is stored with fewer.
    Short,
    /// Reads return a flipped bit.
    Flipped,
    /// A creation is refused, as S3 does while another request to the key is under way: nothing was written.
    Conflict,
}

pub const ALL: [Fault; 5] = [Fault::Fails, Fault::Hangs, Fault::ReplyLost, Fault::Short, Fault::Flipped];

/// Misbehaves at call `at` (from 1), and at all later ones when `on` is set.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    at: u64,
    on: bool,
    calls: AtomicU64,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, fault: Fault, at: u64, on: bool) -> Arc<Self> {
        Arc::new(Self { inner, fault, at, on, calls: AtomicU64::new(0) })
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// A conflict only concerns creations.
    fn strikes_read(&self) -> Option<Fault> {
        if self.fault == Fault::Conflict { None } else { self.strikes() }
    }

    fn strikes(&self) -> Option<Fault> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        (call == self.at || (self.on && call > self.at)).then_some(self.fault)
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.strikes() {
            Some(Fault::Fails) => Err(broken()),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::ReplyLost) => {
                let _ = self.inner.put_opts(at, payload, options).await;
                Err(broken())
            }
            // A backend that cuts a record short is broken beyond what a run can notice; `damage` tests that.
            Some(Fault::Short) if !at.as_ref().contains("/log/") => {
                let bytes: bytes::Bytes = payload.into();
                let half = bytes.slice(..bytes.len() / 2);
                self.inner.put_opts(at, half.into(), options).await
            }
            Some(Fault::Conflict) => Err(Error::AlreadyExists {
                path: at.to_string(),
                source: "Server returned non-2xx status code: 409 Conflict: ConditionalRequestConflict"
                    .into(),
            }),
            // A bit that is flipped during an upload is found by `verify --read-data`, not by the run.
            Some(Fault::Flipped | Fault::Short) | None => self.inner.put_opts(at, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.strikes_read();
        match fault {
            Some(Fault::Fails | Fault::ReplyLost) => return Err(broken()),
            Some(Fault::Hangs) => std::future::pending().await,
            _ => {}
        }
        let head = options.head;
        let mut result = self.inner.get_opts(at, options).await?;
        if head || !matches!(fault, Some(Fault::Short | Fault::Flipped)) {
            return Ok(result);
        }
        let (meta, range, attributes, extensions) =
            (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
        let mut bytes = result.bytes().await?.to_vec();
        if fault == Some(Fault::Short) {
            bytes.truncate(bytes.len() / 2);
        } else if let Some(byte) = bytes.last_mut() {
            *byte ^= 4;
        }
        let payload =
            GetResultPayload::Stream(futures::stream::iter([Ok(bytes::Bytes::from(bytes))]).boxed());
        result = GetResult { payload, meta, range, attributes, extensions };
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.strikes_read() {
            Some(Fault::Fails | Fault::ReplyLost) => futures::stream::iter([Err(broken())]).boxed(),
            Some(Fault::Hangs) => futures::stream::pending().boxed(),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
