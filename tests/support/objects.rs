//! The objects of the rig's repository, and what is done to them.

use super::rig::Rig;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

fn wait<T>(future: impl Future<Output = T>) -> T {
    super::rig::runtime().block_on(future)
}

/// Returns the keys that contain `part`, in order, and their objects' sizes in bytes.
pub fn listed(rig: &Rig, part: &str) -> Vec<(Path, u64)> {
    let all: Vec<_> = wait(rig.objects.list(None).try_collect()).unwrap();
    let all = all.into_iter().map(|object| (object.location, object.size));
    let mut listed: Vec<_> = all.filter(|(key, _)| key.as_ref().contains(part)).collect();
    listed.sort();
    listed
}

/// Returns the keys that contain `part`, in order.
pub fn keys(rig: &Rig, part: &str) -> Vec<Path> {
    listed(rig, part).into_iter().map(|(key, _)| key).collect()
}

pub fn read(rig: &Rig, key: &Path) -> Bytes {
    wait(async { rig.objects.get(key).await.unwrap().bytes().await.unwrap() })
}

pub fn write(rig: &Rig, key: &Path, bytes: impl Into<Bytes>) {
    wait(rig.objects.put(key, bytes.into().into())).unwrap();
}

pub fn delete(rig: &Rig, key: &Path) {
    wait(rig.objects.delete(key)).unwrap();
}

/// Ways to damage an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Delete,
    Truncate,
    Flip,
}

impl Damage {
    pub const ALL: [Self; 3] = [Self::Delete, Self::Truncate, Self::Flip];
}

pub fn damage(rig: &Rig, key: &Path, damage: Damage) {
    let mut bytes = read(rig, key).to_vec();
    let middle = bytes.len() / 2;
    match damage {
        Damage::Delete => return delete(rig, key),
        Damage::Truncate => bytes.truncate(middle),
        Damage::Flip => bytes[middle] ^= 1,
    }
    write(rig, key, bytes);
}
