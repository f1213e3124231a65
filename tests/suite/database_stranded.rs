//! What only a former primary's database has committed, with real servers and the real binary: it is listed, kept
//! exactly, and undone or replaced only after that, whatever was killed.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::database_pair::{DatabasePair, fail_over};
use crate::support::mariadb::{MariaDb, sql_at};
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

const THINGS: &str = "CREATE TABLE shop.things (id INT UNSIGNED PRIMARY KEY, t TINYINT, u BIGINT UNSIGNED, s SMALLINT, \
    m MEDIUMINT UNSIGNED, n BIGINT, f FLOAT, d DOUBLE, amount DECIMAL(20,6), c CHAR(10), v VARCHAR(300), vb VARBINARY(300), \
    b BINARY(4), txt TEXT, bl BLOB, da DATE, dt DATETIME(3), ti TIME(6), ts TIMESTAMP(2) NULL, y YEAR, \
    e ENUM('a','it''s','c'), st SET('x','y','z'), bi BIT(10), j JSON, l VARCHAR(20) CHARACTER SET latin1) \
    DEFAULT CHARSET utf8mb4";

/// What no program writes by accident.
const NASTY: &str = r#"SET NAMES utf8mb4; SET time_zone = '+00:00'; INSERT INTO shop.things VALUES
    (4000000001, -5, 18446744073709551615, -32768, 16777215, -9223372036854775808, 0.1, 1e-7,
    -12345678901234.000001, 'x', 'it''s "q" \\ \n\té 😀 ### INSERT', X'00ff27', X'61', 'line1\nline2', X'de00ad',
    '2024-02-29', '2024-12-31 23:59:59.123', '-12:34:56.654321', '2024-06-01 00:00:00.25', 2024, 'it''s', 'x,z',
    b'1000000001', '{"a": 1}', 'é');
    INSERT INTO shop.things (id) VALUES (2);"#;

/// Returns the value of each column of the first row.
fn nasty() -> Value {
    json!({
        "id": 4_000_000_001_u32, "t": -5, "u": u64::MAX, "s": -32768, "m": 16_777_215, "n": i64::MIN, "f": 0.1,
        "d": 1e-7, "amount": "-12345678901234.000001", "c": "x", "v": "it's \"q\" \\ \n\té 😀 ### INSERT",
        "vb": { "hex": "00ff27" }, "b": { "hex": "61000000" }, "txt": "line1\nline2", "bl": { "hex": "de00ad" },
        "da": "2024-02-29", "dt": "2024-12-31 23:59:59.123", "ti": "-12:34:56.654321",
        "ts": "2024-06-01 00:00:00.25Z", "y": 2024, "e": "it's", "st": "x,z", "bi": 513, "j": "{\"a\": 1}",
        "l": { "hex": "e9" }
    })
}

/// Two hosts of which the second was promoted while the first went on.
struct Diverged {
    duo: DatabaseDuo,
    branch: String,
}

impl Diverged {
    /// Has the first host commit `stranded` alone; `before` is on both.
    fn start(before: &str, stranded: &str) -> Self {
        let mut this = Self { duo: DatabaseDuo::start(), branch: String::new() };
        this.duo.one.sql(&format!("{THINGS}; {before}"));
        this.duo
            .one
            .sql("INSERT INTO shop.orders VALUES ('both', ''), ('changed', 'old'), ('deleted', 'kept')");
        this.duo.wait_until_equal(&this.duo.one, &this.duo.two);
        // A seed from whose position on the second host has all binary logs.
        ok(&mut this.duo.one.host.command(&["database", "seed", "acme", "--quiet"]));
        this.diverge(stranded);
        this
    }

