//! What is so with a store, and what is at risk, in plain words: two sentences, a function of its state. Pure.
//!
//! Operators read what to do about it; a store's customer reads in words of its own, which name no host, no
//! place and no error.

use super::need::{Need, need};
use super::words::{about, ago, at_most, before, clock, counted, span};
use crate::api::store::StoreStatus;
use crate::model::role::Role;
use crate::support::clock::UnixNanos;
use crate::support::failure::FailureKind;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// Who runs the store.
    Operator,
    /// Whose store it is.
    Customer,
}

/// What is so, and what is at risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub what: String,
    pub risk: String,
}

fn of(what: impl Into<String>, risk: impl Into<String>) -> Sentence {
    Sentence { what: what.into(), risk: risk.into() }
}

/// Returns `07:53, 7 min ago`; none while that is not known.
fn as_of(status: &StoreStatus, now: UnixNanos) -> Option<String> {
    let lag = status.lag_seconds?;
    Some(format!("{}, {}", clock(before(now, lag), now), ago(lag)))
}

/// Returns what would be lost if the primary were gone now: of the files, and of the database.
pub fn loss(status: &StoreStatus) -> String {
    let files = match (status.snapshot, status.lag_seconds) {
        (None, _) => return "all of it would be lost".to_owned(),
        (Some(_), None) => "an unknown time of files".to_owned(),
        (Some(_), Some(lag)) => format!("{} of files", at_most(lag)),
    };
    let database = status.database.as_ref();
    let of_server = database.and_then(|database| database.server.as_ref()?.lag_seconds);
    let of_archive = database.and_then(|database| database.archive.as_ref()?.lag_seconds);
    match (of_server.or(of_archive), database) {
        (Some(lag), _) => format!("at most {files} and {} of transactions would be lost", at_most(lag)),
        (None, Some(_)) => format!("at most {files}, and an unknown time of transactions, would be lost"),
        (None, None) => format!("at most {files} would be lost"),
    }
}

fn first<'a>(reasons: &'a [String], default: &'a str) -> &'a str {
    reasons.first().map_or(default, |reason| reason.trim_end_matches('.'))
}

fn without_stop(text: &str) -> &str {
    text.trim_end().trim_end_matches('.')
}

/// Returns the sentence about a store.
pub fn sentence(status: &StoreStatus, reader: Reader, now: UnixNanos) -> Sentence {
    match reader {
        Reader::Operator => for_operator(status, now),
        Reader::Customer => for_customer(status, now),
    }
}

fn for_operator(status: &StoreStatus, now: UnixNanos) -> Sentence {
    let (name, loss) = (&status.store, loss(status));
    match need(status) {
        Need::Down => down(status),
        Need::FailingOver => failing_over(status),
        Need::Held => {
            let reason = status.held.as_deref().unwrap_or_default();
            let risk = format!("Nothing is copied until it is released. If the primary failed now, {loss}.");
            of(format!("{name} is held: {}.", without_stop(reason)), risk)
        }
        Need::Fenced => fenced(status),
        Need::Damaged => damaged(status),
        Need::Late => {
            let (lag, promised) = (status.lag_seconds.unwrap_or_default(), status.objective_seconds as f64);
            let what = format!(
                "{name} is late: its newest snapshot is {} old, and its plan promises {}.",
                about(lag),
                span(promised)
            );
            let error = status
                .last_error
                .as_deref()
                .map(|error| format!(" The last run failed: {}.", without_stop(error)));
            of(what, format!("If the primary failed now, {loss}.{}", error.unwrap_or_default()))
        }
        Need::Failing => failing(status),
        Need::New if status.running => of(
            format!("{name} has no snapshot yet; the first is being made."),
            "Until it is there, nothing of the store could be restored.",
        ),
        Need::New => of(format!("{name} has no snapshot yet."), "Nothing of it could be restored."),
        Need::Fine if status.log_role == Role::Watcher => of(
            format!("{name} is watched from here, and it answers."),
            "This host has no copy of it; it votes about its primary.",
        ),
        Need::Fine => {
            let since = as_of(status, now).unwrap_or_default();
            match status.log_role {
                Role::Standby => of(
                    format!("This host could take {name} over as it was at {since}."),
                    format!("If the primary failed now, {loss}."),
                ),
                _ => {
                    of(format!("{name} is safe as of {since}."), format!("If this host failed now, {loss}."))
                }
            }
        }
    }
}

