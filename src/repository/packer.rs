//! Ships chunks: compresses, packs, uploads and indexes those that the store lacks.
//!
//! Several worker threads add chunks. A full pack is uploaded in the background. At most [`UPLOADS`] uploads
//! run at the same time, and a worker that fills another pack waits, which bounds memory. Index segments are
//! written during the run, each after its packs, so that the next run can adopt what an interrupted run
//! shipped.

use super::error::RepositoryError;
use super::index::Index;
use super::object_key;
use super::store::Store;
use crate::format::frame::{ChunkType, Compressor, PackWriter};
use crate::format::index::{self as format, SegmentEntry};
use crate::model::id::{ChunkId, IndexId, PackId};
use crate::model::record::ObjectRef;
use crate::support::failure::FailureKind;
use crate::support::lock::lock;
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Target size of a pack. With [`UPLOADS`] it bounds memory; larger packs save no time.
const PACK_BYTES: usize = 16 << 20;
/// Maximum number of packs that are uploaded at the same time.
const UPLOADS: usize = 3;
/// Number of chunks waiting for a segment at which it is written, which bounds memory.
const SEGMENT_CHUNKS: usize = 128 << 10;
/// Number of packs (512 MiB) at which a segment is written, if they are also a quarter of all packs.
///
/// An interrupted run loses no more than that.
const SEGMENT_PACKS: usize = 32;
/// Size of pages below which they share a pack with data.
const SMALL_PACK_BYTES: usize = 1 << 20;
const SHARDS: usize = 16;
const FAILED_BEFORE: &str = "an earlier upload of this run failed";
/// Interval at which a worker that waits for an upload checks whether the run is to end.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// The result of adding a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Number of bytes of the frame; 0 if the store had the chunk.
    pub shipped_bytes: u64,
}

/// The objects that a run has put into the repository.
#[derive(Clone, Debug, Default)]
pub struct Shipped {
    pub packs: Vec<ObjectRef<PackId>>,
    pub segments: Vec<ObjectRef<IndexId>>,
    pub bytes: u64,
}

/// A chunk in a pack that is being filled, and the place of its frame.
struct PackedChunk {
    id: ChunkId,
    offset_bytes: u32,
    length_bytes: u32,
    /// Whether the local cache keeps it: all except file content.
    is_cached: bool,
}

/// A pack that is being filled. It is empty before the first chunk.
#[derive(Default)]
struct OpenPack {
    writer: Option<PackWriter>,
    chunks: Vec<PackedChunk>,
}

#[derive(Default)]
struct State {
    data: OpenPack,
    pages: OpenPack,
    uploads: VecDeque<(PackId, Upload)>,
    /// Packs and chunks that the next segment will name.
    packs: Vec<format::PackEntry>,
    chunks: Vec<SegmentEntry>,
    shipped: Shipped,
    /// Whether an upload failed. The run ends then, and nothing more is added.
    failed: bool,
}

type Upload = JoinHandle<Result<(), RepositoryError>>;

/// Ships the new chunks of one run.
pub struct Packer {
    store: Store,
    /// Whether uploads run in the background.
    background: bool,
    index: Arc<Index>,
    /// Chunks of this run that no segment names yet.
    pending: Vec<Mutex<HashSet<ChunkId>>>,
    state: Mutex<State>,
    /// Whether the run is to end. No worker waits for an upload then.
    stop: Arc<AtomicBool>,
}

impl Packer {
    pub fn new(store: Store, index: Arc<Index>) -> Self {
        let pending = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { store, background: true, index, pending, state: Mutex::default(), stop: Arc::default() }
    }

    /// Returns a packer that keeps no worker waiting once `stop` is set.
    pub(crate) fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Returns a packer that does everything in the order of its calls.
    pub fn in_order(self) -> Self {
        Self { background: false, ..self }
    }

