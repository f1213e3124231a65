//! Ends pauses when they are due.

use super::pause_ends::PauseEnd;
use super::state::PanelState;
use crate::model::decision::Decision;
use crate::model::id::StoreName;
use crate::model::record::StoreState;
use crate::service::failover_http;
use std::time::Duration;

/// Time between two looks whether a pause ends.
const LOOK: Duration = Duration::from_secs(2);
/// Who ends a pause, for the log.
const PERSON: &str = "the end that the pause was given";

/// Ends pauses when they are due, for ever.
pub(super) fn keep(state: PanelState) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            for (store, end) in state.pauses.due(state.site.daemon.env().wall()) {
                match resume(&state, &store, end).await {
                    Ok(()) => state.pauses.forget(&store),
                    Err(error) => tracing::warn!(%store, error, "a pause is over, and not resumed yet"),
                }
            }
        }
    });
}

async fn resume(state: &PanelState, store: &StoreName, end: PauseEnd) -> Result<(), String> {
    let site = &state.site;
    // A store that is gone from the configuration has no agent, and nobody waits for its end.
    let Ok((_, running)) = site.running(&store.to_string()) else {
        return match site.known(&store.to_string()) {
            Ok(_) => Err("its failover agent has not started".to_owned()),
            Err(_) => Ok(()),
        };
    };
    let paused = site.blocking(move |_| {
        let mut now = StoreState::default();
        running.parts.store.log().refresh(&mut now)?;
        Ok(now.authority.paused.map(|pause| pause.sequence))
    });
    if paused.await.map_err(|error| error.reason)? != Some(end.record) {
        return Ok(());
    }
    let decision = Decision::Resumed { person: PERSON.to_owned() };
    failover_http::decide(site, store, decision).await.map(drop).map_err(|error| error.reason)
}