fn down(status: &StoreStatus) -> Sentence {
    let (name, loss) = (&status.store, loss(status));
    let watch = status.watch.as_ref();
    let reason = watch.map_or("no answer", |watch| first(&watch.reasons, "no answer"));
    let what = match watch.map_or("", |watch| watch.verdict.as_str()) {
        "dead" => format!("The primary of {name} is dead: {reason}."),
        _ => format!("{name} does not answer: {reason}."),
    };
    let who = match status.failover.as_ref().and_then(|failover| failover.ready) {
        Some(true) => "This host takes over by itself if it stays so",
        Some(false) => {
            "This host does not take over by itself; the readiness below says why, and a person may decide"
        }
        None => "No host here takes over by itself; a person decides",
    };
    of(what, format!("{who}: {loss}."))
}

fn failing_over(status: &StoreStatus) -> Sentence {
    let name = &status.store;
    let risk = "Customers are not served until it ends. Each step is below, with its seconds.";
    match status.failover.as_ref().map_or("", |failover| failover.phase.as_str()) {
        "handing over" => of(
            format!("{name} is being handed over to another host."),
            format!("Nothing is lost by that. {risk}"),
        ),
        _ => of(format!("This host is taking {name} over."), risk),
    }
}

fn fenced(status: &StoreStatus) -> Sentence {
    let name = &status.store;
    match (status.log_role, status.failover.as_ref().map_or("", |failover| failover.phase.as_str())) {
        (Role::Unassigned, _) => of(
            format!("No host resyncs {name}."),
            "The log names this host as its primary, and its configuration only lets it follow: what changes now is copied by nobody.",
        ),
        (_, "rejoining") => of(
            format!("This host was the primary of {name}, and is rejoining as a standby."),
            "What only it has is committed first, so that nothing of it is lost.",
        ),
        _ => of(
            format!("Another host is the primary of {name}, so this one writes nothing."),
            "What changed here since that host took over is on this host alone; `understudy rejoin` commits it.",
        ),
    }
}

fn damaged(status: &StoreStatus) -> Sentence {
    let name = &status.store;
    if status.last_error_kind == Some(FailureKind::Damaged) {
        let error = without_stop(status.last_error.as_deref().unwrap_or("see the log"));
        let risk = "Older snapshots may be whole. `understudy verify --repair` ships what is missing again.";
        return of(format!("Stored data of {name} is damaged: {error}."), risk);
    }
    let database = status.database.as_ref();
    if let Some(server) =
        database.and_then(|database| database.server.as_ref()).filter(|s| s.state == "broken")
    {
        let why = server.meaning.as_deref().or(server.error.as_deref()).unwrap_or("it does not follow");
        let mend = server
            .mend
            .as_deref()
            .map_or(String::new(), |mend| format!(" What mends it: {}.", without_stop(mend)));
        let what = format!("The database of {name} on this host is broken: {}.", without_stop(why));
        return of(what, format!("It cannot take over with all transactions.{mend}"));
    }
    let upkeep = status.upkeep.as_ref();
    if let Some(error) = upkeep.and_then(|upkeep| upkeep.drill_error.as_deref()) {
        let risk = "A snapshot that cannot be used in a drill may not be usable in need.";
        return of(format!("The last drill of {name} failed: {}.", without_stop(error)), risk);
    }
    if let Some(problems) = upkeep.map(|upkeep| upkeep.problems).filter(|problems| *problems > 0) {
        let what =
            format!("The last verification of {name} found {}.", counted(problems, "problem", "problems"));
        return of(
            what,
            "Some files of some snapshots cannot be restored. `understudy verify` names them, and `--repair` ships them again.",
        );
    }
    let fault = database.and_then(|database| database.drill.as_ref()?.fault.as_deref());
    let what = match fault {
        Some(fault) => format!("The last drill of {name}'s database failed: {}.", without_stop(fault)),
        None => format!("The archive of {name}'s database is broken."),
    };
    of(what, "The database could not be brought back to a moment as promised.")
}