    /// Adds the chunk `raw`, named `id`, unless the store or this run has it.
    pub fn add(
        &self,
        id: ChunkId,
        kind: ChunkType,
        raw: &[u8],
        compressor: &mut Compressor,
        scratch: &mut Vec<u8>,
    ) -> Result<Added, RepositoryError> {
        self.go_on()?;
        // Claim it before looking it up: of two workers with the same chunk, only one ships it.
        if !lock(&self.pending[usize::from(id.0[31]) % SHARDS]).insert(id) {
            return Ok(Added { shipped_bytes: 0 });
        }
        if self.index.lookup(id)?.is_some() {
            lock(&self.pending[usize::from(id.0[31]) % SHARDS]).remove(&id);
            return Ok(Added { shipped_bytes: 0 });
        }
        scratch.clear();
        compressor.append(kind, raw, scratch);
        self.take(id, kind == ChunkType::Data, scratch)
    }

    /// Adds a chunk by its existing frame without a seal, unless the store or this run has it.
    pub(crate) fn add_frame(&self, id: ChunkId, frame: &[u8]) -> Result<Added, RepositoryError> {
        if !lock(&self.pending[usize::from(id.0[31]) % SHARDS]).insert(id) || self.index.lookup(id)?.is_some()
        {
            return Ok(Added { shipped_bytes: 0 });
        }
        self.take(id, frame.get(1) == Some(&(ChunkType::Data as u8)), frame)
    }

    fn take(&self, id: ChunkId, is_data: bool, frame: &[u8]) -> Result<Added, RepositoryError> {
        let full = {
            let mut state = lock(&self.state);
            if state.failed {
                return Err(gave_up(FAILED_BEFORE));
            }
            let open = if is_data { &mut state.data } else { &mut state.pages };
            open.append(&self.store, id, frame, !is_data)?;
            (open.len_bytes() >= PACK_BYTES).then(|| std::mem::take(open))
        };
        if let Some(full) = full {
            self.upload(full)?;
        }
        Ok(Added { shipped_bytes: frame.len() as u64 })
    }

    /// Closes a pack and uploads it in the background, once fewer than [`UPLOADS`] uploads are running.
    fn upload(&self, open: OpenPack) -> Result<(), RepositoryError> {
        let OpenPack { writer: Some(PackWriter { sealing, bytes: pack, .. }), chunks } = open else {
            return Ok(());
        };
        let id = PackId::of(&pack);
        let reference = ObjectRef { id, size_bytes: pack.len() as u64 };
        let at = object_key::pack(self.store.name(), id);
        let mut state = lock(&self.state);
        // Once the run is to end, each worker fills at most one more.
        while state.uploads.len() >= UPLOADS && !self.is_stopped() {
            if let Some((id, oldest)) = state.uploads.pop_front() {
                drop(state);
                let unfinished = self.finish(oldest)?;
                state = lock(&self.state);
                state.uploads.extend(unfinished.map(|upload| (id, upload)));
            }
        }
        if state.failed {
            return Err(gave_up(FAILED_BEFORE));
        }
        let store = self.store.clone();
        let cached = chunks.iter().filter(|chunk| chunk.is_cached);
        let cached = cached.map(|chunk| chunk.offset_bytes..chunk.offset_bytes + chunk.length_bytes);
        self.store.cache().put_pack(id, &pack, cached);
        let bytes = Bytes::from(pack);
        let upload = async move { store.put(&at, bytes).await };
        if self.background {
            state.uploads.push_back((id, self.store.runtime().spawn(upload)));
        } else if let Err(error) = self.store.wait(upload) {
            state.failed = true;
            return Err(error);
        }
        let number = state.packs.len() as u32;
        state.chunks.extend(chunks.into_iter().map(|chunk| {
            let PackedChunk { id, offset_bytes, length_bytes, .. } = chunk;
            SegmentEntry { chunk: id, pack: number, offset_bytes, length_bytes }
        }));
        state.shipped.bytes += reference.size_bytes;
        state.packs.push(format::PackEntry { id, size_bytes: reference.size_bytes, sealing });
        state.shipped.packs.push(reference);
        let due = segment_is_due(state.chunks.len(), state.packs.len(), state.shipped.packs.len());
        if due && !self.is_stopped() { self.write_segment(state) } else { Ok(()) }
    }

