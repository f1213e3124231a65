//! What standbys say of themselves: which snapshot they have. A hint for `status`; nothing depends on it.
//!
//! The one kind of object that is replaced: each host writes its own.

use super::error::RepositoryError;
use super::key;
use super::store::Store;
use crate::model::id::{Sequence, WriterId};
use object_store::PutPayload;
use serde::{Deserialize, Serialize};

const REPORT_MAX_BYTES: u64 = 64 << 10;

/// The last snapshot that a standby published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyReport {
    pub host: WriterId,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970, by the standby's clock.
    pub published_ns: u64,
}

impl Store {
    pub fn report_standby(&self, report: &StandbyReport) -> Result<(), RepositoryError> {
        let bytes = serde_json::to_vec(report).unwrap_or_default();
        let key = key::standby(&self.name, &report.host);
        self.repository.wait(self.objects().mend(&key, PutPayload::from(bytes)))
    }

    /// The standbys that ever reported, sorted by host. What cannot be read as a report is left out.
    pub fn standbys(&self) -> Result<Vec<StandbyReport>, RepositoryError> {
        self.repository.wait(async {
            let prefix = key::standby_prefix(&self.name);
            let mut reports: Vec<StandbyReport> = Vec::new();
            for object in self.objects().list(Some(&prefix), None).await? {
                if let Some(bytes) = self.objects().get(&object.location, REPORT_MAX_BYTES).await? {
                    reports.extend(serde_json::from_slice::<StandbyReport>(&bytes));
                }
            }
            reports.sort_by(|a, b| a.host.0.cmp(&b.host.0));
            Ok(reports)
        })
    }
}