fn failing(status: &StoreStatus) -> Sentence {
    let (name, loss) = (&status.store, loss(status));
    let risk = format!("It is tried again by itself. If the primary failed now, {loss}.");
    if let Some(text) = status.clock.as_deref() {
        let what = format!("A clock is wrong, so the age of {name}'s newest snapshot is not known.");
        return of(what, format!("{}. Set the clock, and the age is known again.", without_stop(text)));
    }
    if status.rivals.is_some() {
        let risk = "Two processes have this host's name; stop one of them, or give it another name.";
        return of(format!("Two daemons resync {name} by turns."), risk);
    }
    if status.failures > 0 {
        let error = without_stop(status.last_error.as_deref().unwrap_or("see the log"));
        return of(format!("The last run of {name} failed: {error}."), risk);
    }
    let failing = status.failover.as_ref().map_or(&[][..], |failover| &failover.failing);
    if !failing.is_empty() {
        let what = first(failing, "");
        return of(format!("Something about {name} fails and is tried again: {what}."), risk);
    }
    let reason = status.watch.as_ref().map_or("it is slow", |watch| first(&watch.reasons, "it is slow"));
    of(format!("{name} answers, but not well: {reason}."), format!("If it failed now, {loss}."))
}

fn for_customer(status: &StoreStatus, now: UnixNanos) -> Sentence {
    let safe = match (status.snapshot, as_of(status, now)) {
        (Some(_), Some(since)) => format!("safe as of {since}"),
        (Some(_), None) => "copied, though the age of the copy is not known now".to_owned(),
        (None, _) => {
            return of(
                "Your store has no copy yet.",
                "The first is on its way; until then nothing could be brought back.",
            );
        }
    };
    let fine = || format!("Your store is {safe}.");
    match need(status) {
        Need::Down => {
            of("Your store does not answer.", format!("Whoever runs it sees that, too. Its copy is {safe}."))
        }
        Need::FailingOver => of(
            "Your store is being moved to another server.",
            format!("It answers again when that is done. Its copy is {safe}."),
        ),
        Need::Held => {
            of(fine(), "No newer copy is made until whoever runs it has looked at an unusual change.")
        }
        Need::Damaged => of(
            format!("A check of your store's copies found a fault. Its newest copy is {safe}."),
            "Whoever runs it sees that, too.",
        ),
        Need::Late => {
            let promised = span(status.objective_seconds as f64);
            let what = format!("Your store is {safe}, and your plan promises {promised}.");
            of(what, "Whoever runs it sees that, too.")
        }
        Need::Failing => of(fine(), "The last copy did not succeed, and is tried again."),
        Need::Fenced => of(fine(), "Another server has it now, and copies it there."),
        Need::New | Need::Fine => {
            let promised = span(status.objective_seconds as f64);
            of(
                fine(),
                format!(
                    "Whatever happens to its server, that much comes back. Your plan promises a copy no older than {promised}."
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CASES, NOW, case};
    use super::*;

    #[test]
    fn every_state_has_a_true_sentence_for_operators() {
        for (name, _, expected) in CASES {
            let said = sentence(&case(name), Reader::Operator, NOW);
            assert_eq!(said.what, expected, "{name}");
            for text in [&said.what, &said.risk] {
                assert!(
                    text.ends_with('.') && !text.contains("..") && !text.contains("  "),
                    "{name}: {text}"
                );
            }
        }
    }

    #[test]
    fn customers_read_words_of_their_own_without_hosts_or_errors() {
        for (name, need, _) in CASES {
            let status = case(name);
            let said = sentence(&status, Reader::Customer, NOW);
            let text = format!("{} {}", said.what, said.risk);
            for hidden in
                ["acme", "secret-host", "host", "understudy", "probe", "lease", "no room", "pack", "1062"]
            {
                assert!(!text.contains(hidden), "{name}: {text}");
            }
            assert!(text.starts_with("Your store") || text.starts_with("A check of your store"), "{text}");
            // What is claimed to be safe is so: there is a copy of a known age.
            let claims =
                text.contains("safe as of 07:53, 7 min ago") || text.contains("safe as of 03:00, 5 h ago");
            assert_eq!(claims, status.lag_seconds.is_some(), "{name}: {text}");
            assert_eq!(text.contains("no copy yet"), status.snapshot.is_none(), "{name}: {text}");
            assert_eq!(text.contains("does not answer"), need == Need::Down, "{name}: {text}");
        }
        let fine = sentence(&case("fine"), Reader::Customer, NOW);
        assert_eq!(fine.what, "Your store is safe as of 07:53, 7 min ago.");
    }

    #[test]
    fn what_would_be_lost_is_never_less_than_what_is_known() {
        for (name, expected) in [
            ("fine", "at most 7 min of files would be lost"),
            ("standby", "at most 7 min of files and 1 s of transactions would be lost"),
            ("new", "all of it would be lost"),
            ("clock", "at most an unknown time of files would be lost"),
            ("database", "at most 7 min of files, and an unknown time of transactions, would be lost"),
        ] {
            assert_eq!(loss(&case(name)), expected, "{name}");
        }
    }
}
