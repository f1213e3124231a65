//! Reports on a replica, with real servers and the real binary: what the account reads, what it cannot do, that it
//! holds up nothing that the replica applies, and that it is gone where customers write.

use crate::support::command::said;
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Port at which a host's reports are read.
struct Reader {
    port: u16,
    account: PathBuf,
}

impl Reader {
    /// Has a host offer reports, from the next start of its supervisor on.
    fn configure(host: &DatabaseHost, keys: &str) -> Self {
        let (port, account) = (free_port(), host.host.path("reports.cnf"));
        std::fs::write(&account, "[client]\nuser = understudy-reports\npassword = 'for re\\\\ports'\n")
            .unwrap();
        std::fs::set_permissions(&account, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = host.host.path("understudy.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("path = 's0'\n", "path = 's0'\nplan = 'private'\n");
        let reports = format!(
            "[store.database.reports]\naccount_file = 'reports.cnf'\nlisten = '127.0.0.1:{port}'\nsocket = 'reports.sock'\n{keys}"
        );
        std::fs::write(&path, text + &reports).unwrap();
        Self { port, account }
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.arg(format!("--defaults-file={}", self.account.display()));
        client.args(["--protocol=tcp", "--host=127.0.0.1", &format!("--port={}", self.port)]);
        client.args(["--batch", "--skip-column-names", "--connect-timeout=5"]);
        client
    }

    fn sql(&self, statements: &str) -> Result<String, String> {
        let output = self.client().args(["-e", statements]).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Begins a session that lasts.
    fn begin(&self, statements: &str) -> Child {
        let mut client = self.client();
        client.arg("--unbuffered").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = client.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(statements.as_bytes()).unwrap();
        child
    }
}

/// Returns the nice values of the threads that make reports.
fn nice_values(host: &DatabaseHost) -> Vec<i32> {
    let threads = "SELECT TID FROM information_schema.PROCESSLIST WHERE USER = 'understudy-reports'";
    let nice = |thread: &str| {
        let path = format!("/proc/{}/task/{thread}/stat", host.server());
        let stat = std::fs::read_to_string(path).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
    };
    host.sql(threads).lines().filter_map(nice).collect()
}

fn restart(host: &mut DatabaseHost) {
    host.kill_supervisor();
    host.supervise();
    host.wait_for_state("following");
}

fn wait_for_reports(host: &DatabaseHost, reader: &Reader) {
    wait_until(&format!("reports are read: {:#}\n{}", host.status().1, host.log()), || {
        reader.sql("SELECT COUNT(*) FROM shop.orders").is_ok()
    });
}

#[test]
fn reports_read_the_store_and_nothing_else_and_change_nothing() {
    let mut duo = DatabaseDuo::start();
    duo.one.sql(
        "DELIMITER //\nCREATE FUNCTION shop.placed() RETURNS INT DETERMINISTIC \
         BEGIN INSERT INTO shop.orders VALUES ('by-a-view', ''); RETURN 1; END//\nDELIMITER ;\n",
    );
    duo.one.sql("CREATE DEFINER=root@localhost VIEW shop.places AS SELECT shop.placed() AS placed");
    duo.one.sql("CREATE USER boss@'%' IDENTIFIED BY 'boss'; GRANT ALL ON *.* TO boss@'%'");
    duo.one.customer("INSERT INTO shop.orders VALUES ('one', 'paid')").unwrap();
    let reader = Reader::configure(&duo.two, "connections = 2\n");
    restart(&mut duo.two);
    wait_for_reports(&duo.two, &reader);
    duo.wait_until_equal(&duo.one, &duo.two);
    assert_eq!(reader.sql("SELECT note FROM shop.orders").unwrap(), "paid");
    let server =
        duo.two.sql("SELECT @@global.read_only, @@global.skip_networking, @@global.gtid_binlog_state");
    for (statement, wanted) in [
        ("INSERT INTO shop.orders VALUES ('two', '')", "1142 1290"),
        ("DELETE FROM shop.orders", "1142 1290"),
        ("SELECT * FROM shop.places", "1290"),
        ("SELECT * FROM shop.orders FOR UPDATE", "1142 1290"),
        ("LOCK TABLES shop.orders READ", "1044"),
        ("FLUSH TABLES WITH READ LOCK", "1227"),
        ("BACKUP LOCK shop.orders", "1227"),
        ("CREATE TEMPORARY TABLE shop.t (id INT)", "1044"),
        ("SELECT 1 INTO OUTFILE '/tmp/understudy-reports'", "1227 1045"),
        ("SELECT authentication_string FROM mysql.user", "1142"),
        ("SELECT Priv FROM mysql.global_priv", "1142"),
        ("SET GLOBAL read_only=0", "1227"),
        ("SET SESSION sql_log_bin=0", "1227"),
        ("CREATE USER x", "1227 1290"),
        ("GRANT ALL ON *.* TO 'understudy-reports'@'localhost'", "1045 1290 1044"),
        ("STOP SLAVE", "1227"),
        ("RESET MASTER", "1227"),
        ("SHOW SLAVE STATUS", "1227"),
        ("SHUTDOWN", "1227"),
    ] {
        let refused = reader.sql(statement).unwrap_err();
        let is_wanted = wanted.split(' ').any(|code| refused.contains(&format!("ERROR {code} ")));
        assert!(is_wanted, "{statement}: {refused}");
    }
    assert_eq!(reader.sql("SELECT LOAD_FILE('/etc/passwd')").unwrap(), "NULL");
    // Its own limits are not its own to raise.
    let raised = "SET sort_buffer_size=1<<40, tmp_table_size=1<<40, join_buffer_size=1<<40; \
                  SELECT @@sort_buffer_size + @@tmp_table_size + @@join_buffer_size";
    assert!(reader.sql(raised).unwrap().parse::<u64>().unwrap() <= 24 << 20);
    // What it sees of others, it sees of nobody.
    assert_eq!(reader.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST").unwrap(), "1");
    // A database that is new is read, too; nothing of it was written by this server itself.
    duo.one.sql("CREATE DATABASE my_shop; CREATE TABLE my_shop.t (id INT PRIMARY KEY); INSERT INTO my_shop.t VALUES (7)");
    wait_until("a new database is read", || reader.sql("SELECT id FROM my_shop.t").is_ok_and(|id| id == "7"));
    duo.wait_until_equal(&duo.one, &duo.two);
    let after =
        duo.two.sql("SELECT @@global.read_only, @@global.skip_networking, @@global.gtid_binlog_state");
    assert!(server.starts_with("1\t1\t") && after.starts_with("1\t1\t"), "{server} {after}");
    let domains = |state: &str| state.rsplit('\t').next().unwrap().split(',').count();
    assert_eq!(domains(&after), domains(&server), "it has written transactions of its own: {after}");
    // Nobody else passes the door, though the seed brought their accounts.
    for (user, password) in [("boss", "boss"), ("shop", ""), ("root", ""), ("", ""), ("understudy", "secret")]
    {
        let mut client = Command::new("mariadb");
        client.args([
            "--no-defaults",
            "--protocol=tcp",
            "--host=127.0.0.1",
            &format!("--port={}", reader.port),
        ]);
        let output =
            client.args([&format!("-u{user}"), &format!("-p{password}"), "-e", "SELECT 1"]).output().unwrap();
        assert!(said(&output).contains("only 'understudy-reports' is let in"), "{user}: {}", said(&output));
    }
    let wrong = Command::new("mariadb")
        .args(["--no-defaults", "-uunderstudy-reports", "-pwrong", "--socket"])
        .arg(duo.two.host.path("reports.sock"))
        .args(["-e", "SELECT 1"])
        .output()
        .unwrap();
    assert!(
        said(&wrong).contains("1045") && said(&wrong).contains("using password: YES"),
        "{}",
        said(&wrong)
    );
    // More than two at a time are refused by the server.
    let (mut first, mut second) = (reader.begin("SELECT 1;\n"), reader.begin("SELECT 1;\n"));
    for child in [&mut first, &mut second] {
        let mut line = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    }
    let third = reader.sql("SELECT 1").unwrap_err();
    assert!(third.contains("max_user_connections"), "{third}");
    // Threads that apply come first.
    wait_until("its threads are nice", || nice_values(&duo.two) == [10, 10]);
    for mut child in [first, second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Sends a packet, and returns what comes back until the other end closes or a packet is whole.
fn exchange(stream: &mut TcpStream, packet: &[u8]) -> Vec<u8> {
    stream.write_all(packet).unwrap();
    let mut header = [0; 4];
    if stream.read_exact(&mut header).is_err() {
        return Vec::new();
    }
    let mut content = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
    stream.read_exact(&mut content).unwrap();
    content
}

fn packet(number: u8, content: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (content.len() as u32).to_le_bytes();
    [&[a, b, c, number], content].concat()
}

#[test]
fn a_session_for_reports_never_becomes_anothers() {
    let mut duo = DatabaseDuo::start();
    // An account without a password, so that the client needs no arithmetic for the one that it becomes.
    duo.one.sql("CREATE USER boss@'%'; GRANT ALL ON *.* TO boss@'%'");
    let reader = Reader::configure(&duo.two, "");
    restart(&mut duo.two);
    wait_for_reports(&duo.two, &reader);
    duo.wait_until_equal(&duo.one, &duo.two);
    // The account's password is taken away here, for the same reason.
    duo.two.sql("SET sql_log_bin=0; SET PASSWORD FOR 'understudy-reports'@'localhost' = ''");
    let login = |user: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", reader.port)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let greeting = exchange(&mut stream, b"");
        assert_eq!(greeting[0], 10);
        let mut answer = 0x0008_a201_u32.to_le_bytes().to_vec();
        answer.extend((1u32 << 24).to_le_bytes());
        answer.push(45);
        answer.resize(32, 0);
        answer.extend(user.as_bytes());
        answer.extend(b"\0\0mysql_native_password\0");
        let said = exchange(&mut stream, &packet(1, &answer));
        (stream, said)
    };
    assert_eq!(login("boss").1[0], 0xff);
    let ask = |stream: &mut TcpStream| exchange(stream, &packet(0, b"\x03SELECT CURRENT_USER()"));
    let (mut stream, said) = login("understudy-reports");
    assert_eq!(said[0], 0, "{said:?}");
    assert_eq!(ask(&mut stream), [1], "a result of one column");
    let change = b"\x11boss\0\0\0\x2d\0mysql_native_password\0";
    for number in [0, 3] {
        let (mut stream, said) = login("understudy-reports");
        assert_eq!(said[0], 0);
        let said = exchange(&mut stream, &packet(number, change));
        assert!(said.is_empty() || said[0] == 0xff, "{number}: {said:?}");
    }
    let (mut stream, _) = login("understudy-reports");
    assert!(exchange(&mut stream, &packet(0, &[0x1f])).is_empty());
    // The same on the server's own socket is what the door keeps out.
    assert_eq!(duo.two.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER='boss'"), "0");
}

#[test]
fn a_report_that_takes_too_long_or_is_in_the_way_ends_and_the_replica_goes_on() {
    let mut duo = DatabaseDuo::start();
    duo.one.customer("INSERT INTO shop.orders VALUES ('one', '')").unwrap();
    let reader = Reader::configure(&duo.two, "statement_seconds = 2\n");
    restart(&mut duo.two);
    wait_for_reports(&duo.two, &reader);
    duo.wait_until_equal(&duo.one, &duo.two);
    let slow = "SELECT COUNT(*) FROM shop.orders, information_schema.COLUMNS a, information_schema.COLUMNS b, information_schema.COLUMNS c";
    let ended = reader.sql(slow).unwrap_err();
    assert!(ended.contains("max_statement_time exceeded"), "{ended}");
    // A session may lift that for itself, and is ended all the same.
    let ended = reader.sql(&format!("SET max_statement_time=0; {slow}")).unwrap_err();
    assert!(ended.contains("2013") || ended.contains("1927"), "{ended}");
    // A lock of a row that the replica changes.
    let mut locks = reader.begin("BEGIN; SELECT id FROM shop.orders LOCK IN SHARE MODE;\n");
    let mut line = [0; 4];
    locks.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    duo.one.customer("UPDATE shop.orders SET note = 'changed'").unwrap();
    duo.wait_until_equal(&duo.one, &duo.two);
    // A table that it reads, and the replica alters.
    let mut reads = reader.begin("SET max_statement_time=0; BEGIN; SELECT id FROM shop.orders;\n");
    reads.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    duo.one.sql("ALTER TABLE shop.orders ADD COLUMN more INT");
    duo.wait_until_equal(&duo.one, &duo.two);
    let (_, status) = duo.two.status();
    assert!(status["replica"]["reports"]["ended"].as_u64() >= Some(2), "{status:#}");
    assert_eq!(status["replica"]["reports"]["error"], serde_json::Value::Null);
    for mut child in [locks, reads] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn reports_end_where_a_standby_becomes_the_primary_and_begin_where_the_primary_stands_by() {
    let mut duo = DatabaseDuo::start();
    let one = Reader::configure(&duo.one, "");
    let two = Reader::configure(&duo.two, "");
    restart(&mut duo.two);
    wait_for_reports(&duo.two, &two);
    // Reading configurations anew, the primary has none.
    duo.one.kill_supervisor();
    duo.one.supervise();
    duo.one.wait_for_state("serving");
    assert!(one.sql("SELECT 1").unwrap_err().contains("2002"), "nobody listens at a primary's");
    // Through any restart of a replica it is the same account.
    restart(&mut duo.two);
    wait_for_reports(&duo.two, &two);
    let session = two.begin("SELECT SLEEP(1000);\n");
    wait_until("a report runs", || {
        duo.two.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER='understudy-reports'")
            != "0"
    });
    duo.one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]);
    duo.two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    assert!(!session.wait_with_output().unwrap().status.success(), "what ran was cut");
    assert!(two.sql("SELECT 1").unwrap_err().contains("2002"), "the door is closed");
    let accounts = "SELECT COUNT(*) FROM mysql.global_priv WHERE User LIKE 'understudy-reports%'";
    assert_eq!(duo.two.sql(accounts), "0");
    // No statement about the account is in what the others apply.
    duo.one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    duo.one.wait_for_state("following");
    wait_for_reports(&duo.one, &one);
    duo.two.customer("INSERT INTO shop.orders VALUES ('after', 'x')").unwrap();
    duo.wait_until_equal(&duo.two, &duo.one);
    assert_eq!(one.sql("SELECT note FROM shop.orders WHERE id = 'after'").unwrap(), "x");
    assert_eq!((duo.one.sql(accounts), duo.two.sql(accounts)), ("1".into(), "0".into()));
}

#[test]
fn reports_under_standard_are_refused_in_words_and_a_wrong_account_stops_no_replica() {
    let mut duo = DatabaseDuo::start();
    let reader = Reader::configure(&duo.two, "");
    let path = duo.two.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("plan = 'private'\n", "")).unwrap();
    let refused = duo.two.host.command(&["database", "status", "acme"]).output().unwrap();
    assert!(
        refused.status.code() == Some(2)
            && said(&refused).contains("under plan `standard` nobody reads from a replica"),
        "{}",
        said(&refused)
    );
    std::fs::write(&path, text).unwrap();
    std::fs::write(&reader.account, "[client]\nuser = shop\npassword = x\n").unwrap();
    restart(&mut duo.two);
    let shown = || said(&duo.two.host.command(&["database", "status", "acme"]).output().unwrap());
    wait_until("it says why there are no reports", || shown().contains("no reports:"));
    assert!(shown().contains("user = understudy-reports"), "{}", shown());
    duo.one.customer("INSERT INTO shop.orders VALUES ('one', '')").unwrap();
    duo.wait_until_equal(&duo.one, &duo.two);
}