    /// Promotes the second host, then has the first one write on, and makes it a replica.
    fn diverge(&mut self, stranded: &str) {
        let (one, two) = (&self.duo.one, &self.duo.two);
        let printed = two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
        self.branch = printed.lines().last().unwrap().strip_prefix("position ").unwrap().to_owned();
        one.sql(stranded);
        two.sql("INSERT INTO shop.orders VALUES ('new', 'of the second')");
        one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]);
        one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
        one.wait_for_state("broken");
    }

    fn stranded(&self, args: &[&str]) -> Output {
        self.duo.one.order(&[&["stranded", "--branch", &self.branch], args].concat(), &[])
    }

    fn listed(&self) -> Value {
        let output = self.stranded(&["--json"]);
        assert!(output.status.success(), "{}", said(&output));
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["stranded"].clone()
    }

    fn rejoin(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        self.duo.one.order(&[&["rejoin", "--branch", &self.branch], args].concat(), variables)
    }

    fn stop_supervisor(&mut self) {
        let one = &mut self.duo.one;
        one.signal(Signal::TERM);
        one.supervisor.take().unwrap().wait().unwrap();
    }

    /// Kills a rejoin at each of its steps, and looks that what is stranded is kept and that no supervisor starts the
    /// server meanwhile.
    fn kill_at_each(&self, all: &[&str], args: &[&str], kept: &Path) {
        let path = self.duo.one.host.path("steps");
        for step in all {
            let killed = self.rejoin(
                args,
                &[("UNDERSTUDY_TEST_KILL_AT", step), ("UNDERSTUDY_TEST_STEPS", path.to_str().unwrap())],
            );
            assert!(!killed.status.success(), "{step}: {}", said(&killed));
            assert_eq!(steps(&path).last().map(String::as_str), Some(*step), "{}", said(&killed));
            wait_until("its server has ended", || {
                !self.duo.one.place().join("pid").exists() || self.duo.one.try_sql("SELECT 1").is_err()
            });
            assert_eq!(rows(kept).len(), 7, "{step}");
            if *step != "kept" {
                let refused = self.duo.one.host.command(&["database", "run", "acme"]).output().unwrap();
                assert!(
                    refused.status.code() == Some(4) && said(&refused).contains("rejoin acme"),
                    "{refused:?}"
                );
            }
        }
    }

    /// Starts the first host's supervisor, and waits until its server follows and has the same rows.
    fn follows_and_is_equal(&mut self) {
        self.duo.one.supervise();
        self.duo.one.wait_for_state("following");
        self.duo.two.sql("INSERT INTO shop.orders VALUES (UUID(), 'later')");
        self.duo.wait_until_equal(&self.duo.two, &self.duo.one);
        let all = |host: &DatabaseHost| host.sql("CHECKSUM TABLE shop.orders, shop.things");
        assert_eq!(all(&self.duo.one), all(&self.duo.two));
        assert_eq!(self.duo.one.sql("SELECT COUNT(*) FROM shop.orders WHERE id LIKE 'stranded%'"), "0");
        // A primary's server leaves the table of its heartbeat.
        let left = "SHOW TABLES FROM mysql WHERE Tables_in_mysql LIKE 'understudy%' AND Tables_in_mysql <> 'understudy_heartbeat'";
        assert_eq!(self.duo.one.sql(left), "");
    }
}

