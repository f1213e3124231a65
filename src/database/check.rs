//! What a primary's server must have so that a replica can be seeded from it and follow it. Pure: facts in,
//! findings out, all at once, each with the statement that mends it.

use super::facts::{Facts, Variables};
use crate::model::gtid::STANDBY_DOMAINS;
use serde::Serialize;

/// Name of a supervisor's account on the server of its host.
pub(super) const SUPERVISOR_ACCOUNT: &str = "understudy-replica";

/// Least time that binary logs should be kept: a replica that was away for a weekend still finds them.
const EXPIRY_SECONDS: u64 = 3 * 24 * 60 * 60;
/// The versions of MariaDB that the tests cover.
const OLDEST: (u32, u32) = (10, 11);
const NEWEST: (u32, u32) = (11, 8);
/// The privileges of our account: to make a backup, to be followed, and to be asked.
pub(crate) const PRIVILEGES: [&str; 8] = [
    "BINLOG MONITOR",
    "CONNECTION ADMIN",
    "LOCK TABLES",
    "PROCESS",
    "RELOAD",
    "REPLICATION SLAVE",
    "SELECT",
    "SLAVE MONITOR",
];

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Without it there is no replica.
    Must,
    /// A replica works; something may be lost or stop one day.
    Should,
}

/// Something that a primary's server lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub weight: Weight,
    /// A word for it.
    pub what: &'static str,
    pub why: String,
    /// The statement, or the line of the server's configuration, that mends it.
    pub mend: String,
}

fn must(what: &'static str, why: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { weight: Weight::Must, what, why: why.into(), mend: mend.into() }
}

fn should(what: &'static str, why: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { weight: Weight::Should, ..must(what, why, mend) }
}

/// Returns what sets a variable now, and after a restart.
fn set(name: &str, value: &str) -> String {
    format!("SET GLOBAL {name}={value}; and below [mariadbd] of its configuration: {name}={value}")
}

/// Returns what the server lacks, what matters most first.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = version(&facts.variables);
    // Other servers have other variables.
    if !findings.iter().any(|finding| finding.weight == Weight::Must) {
        findings.extend(binlog(&facts.variables));
        findings.extend(identity(&facts.variables));
        findings.extend(accounts(facts));
        findings.extend(tables(facts));
    }
    findings.sort_by_key(|finding| finding.weight);
    findings
}

/// Returns a version's series, such as 10.11.
pub(crate) fn series(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version(variables: &Variables) -> Vec<Finding> {
    let text = variables.text("version");
    if !text.contains("MariaDB") && !variables.text("version_comment").contains("MariaDB") {
        let why = format!(
            "this is {text} ({}), and only MariaDB is supported: MySQL counts its transactions otherwise",
            variables.text("version_comment")
        );
        return vec![must("flavour", why, "none: keep this database's copies by its own means")];
    }
    let (oldest, newest) = (format!("{}.{}", OLDEST.0, OLDEST.1), format!("{}.{}", NEWEST.0, NEWEST.1));
    match series(text) {
        None => vec![must("version", format!("'{text}' is not understood"), "none")],
        Some(series) if series < OLDEST => {
            let why =
                format!("MariaDB {text} is older than {oldest}, which knows how a former primary rejoins");
            vec![must("version", why, format!("upgrade to {oldest}"))]
        }
        Some(series) if series > NEWEST => {
            let why = format!("MariaDB {text} is newer than {newest}, the newest that was tested");
            vec![should("version", why, "none: test it first")]
        }
        Some(_) => Vec::new(),
    }
}

fn binlog(variables: &Variables) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !variables.is_on("log_bin") {
        findings.push(must(
            "log_bin",
            "no binary log is written, so no replica can follow",
            "below [mariadbd] of its configuration: log_bin=binlog; then restart the server",
        ));
    }
    let format = variables.text("binlog_format");
    if format != "ROW" {
        let why = format!("binlog_format is {format}: a statement may do another thing on the replica");
        findings.push(must("binlog_format", why, set("binlog_format", "ROW")));
    }
    let image = variables.text("binlog_row_image");
    if image != "FULL" {
        let why = format!(
            "binlog_row_image is {image}: what a failed primary had alone could be neither shown nor undone"
        );
        findings.push(must("binlog_row_image", why, set("binlog_row_image", "FULL")));
    }
    let expiry_seconds = variables.number("binlog_expire_logs_seconds");
    if (1..EXPIRY_SECONDS).contains(&expiry_seconds) {
        let why = format!(
            "binary logs are deleted after {} h: a replica that is away longer must be seeded again",
            expiry_seconds / 3600
        );
        let mend = set("binlog_expire_logs_seconds", &EXPIRY_SECONDS.to_string());
        findings.push(should("binlog_expire_logs_seconds", why, mend));
    } else if expiry_seconds == 0 && variables.is_on("log_bin") {
        let why = "binary logs are never deleted and fill the disk one day";
        findings.push(should("binlog_expire_logs_seconds", why, set("binlog_expire_logs_seconds", "604800")));
    }
    findings
}