    /// Checks that the run may ship more.
    ///
    /// # Errors
    /// The run is to end.
    pub(crate) fn go_on(&self) -> Result<(), RepositoryError> {
        match self.is_stopped() {
            true => Err(gave_up("this run was stopped")),
            false => Ok(()),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for an upload. Returns it unfinished if the run is to end first.
    fn finish(&self, mut upload: Upload) -> Result<Option<Upload>, RepositoryError> {
        let wait = async {
            loop {
                match tokio::time::timeout(STOP_LOOK, &mut upload).await {
                    Ok(done) => return Some(done.unwrap_or_else(|_| Err(gave_up(FAILED_BEFORE)))),
                    Err(_) if self.is_stopped() => return None,
                    Err(_) => {}
                }
            }
        };
        match self.store.wait(wait) {
            None => Ok(Some(upload)),
            Some(Ok(())) => Ok(None),
            Some(Err(error)) => {
                lock(&self.state).failed = true;
                Err(error)
            }
        }
    }

    /// Writes a segment for everything packed since the last one, once its packs have arrived.
    ///
    /// It holds the lock meanwhile: the other workers wait, which is rare (see [`segment_is_due`]).
    fn write_segment(&self, mut state: MutexGuard<State>) -> Result<(), RepositoryError> {
        while let Some((_, upload)) = state.uploads.pop_front() {
            let done = self.store.wait(upload).unwrap_or_else(|_| Err(gave_up(FAILED_BEFORE)));
            if done.is_err() {
                state.failed = true;
                return done;
            }
        }
        if state.chunks.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut state.packs);
        let mut chunks = std::mem::take(&mut state.chunks);
        let table = format::encode(&packs, &mut chunks);
        let reference = match self.store.segments().put(&table) {
            Ok(reference) => reference,
            Err(error) => {
                state.failed = true;
                return Err(error);
            }
        };
        self.index.add(&self.store, &reference, &table)?;
        state.shipped.bytes += reference.size_bytes;
        state.shipped.segments.push(reference);
        drop(state);
        // The index has them now. A chunk is always in one of the two.
        for SegmentEntry { chunk, .. } in chunks {
            lock(&self.pending[usize::from(chunk.0[31]) % SHARDS]).remove(&chunk);
        }
        Ok(())
    }

    /// Ends an interrupted run.
    ///
    /// Uploads that finish within `limit` are indexed for the next run; the others are given up.
    pub(crate) fn break_off(&self, limit: Duration) -> Result<(), RepositoryError> {
        // From here on no worker waits for an upload.
        self.stop.store(true, Ordering::Relaxed);
        let (mut data, pages) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.data), std::mem::take(&mut state.pages))
        };
        data.merge(&self.store, pages)?;
        if !data.chunks.is_empty() {
            self.upload(data)?;
        }
        let mut state = lock(&self.state);
        let uploads = std::mem::take(&mut state.uploads);
        let wait = async {
            let end = tokio::time::Instant::now() + limit;
            let mut missing = HashSet::new();
            for (id, mut upload) in uploads {
                if !matches!(tokio::time::timeout_at(end, &mut upload).await, Ok(Ok(Ok(())))) {
                    upload.abort();
                    missing.insert(id);
                }
            }
            missing
        };
        let missing = self.store.wait(wait);
        // Number the packs again, since a chunk refers to its pack by its number in the segment.
        let packs = std::mem::take(&mut state.packs);
        let mut numbers = Vec::with_capacity(packs.len());
        for pack in packs {
            let is_here = !missing.contains(&pack.id);
            numbers.push(is_here.then_some(state.packs.len() as u32));
            state.packs.extend(Some(pack).filter(|_| is_here));
        }
        let chunks = std::mem::take(&mut state.chunks);
        state.chunks = chunks
            .into_iter()
            .filter_map(|chunk| Some(SegmentEntry { pack: numbers[chunk.pack as usize]?, ..chunk }))
            .collect();
        if state.chunks.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut state.packs);
        let mut chunks = std::mem::take(&mut state.chunks);
        drop(state);
        // The segment is small, and does not wait for the bandwidth reserved by uploads that were given up.
        let store = self.store.unlimited();
        store.segments().put(&format::encode(&packs, &mut chunks)).map(|_| ())
    }

    /// Uploads the rest, so that it can be read. More may be added afterwards.
    pub(crate) fn flush(&self) -> Result<(), RepositoryError> {
        let (mut data, pages) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.data), std::mem::take(&mut state.pages))
        };
        if pages.len_bytes() < SMALL_PACK_BYTES && data.len_bytes() < PACK_BYTES {
            data.merge(&self.store, pages)?;
        } else {
            self.upload(pages)?;
        }
        if !data.chunks.is_empty() {
            self.upload(data)?;
        }
        self.write_segment(lock(&self.state))
    }

    /// Uploads the rest, and checks that every new object exists with its full size.
    pub fn close(&self) -> Result<Shipped, RepositoryError> {
        self.flush()?;
        let shipped = lock(&self.state).shipped.clone();
        let packs = shipped.packs.iter().map(|p| (object_key::pack(self.store.name(), p.id), p.size_bytes));
        let segments =
            shipped.segments.iter().map(|s| (object_key::index(self.store.name(), s.id), s.size_bytes));
        for (at, size_bytes) in packs.chain(segments) {
            self.store.check_arrived(&at, size_bytes)?;
        }
        Ok(shipped)
    }
}