fn rows(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("rows.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn changes() -> String {
    format!(
        "{NASTY} UPDATE shop.orders SET note = 'new' WHERE id = 'changed'; DELETE FROM shop.orders WHERE id = 'deleted'; \
         START TRANSACTION; INSERT INTO shop.orders VALUES ('stranded-1', 'a'), ('stranded-2', 'b'); \
         UPDATE shop.orders SET id = 'stranded-3', note = NULL WHERE id = 'stranded-2'; COMMIT;"
    )
}

#[test]
fn what_is_stranded_is_listed_by_table_kept_exactly_and_undone_and_the_server_follows() {
    let mut this = Diverged::start("", &changes());
    let listed = this.listed();
    assert_eq!(listed["transactions"].as_array().unwrap().len(), 5, "{listed:#}");
    let orders =
        json!({ "table": "shop.orders", "inserted": 2, "updated": 2, "deleted": 1, "compressed": 0 });
    let things =
        json!({ "table": "shop.things", "inserted": 2, "updated": 0, "deleted": 0, "compressed": 0 });
    assert_eq!(listed["tables"], json!([orders, things]));
    let words = said(&this.stranded(&[]));
    assert!(words.contains("shop.orders: 2 inserted, 2 updated, 1 deleted"), "{words}");
    // Kept: the rows, exactly, and what makes them again elsewhere.
    let dir = this.duo.one.host.path("kept");
    let output = this.stranded(&["--into", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let kept = rows(&dir);
    assert_eq!(kept[0]["after"], nasty(), "{:#}", kept[0]);
    let nulls = kept[1]["after"].as_object().unwrap();
    assert!(
        nulls.len() == 25 && nulls.iter().all(|(name, value)| name == "id" || value.is_null()),
        "{nulls:?}"
    );
    assert_eq!(kept[2]["before"], json!({ "id": "changed", "note": "old" }));
    assert_eq!(kept[2]["after"], json!({ "id": "changed", "note": "new" }));
    assert_eq!((kept[3]["change"].as_str(), &kept[3]["before"]["note"]), (Some("delete"), &json!("kept")));
    for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    let again = this.stranded(&["--into", dir.to_str().unwrap()]);
    assert!(!again.status.success() && said(&again).contains("already"), "{again:?}");
    replay_elsewhere(&dir, &this.duo.one);
    // Nothing is done while its supervisor runs, nor without a person's word.
    let refused = this.rejoin(&["--flashback", "--yes"], &[]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("supervisor"), "{refused:?}");
    this.stop_supervisor();
    assert_eq!(this.listed()["tables"], listed["tables"], "without its server");
    let refused = this.rejoin(&["--flashback"], &[]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("--yes"), "{refused:?}");
    let reseed = this.duo.one.host.command(&["database", "run", "acme", "--reseed"]).output().unwrap();
    assert!(reseed.status.code() == Some(4) && said(&reseed).contains("rejoin acme --reseed"), "{reseed:?}");
    let begun = Instant::now();
    let done = this.rejoin(&["--flashback", "--yes"], &[]);
    println!("flashback of 5 transactions: {:?}", begun.elapsed());
    assert!(done.status.success(), "{}\n{}", said(&done), this.duo.one.log());
    assert!(said(&done).contains("database seed acme"), "{}", said(&done));
    this.follows_and_is_equal();
}

/// Applies what was kept to another server that had what was on both, and compares.
fn replay_elsewhere(dir: &Path, original: &DatabaseHost) {
    let other = MariaDb::start("");
    other.sql(&format!(
        "CREATE DATABASE shop; CREATE TABLE shop.orders (id VARCHAR(40) PRIMARY KEY, note VARCHAR(200)); {THINGS}; \
         INSERT INTO shop.orders VALUES ('both', ''), ('changed', 'old'), ('deleted', 'kept')"
    ));
    let pipe = format!(
        "mariadb-binlog --no-defaults {} | mariadb --no-defaults -uroot --socket={}",
        dir.join("000001.binlog").display(),
        other.socket().display()
    );
    let output = std::process::Command::new("bash").args(["-o", "pipefail", "-c", &pipe]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let all = "CHECKSUM TABLE shop.orders, shop.things";
    assert_eq!(sql_at(&other.socket(), &["--no-defaults", "-uroot"], all).unwrap(), original.sql(all));
}

#[test]
fn what_cannot_be_undone_row_by_row_is_refused_with_its_reasons_and_a_reseed_keeps_it() {
    let before = "CREATE TABLE shop.parents (id INT PRIMARY KEY); CREATE TABLE shop.children (id INT PRIMARY KEY, \
         parent INT, FOREIGN KEY (parent) REFERENCES shop.parents (id) ON DELETE CASCADE); \
         INSERT INTO shop.parents VALUES (1); INSERT INTO shop.children VALUES (1, 1); \
         CREATE TABLE shop.plain (id INT PRIMARY KEY) ENGINE=MyISAM";
    let stranded = "INSERT INTO shop.orders VALUES ('stranded', ''); DELETE FROM shop.parents; \
         INSERT INTO shop.plain VALUES (1); ALTER TABLE shop.orders ADD COLUMN more INT";
    let mut this = Diverged::start(before, stranded);
    let listed = this.listed();
    assert!(listed.to_string().contains("ALTER TABLE shop.orders"), "{listed:#}");
    this.stop_supervisor();
    let refused = this.rejoin(&["--flashback", "--yes"], &[]);
    let words = said(&refused);
    assert_eq!(refused.status.code(), Some(4), "{words}");
    for reason in ["ALTER TABLE", "MyISAM", "shop.children", "other columns", "--reseed"] {
        assert!(words.contains(reason), "{reason}: {words}");
    }
    // Nothing was changed by that.
    this.duo.one.supervise();
    this.duo.one.wait_for_state("broken");
    assert_eq!(this.duo.one.sql("SELECT COUNT(*) FROM shop.orders WHERE id = 'stranded'"), "1");
    this.stop_supervisor();
    let dir = this.duo.one.host.path("kept");
    let done = this.rejoin(&["--reseed", "--yes", "--into", dir.to_str().unwrap()], &[]);
    assert!(done.status.success(), "{}\n{}", said(&done), this.duo.one.log());
    // Names of columns that a stranded statement may have changed are not guessed.
    assert!(rows(&dir).iter().any(|row| row["after"]["@1"] == "stranded"), "{:#?}", rows(&dir));
    assert!(rows(&dir).iter().any(|row| row["before"]["id"] == 1), "{:#?}", rows(&dir));
    this.follows_and_is_equal();
}

/// Returns the steps that were reached so far.
fn steps(path: &PathBuf) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_rejoin_that_is_killed_at_any_step_comes_to_the_same_end_and_loses_nothing() {
    let mut this = Diverged::start("", &changes());
    this.stop_supervisor();
    let dir = this.duo.one.host.path("kept");
    let args = ["--flashback", "--yes", "--into", dir.to_str().unwrap()];
    let all = [
        "kept",
        "rejoin noted",
        "rows undone",
        "primary forgotten",
        "history begun",
        "rewound",
        "mark forgotten",
        "role noted",
    ];
    this.kill_at_each(&all, &args, &dir);
    let done = this.rejoin(&args, &[]);
    assert!(done.status.success(), "{}\n{}", said(&done), this.duo.one.log());
    this.follows_and_is_equal();
}

#[test]
fn a_reseed_that_is_killed_at_any_step_comes_to_the_same_end_and_loses_nothing() {
    let mut this = Diverged::start("", &changes());
    this.stop_supervisor();
    let dir = this.duo.one.host.path("kept");
    let args = ["--reseed", "--yes", "--into", dir.to_str().unwrap()];
    let all = ["kept", "rejoin noted", "restoring noted", "seed restored", "restoring ended", "role noted"];
    this.kill_at_each(&all, &args, &dir);
    let done = this.rejoin(&args, &[]);
    assert!(done.status.success(), "{}\n{}", said(&done), this.duo.one.log());
    assert_eq!(rows(&dir).len(), 7);
    this.follows_and_is_equal();
}

#[test]
fn after_a_failover_status_names_what_is_stranded_by_table_behind_the_branch_that_the_log_says() {
    let pair = DatabasePair::start("");
    let (one, two) = (&pair.one, &pair.two);
    one.sql("INSERT INTO shop.orders VALUES ('both', ''); CREATE TABLE shop.things (id INT PRIMARY KEY)");
    let branch = one.sql("SELECT @@gtid_binlog_pos");
    wait_until("the standby has it", || two.sql("SELECT @@gtid_slave_pos").contains(&branch));
    // The host hangs, and its server goes on.
    let hangs = [one.supervisor.as_ref().unwrap(), one.host.daemon.as_ref().unwrap()];
    let hangs = hangs.map(|child| Pid::from_raw(child.id() as i32).unwrap());
    for process in hangs {
        kill_process(process, Signal::STOP).unwrap();
    }
    fail_over(two);
    one.sql("INSERT INTO shop.orders VALUES ('stranded-1', ''), ('stranded-2', '')");
    one.sql("INSERT INTO shop.things VALUES (1)");
    two.customer("INSERT INTO shop.orders VALUES ('new', 'of the second')").unwrap();
    for process in hangs {
        kill_process(process, Signal::CONT).unwrap();
    }
    one.wait_for_state("broken");
    let shown = said(&one.host.command(&["database", "status", "acme"]).output().unwrap());
    for wanted in [
        "2 transactions (",
        &format!("are stranded behind {branch}"),
        "shop.orders: 2 inserted",
        "shop.things: 1 inserted",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let listed = one.order(&["stranded", "--json"], &[]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["stranded"]["transactions"].as_array().unwrap().len(), 2, "{listed:#}");
    assert_eq!(listed["stranded"]["branch"], branch.as_str(), "{listed:#}");
}