fn identity(variables: &Variables) -> Vec<Finding> {
    let mut findings = Vec::new();
    match variables.number("gtid_domain_id") {
        0 => findings.push(must(
            "gtid_domain_id",
            "gtid_domain_id is 0, the default of every server: a stray write elsewhere would count as this store's",
            set("gtid_domain_id", "1"),
        )),
        domain if domain >= u64::from(STANDBY_DOMAINS) => {
            let why = format!("gtid_domain_id is {domain}, and {STANDBY_DOMAINS} and above are for standbys");
            findings.push(must("gtid_domain_id", why, set("gtid_domain_id", "1")));
        }
        _ => {}
    }
    if variables.number("server_id") <= 1 {
        let why = "server_id is that of every server that was never given one: two with the same number throw each other out";
        let number = "a number that no other server of the store has";
        let mend = format!("SET GLOBAL server_id={{N}}; and in its configuration, with {number}");
        findings.push(match variables.number("server_id") {
            0 => must("server_id", why, mend),
            _ => should("server_id", why, mend),
        });
    }
    if !variables.is_on("gtid_strict_mode") {
        let why = "a stray write on a replica would not be noticed where it happens";
        findings.push(should("gtid_strict_mode", why, set("gtid_strict_mode", "1")));
    }
    if variables.is_on("wsrep_on") {
        let why =
            "this is a node of a Galera cluster, which is not supported: nodes count transactions apart";
        findings.push(must("wsrep_on", why, "none"));
    }
    findings
}

/// Returns whether an account is the server's or an administrator's on its host, and not an application's.
fn is_administrator(account: &str, hostname: &str) -> bool {
    match account.trim_matches('\'').split_once("'@'") {
        Some(("root", host)) => ["localhost", "127.0.0.1", "::1", hostname].contains(&host),
        Some(("mysql" | "mariadb.sys" | SUPERVISOR_ACCOUNT, host)) => host == "localhost",
        _ => false,
    }
}

fn accounts(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ours = facts.privileges.get(&facts.account).cloned().unwrap_or_default();
    let missing: Vec<&str> = PRIVILEGES.into_iter().filter(|name| !ours.contains(*name)).collect();
    if !missing.is_empty() {
        // Without SELECT the server shows only what the account may read.
        let blind = match missing.contains(&"SELECT") {
            true => {
                "; without SELECT it sees neither the other accounts nor the tables: check again afterwards"
            }
            false => "",
        };
        let why = format!("our account {} lacks {}{blind}", facts.account, missing.join(", "));
        let mend = format!("GRANT {} ON *.* TO {};", missing.join(", "), facts.account);
        findings.push(must("grants", why, mend));
    }
    for account in may_write_read_only(facts) {
        let why = format!(
            "account {account} may write while the server is read-only: a switchover could not stop it"
        );
        let mend = format!("REVOKE READ_ONLY ADMIN ON *.* FROM {account};");
        findings.push(must("read_only", why, mend));
    }
    findings
}

/// Returns the accounts, other than the server's and administrators' own, that may write while it is read-only.
pub(crate) fn may_write_read_only(facts: &Facts) -> Vec<String> {
    let is_allowed = |account: &String| {
        is_administrator(account, facts.variables.text("hostname")) || *account == facts.account
    };
    let may = facts.privileges.iter().filter(|(_, privileges)| privileges.contains("READ_ONLY ADMIN"));
    may.map(|(account, _)| account.clone()).filter(|account| !is_allowed(account)).collect()
}

