//! Warnings about single paths: on standard error, also in a pipe, so that a scheduler's mail shows them.

use super::show;
use crate::api::resync::{WarningKind, Warnings};
use crate::restore::shortfall::{NAMED_MAX, ShortfallKind, Shortfalls};

/// Maximum number of warnings that are printed to standard error.
const SHOWN_MAX: usize = 10;

/// Prints what a scan could not read as it was.
pub(super) fn scan(warnings: &Warnings) {
    for warning in warnings.first.iter().take(10) {
        let what = match warning.kind {
            WarningKind::Torn => "changed while it was read; the snapshot has it as it was read last",
            WarningKind::Unreadable => {
                "could not be read; its state in the last snapshot, and that of everything below it, was kept, if any:"
            }
            WarningKind::Attributes => "its extended attributes could not be read, but its content was:",
            WarningKind::Unsettled => "kept changing; the snapshot has what was read last:",
            WarningKind::ChangedSilently => "changed without a new mtime or ctime; it was shipped",
        };
        complain!("understudy: warning: {}: {what} {}", warning.path, warning.reason);
    }
    let all = warnings.total();
    if all > 10 {
        complain!("understudy: warning: {} more; --json names the first 100", all - 10);
    }
}

/// Prints what was not restored exactly; `what` says what that means.
pub(super) fn shortfalls(warnings: &Shortfalls, what: &str) {
    if warnings.total() == 0 {
        return;
    }
    for warning in warnings.first.iter().take(SHOWN_MAX) {
        complain!("understudy: warning: {}: {}: {}", warning.path, words(warning.kind), warning.reason);
    }
    let named = warnings.first.len().min(SHOWN_MAX) as u64;
    if warnings.total() > named {
        let more = show::count(warnings.total() - named);
        complain!("understudy: warning: {more} more; --json names the first {NAMED_MAX}");
    }
    let counts = [
        (warnings.damaged, "left out because of damage in the repository"),
        (warnings.missing, "not created"),
        (warnings.wider, "more accessible than before"),
        (warnings.left, "not removed"),
        (warnings.orphaned, "directories created in place of lost ones"),
        (warnings.renamed, "under another name"),
        (warnings.separate, "separate files that were hard links"),
        (warnings.modes, "modes"),
        (warnings.owners, "owners"),
        (warnings.attributes, "attributes"),
        (warnings.times, "times"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = counts.map(|(count, what)| format!("{} {what}", show::count(*count))).collect();
    complain!("understudy: warning: {what}: {}", told.join(", "));
    let denied = warnings.owners + warnings.attributes + warnings.missing > 0;
    if denied && !rustix::process::geteuid().is_root() {
        complain!(
            "understudy: warning: this user is not allowed to set everything; run as root for an exact copy"
        );
    }
}

fn words(kind: ShortfallKind) -> &'static str {
    match kind {
        ShortfallKind::Damaged => "left out, its content is damaged or lost",
        ShortfallKind::Missing => "could not be created",
        ShortfallKind::Wider => "more accessible than before",
        ShortfallKind::Left => "not removed",
        ShortfallKind::Orphaned => "created in place of a lost directory",
        ShortfallKind::Renamed => "has a different name",
        ShortfallKind::Separate => "no longer a hard link to the same file",
        ShortfallKind::Mode => "different mode",
        ShortfallKind::Owner => "different owner",
        ShortfallKind::Attribute => "attribute not restored",
        ShortfallKind::Time => "different time",
    }
}
