//! An object store with a clock of its own.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub const BEGIN_NS: u64 = 1_800_000_000_000_000_000;

/// An object store with a clock of its own, which dates the objects.
#[derive(Debug)]
pub struct Dated {
    inner: Arc<dyn ObjectStore>,
    now_ns: AtomicU64,
    dates: Arc<Mutex<BTreeMap<Path, u64>>>,
}

fn dated(mut meta: ObjectMeta, dates: &Mutex<BTreeMap<Path, u64>>) -> ObjectMeta {
    if let Some(date) = dates.lock().unwrap().get(&meta.location) {
        meta.last_modified = chrono::DateTime::from_timestamp_nanos(*date as i64);
    }
    meta
}

impl Dated {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { inner, now_ns: AtomicU64::new(BEGIN_NS), dates: Arc::default() })
    }

    pub fn pass(&self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::SeqCst);
    }

    pub fn set(&self, ns: u64) {
        self.now_ns.store(ns, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Dated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "dated")
    }
}

#[async_trait]
impl ObjectStore for Dated {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(at, payload, options).await?;
        self.dates.lock().unwrap().insert(at.clone(), self.now_ns.load(Ordering::SeqCst));
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(at, options).await?;
        found.meta = dated(found.meta, &self.dates);
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let dates = self.dates.clone();
        self.inner.list(prefix).map(move |found| Ok(dated(found?, &dates))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
