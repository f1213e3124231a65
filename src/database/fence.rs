//! The fence of a server at once: nothing that a customer reaches runs any more, whatever becomes of its
//! supervisor.
//!
//! First the note says so, on the disk: from then on no supervisor opens a server. Then the server that has the
//! data is killed. A server that was being started and had not locked its data yet does not take writes: its
//! supervisor lets it do so only after it has the data, and reads the note once more before that.
//!
//! SIGKILL, and nothing else: a server that is asked to end, or whose connections are ended, first commits what
//! a replica has not acknowledged, and that is then on this side alone.

use super::error::DatabaseError;
use super::holder;
use super::minimal::Place;
use super::role::Role;
use super::role_file;
use crate::model::id::Epoch;
use crate::support::env::Env;
use std::time::Duration;

/// Time for a killed server to be gone.
const LIMIT: Duration = Duration::from_secs(10);

/// What a fence found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A server that customers could reach was killed, or had ended already.
    Open,
    /// It was closed to customers: a replica, or nothing at all.
    Closed,
}

/// Fences the server of a place. It may be done again at any time.
///
/// # Errors
/// It is not known to be closed.
pub fn fence(place: &Place, env: &Env, epoch: Option<Epoch>) -> Result<Found, DatabaseError> {
    if !place.dir.exists() {
        // No supervisor ever ran here.
        return Ok(Found::Closed);
    }
    let note = role_file::change(place, env, |note| {
        note.epoch = note.epoch.max(epoch.unwrap_or_default());
        note.fences += 1;
        if note.role != Role::Follow {
            note.role = Role::Fenced;
        }
    })?;
    if !note.is_open {
        return Ok(Found::Closed);
    }
    holder::kill(&note.data, env, LIMIT)?;
    role_file::change(place, env, |note| note.is_open = false)?;
    Ok(Found::Open)
}
