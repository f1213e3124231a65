//! A store's database as `status` shows it: a word or two in the table, and what a person should know below it.

use super::show;
use crate::api::database::{DatabaseServer, DatabaseStatus};
use crate::model::id::StoreName;

/// Returns what the table shows.
pub(super) fn cell(database: Option<&DatabaseStatus>) -> String {
    let Some(database) = database else { return "-".to_owned() };
    let mut parts = Vec::new();
    match &database.server {
        Some(DatabaseServer { supervised: false, .. }) => parts.push("unsupervised".to_owned()),
        Some(DatabaseServer { state, trouble: Some(trouble), .. }) => {
            parts.push(format!("{state} ({trouble})"))
        }
        Some(DatabaseServer { state, lag_seconds: Some(lag), .. }) => {
            parts.push(format!("{state} {}", show::age(*lag)));
        }
        Some(DatabaseServer { state, .. }) => parts.push(state.clone()),
        None => {}
    }
    match &database.archive {
        Some(archive) if !archive.running => parts.push("not archived".to_owned()),
        Some(archive) => match archive.lag_seconds {
            Some(lag) => parts.push(format!("archive {}", show::age(lag))),
            None => parts.push(format!("archive {}", archive.state)),
        },
        None => {}
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Returns what is wrong, each with what mends it.
pub(super) fn complaints(store: &StoreName, database: &DatabaseStatus) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(server) = &database.server {
        let mend = server.mend.as_deref().map_or(String::new(), |mend| format!("; what mends it: {mend}"));
        match (&server.trouble, &server.error) {
            _ if !server.supervised => {
                said.push(format!("nobody supervises the database's server on this host{mend}"));
            }
            (Some(trouble), _) => {
                let meaning = server.meaning.as_deref().unwrap_or_default();
                said.push(format!("the database's server is {} ({trouble}): {meaning}{mend}", server.state));
            }
            (None, Some(error)) => said.push(format!("the database's server is {}: {error}", server.state)),
            (None, None) => {}
        }
    }
    if let Some(archive) = &database.archive {
        match (&archive.error, archive.running) {
            (Some(error), _) => said.push(format!("the database's archive is {}: {error}", archive.state)),
            (None, false) => said.push(format!(
                "nobody archives the database: the daemon does (understudy run), or understudy database archive {store}"
            )),
            (None, true) => {}
        }
    }
    let seeding = database.seeds.as_ref().and_then(|seeds| seeds.error.as_ref());
    if let Some(error) = seeding {
        said.push(format!(
            "no seed of the database could be made; it is tried again, or by understudy database seed {store}: {error}"
        ));
    }
    let drill = database.drill.as_ref();
    if let Some(fault) = drill.and_then(|drill| drill.fault.as_ref()) {
        said.push(format!(
            "the last drill of the database found the replica's data unsound: {fault}; seed again, then drill: understudy database drill {store}"
        ));
    }
    if let Some(hindrance) = drill.and_then(|drill| drill.hindrance.as_ref()) {
        said.push(format!("the database's replica could not be drilled; it is tried again: {hindrance}"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::database::{DatabaseArchive, DatabaseDrill};

    #[test]
    fn what_is_wrong_is_in_the_cell_and_what_mends_it_below() {
        let acme = StoreName::parse("acme").unwrap();
        let server = DatabaseServer {
            state: "following".into(),
            supervised: true,
            lag_seconds: Some(2.0),
            ..Default::default()
        };
        let of = |server: DatabaseServer| DatabaseStatus { server: Some(server), ..Default::default() };
        assert_eq!(cell(None), "-");
        assert_eq!(cell(Some(&of(server.clone()))), "following 2s");
        assert!(complaints(&acme, &of(server.clone())).is_empty());
        let broken = of(DatabaseServer {
            state: "broken".into(),
            trouble: Some("conflict".into()),
            meaning: Some("somebody wrote".into()),
            mend: Some("seed again".into()),
            ..server.clone()
        });
        assert_eq!(cell(Some(&broken)), "broken (conflict)");
        assert_eq!(
            complaints(&acme, &broken),
            ["the database's server is broken (conflict): somebody wrote; what mends it: seed again"]
        );
        let gone = of(DatabaseServer { supervised: false, mend: Some("run it".into()), ..server });
        assert_eq!(cell(Some(&gone)), "unsupervised");
        assert!(complaints(&acme, &gone)[0].ends_with("what mends it: run it"));
        let found = DatabaseDrill { fault: Some("shop.orders: corrupt".into()), ..Default::default() };
        let unsound = DatabaseStatus { drill: Some(found), ..Default::default() };
        assert!(complaints(&acme, &unsound)[0].contains("unsound: shop.orders: corrupt"));
        let archive = DatabaseStatus { archive: Some(DatabaseArchive::default()), ..Default::default() };
        assert_eq!(cell(Some(&archive)), "not archived");
        assert!(complaints(&acme, &archive)[0].contains("nobody archives"));
    }
}