fn tables(facts: &Facts) -> Vec<Finding> {
    let each = facts.foreign_tables.iter();
    each.map(|table| match table.engine.as_str() {
        "MEMORY" => should(
            "engine",
            format!(
                "{}: a MEMORY table is emptied when a server restarts, and then differs on the replica",
                table.name
            ),
            format!("ALTER TABLE {} ENGINE=InnoDB; or leave it, if what is in it is made again", table.name),
        ),
        engine => should(
            "engine",
            format!("{}: a table of {engine} is not safe in a crash, here or on the replica", table.name),
            format!("ALTER TABLE {} ENGINE=InnoDB;", table.name),
        ),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::facts::ForeignTable;

    fn fit() -> Facts {
        let variables = [
            ("binlog_expire_logs_seconds", "604800"),
            ("binlog_format", "ROW"),
            ("binlog_row_image", "FULL"),
            ("gtid_domain_id", "1"),
            ("gtid_strict_mode", "ON"),
            ("log_bin", "ON"),
            ("server_id", "11"),
            ("version", "10.11.19-MariaDB-log"),
        ];
        let account = "'understudy'@'127.0.0.1'".to_owned();
        Facts {
            variables: Variables(variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            privileges: [(account.clone(), PRIVILEGES.map(str::to_owned).into())].into(),
            account,
            foreign_tables: Vec::new(),
        }
    }

    fn whats(facts: &Facts) -> Vec<(Weight, &'static str)> {
        check(facts).into_iter().map(|finding| (finding.weight, finding.what)).collect()
    }

    #[test]
    fn a_fit_primary_has_no_findings_and_each_flaw_has_its_own() {
        use Weight::{Must, Should};
        assert_eq!(whats(&fit()), []);
        for (name, value, wanted) in [
            ("log_bin", "OFF", (Must, "log_bin")),
            ("binlog_format", "MIXED", (Must, "binlog_format")),
            ("binlog_row_image", "MINIMAL", (Must, "binlog_row_image")),
            ("binlog_expire_logs_seconds", "3600", (Should, "binlog_expire_logs_seconds")),
            ("binlog_expire_logs_seconds", "0", (Should, "binlog_expire_logs_seconds")),
            ("gtid_domain_id", "0", (Must, "gtid_domain_id")),
            ("gtid_domain_id", "900", (Must, "gtid_domain_id")),
            ("server_id", "0", (Must, "server_id")),
            ("server_id", "1", (Should, "server_id")),
            ("gtid_strict_mode", "OFF", (Should, "gtid_strict_mode")),
            ("wsrep_on", "ON", (Must, "wsrep_on")),
            ("version", "10.6.22-MariaDB", (Must, "version")),
            ("version", "12.1.2-MariaDB", (Should, "version")),
            ("version", "8.0.41", (Must, "flavour")),
        ] {
            let mut facts = fit();
            facts.variables.0.insert(name.into(), value.into());
            assert_eq!(whats(&facts), [wanted], "{name}={value}");
        }
    }

    #[test]
    fn accounts_and_tables_are_named_with_their_statements() {
        let mut facts = fit();
        facts.privileges.get_mut("'understudy'@'127.0.0.1'").unwrap().remove("RELOAD");
        for account in ["'shop'@'%'", "'root'@'localhost'"] {
            facts.privileges.insert(account.into(), ["READ_ONLY ADMIN".to_owned()].into());
        }
        let table = |name: &str, engine: &str| ForeignTable { name: name.into(), engine: engine.into() };
        facts.foreign_tables = vec![table("shop.log", "MyISAM"), table("shop.idx_tmp", "MEMORY")];
        let mends: Vec<String> = check(&facts).into_iter().map(|finding| finding.mend).collect();
        assert_eq!(mends[0], "GRANT RELOAD ON *.* TO 'understudy'@'127.0.0.1';");
        assert_eq!(mends[1], "REVOKE READ_ONLY ADMIN ON *.* FROM 'shop'@'%';");
        assert!(mends[2].starts_with("ALTER TABLE shop.log") && mends[3].contains("idx_tmp"), "{mends:?}");
        assert_eq!(mends.len(), 4);
    }
}