/// Returns whether the waiting chunks get a segment.
///
/// The share of all packs bounds the number of segments, which every lookup pays for, by the logarithm of the
/// shipped bytes.
fn segment_is_due(waiting_chunks: usize, waiting_packs: usize, all_packs: usize) -> bool {
    waiting_chunks >= SEGMENT_CHUNKS || waiting_packs >= SEGMENT_PACKS.max(all_packs / 4)
}

impl OpenPack {
    fn len_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.bytes.len())
    }

    fn append(
        &mut self,
        store: &Store,
        id: ChunkId,
        frame: &[u8],
        is_cached: bool,
    ) -> Result<(), RepositoryError> {
        let wrong = || RepositoryError::format(object_key::pack_prefix(store.name()));
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let (sealing, keys) = store.keyrings().new_sealing()?;
                none.insert(PackWriter::new(sealing, keys.as_deref()).map_err(wrong())?)
            }
        };
        let (offset_bytes, length_bytes) = writer.append(frame).map_err(wrong())?;
        self.chunks.push(PackedChunk { id, offset_bytes, length_bytes, is_cached });
        Ok(())
    }

    fn merge(&mut self, store: &Store, other: OpenPack) -> Result<(), RepositoryError> {
        let Some(writer) = &other.writer else { return Ok(()) };
        for chunk in &other.chunks {
            let frame = writer.frame(chunk.offset_bytes, chunk.length_bytes);
            let frame = frame.map_err(RepositoryError::format(object_key::pack_prefix(store.name())))?;
            self.append(store, chunk.id, &frame, chunk.is_cached)?;
        }
        Ok(())
    }
}

fn gave_up(why: &str) -> RepositoryError {
    RepositoryError::Request {
        operation: "put",
        key: "packs".into(),
        reason: why.into(),
        kind: FailureKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_leaves_few_segments_and_never_more_than_a_quarter_unindexed() {
        let (mut waiting, mut segments) = (0, 0);
        for all in 1..=65_536usize {
            waiting += 1;
            if segment_is_due(0, waiting, all) {
                (waiting, segments) = (0, segments + 1);
            }
            assert!(waiting <= SEGMENT_PACKS.max(all / 4));
        }
        assert!(segments < 40, "{segments}");
    }
}
