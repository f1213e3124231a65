//! The database of a store on its standby, with real MariaDB servers and the real binary.

use crate::support::command::said;
use crate::support::host::Host;
use crate::support::mariadb::{GRANTS, MariaDb};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Returns a host with the store `acme`, and these keys for its database.
fn host(repository: &str, keys: &str) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{repository}'\nwriter = 'web-{}'\n[[store]]\nname = 'acme'\npath = 's0'\n[store.database]\n{keys}",
        host.port
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

fn json(host: &Host, args: &[&str]) -> (i32, serde_json::Value) {
    let output = host.command(args).arg("--json").output().unwrap();
    let value = serde_json::from_slice(&output.stdout);
    (
        output.status.code().unwrap(),
        value.unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said(&output))),
    )
}

#[test]
fn an_unfit_primary_is_refused_with_every_reason_at_once() {
    let primary = MariaDb::start("binlog-row-image=MINIMAL\nbinlog-format=MIXED\n");
    primary.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.idx (id INT) ENGINE=MEMORY; CREATE TABLE shop.old (id INT) ENGINE=MyISAM; \
         CREATE USER shop@'%'; GRANT READ_ONLY ADMIN ON *.* TO shop@'%'; GRANT SELECT ON *.* TO understudy@'127.0.0.1';",
    );
    let host = host("repository", &primary.tcp());
    let (code, report) = json(&host, &["database", "check", "acme"]);
    let findings = report["findings"].as_array().unwrap();
    let whats: BTreeSet<&str> = findings.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    let wanted = [
        "log_bin",
        "binlog_format",
        "binlog_row_image",
        "gtid_domain_id",
        "grants",
        "read_only",
        "server_id",
        "gtid_strict_mode",
        "engine",
    ];
    assert_eq!((code, &whats), (2, &BTreeSet::from(wanted)), "{report:#}");
    assert_eq!(findings.len(), wanted.len() + 1, "two tables: {report:#}");
    // What it says can be done as it says.
    for finding in findings.iter().filter(|finding| finding["mend"].as_str().unwrap().ends_with(';')) {
        primary.sql(finding["mend"].as_str().unwrap());
    }
    for finding in findings {
        if let Some((statement, _)) = finding["mend"].as_str().unwrap().split_once("; and ") {
            primary.sql(&statement.replace("{N}", "11"));
        }
    }
    primary.sql("SET GLOBAL binlog_expire_logs_seconds=604800;");
    let (code, report) = json(&host, &["database", "check", "acme"]);
    let left: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["what"].as_str().unwrap())
        .collect();
    assert_eq!((code, left), (2, vec!["log_bin", "engine"]), "{report:#}");
    let text = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(
        said(&text).contains("1 things must change") && said(&text).contains("log_bin=binlog"),
        "{text:?}"
    );
}

#[test]
fn a_fit_primary_is_fit_and_a_password_that_others_can_change_is_not_used() {
    let primary = MariaDb::primary();
    let host = host("repository", &primary.tcp());
    let (code, report) = json(&host, &["database", "check", "acme"]);
    assert_eq!((code, report["findings"].as_array().unwrap().len()), (0, 0), "{report:#}");
    primary.sql(&format!("REVOKE {GRANTS} ON *.* FROM understudy@'127.0.0.1'; SET PASSWORD FOR understudy@'127.0.0.1' = '*14E65567ABDB5135D0CFD9A70B3032C179A49EE7';"));
    let output = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("1045"), "{output:?}");
    let file: PathBuf = primary.account_file();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(said(&output).contains("chmod go-w"), "{output:?}");
}
