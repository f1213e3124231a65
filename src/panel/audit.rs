//! Who did what, the newest first. Pure.

use super::frame::{Frame, page};
use super::words::{at_seconds, clock, full};
use crate::support::clock::UnixNanos;
use maud::{Markup, html};
use serde::Deserialize;

/// A line of the audit.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditRow {
    pub at: f64,
    pub who: String,
    pub role: String,
    pub from: String,
    pub action: String,
    pub store: Option<String>,
    pub detail: String,
    pub outcome: String,
}

/// Returns the page of what was done; the rows are in their order.
pub fn audit(frame: &Frame, rows: &[AuditRow], now: UnixNanos) -> Markup {
    let head = ["Time (UTC)", "Who", "What", "Store", "Outcome", "From", "In detail"];
    let body = html! {
        div class="title" {
            h1 { "Audit" }
            p class="soft" { "The last " (rows.len()) " changes and reads of content. The file has all." }
        }
        @if rows.is_empty() { p class="empty card" { "Nothing was done yet." } } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Audit" {
                table class="fleet" {
                    caption class="hidden" { "Changes and reads of content, the newest first" }
                    thead { tr { @for name in head { th scope="col" { (name) } } } }
                    tbody { @for row in rows.iter().rev() { (line(row, now)) } }
                }
            }
        }
    };
    page(frame, "Audit", None, body)
}

fn line(row: &AuditRow, now: UnixNanos) -> Markup {
    let at = at_seconds(row.at);
    html! {
        tr class=(if row.outcome == "done" { "good" } else { "warn" }) {
            th scope="row" data-label="Time" { time datetime=(full(at)) { (clock(at, now)) } }
            td data-label="Who" { (row.who) span class="soft block" { (row.role) } }
            td data-label="What" { (row.action) }
            td data-label="Store" { @match &row.store { Some(store) => a href={ "/stores/" (store) } { (store) }, None => span class="soft" { "–" } } }
            td data-label="Outcome" { (row.outcome) }
            td data-label="From" { (row.from) }
            td data-label="In detail" { (row.detail) }
        }
    }
}
