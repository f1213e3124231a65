//! A standby of the rig's store.

use super::rig::{self, Rig};
use understudy::api::follow::FollowReport;
use understudy::model::id::{Sequence, WriterId};
use understudy::model::snapshot_ref::{Moment, SnapshotRef};
use understudy::repository::store::Repository;
use understudy::standby::depot::Depot;
use understudy::standby::error::FollowError;
use understudy::standby::follow::{FollowRequest, Observer, follow};
use understudy::support::progress::Progress;

pub fn latest() -> SnapshotRef {
    SnapshotRef { store: rig::name(), moment: Moment::Latest }
}

pub fn at(sequence: u64) -> SnapshotRef {
    SnapshotRef { store: rig::name(), moment: Moment::At(Sequence(sequence)) }
}

pub fn request() -> FollowRequest {
    FollowRequest {
        moment: Moment::Latest,
        keep: 100,
        seed: None,
        threads: 2,
        host: WriterId("standby-1".into()),
    }
}

pub fn follow_by(
    repository: &Repository,
    depot: &Depot,
    request: &FollowRequest,
) -> Result<FollowReport, FollowError> {
    let progress = Progress::default();
    let observer = Observer { progress: &progress, on_step: &|_| {} };
    follow(&repository.store(&rig::name()), depot, request, &observer)
}

pub fn depot(rig: &Rig) -> Depot {
    Depot::new(&rig.dir.path().join("standby"), &rig::name())
}
