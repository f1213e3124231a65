//! Real MariaDB servers: a primary each, on a free port of loopback, stopped by its own id.

use super::servers::free_port;
use super::wait::wait_until;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

/// Returns an empty data directory, made once for each version of the server.
fn template() -> &'static Path {
    static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| {
        let said = Command::new("mariadbd").arg("--version").output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let version = said.split_whitespace().find(|word| word.contains("-MariaDB")).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mariadb-template-{version}"));
        if path.exists() {
            return path;
        }
        let new = path.with_extension(format!("{}.{}", std::process::id(), super::rig::nonce()));
        let output = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", new.display()))
            .output()
            .expect("mariadb-install-db: tests/tools.sh installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Other test processes make the same, and each of them is right.
        if std::fs::rename(&new, &path).is_err() {
            std::fs::remove_dir_all(&new).unwrap();
        }
        path
    });
    &TEMPLATE
}

/// Options by which a server is fit to be a primary.
pub const FIT: &str = "log-bin=bin\nbinlog-format=ROW\nserver-id=11\ngtid-domain-id=1\ngtid-strict-mode=1\nbinlog-expire-logs-seconds=604800\n";
/// The privileges that our account needs.
pub const GRANTS: &str = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN, SLAVE MONITOR, REPLICATION SLAVE, SELECT";

/// A server.
pub struct MariaDb {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
}

impl MariaDb {
    /// Starts a server with these options in addition, and an account `understudy` without privileges.
    pub fn start(options: &str) -> Self {
        let server = Self::start_on(template(), options);
        server.sql("SET sql_log_bin=0; CREATE USER understudy@'127.0.0.1' IDENTIFIED BY 'se''cret\\\\';");
        let account = server.account_file();
        std::fs::write(&account, "[client]\nuser=understudy\npassword=\"se'cret\\\\\"\n").unwrap();
        server
    }

    /// Starts a server on a copy of a data directory, with these options in addition.
    pub fn start_on(data: &Path, options: &str) -> Self {
        let mut server = Self { dir: tempfile::tempdir().unwrap(), port: free_port(), child: None };
        let copied =
            Command::new("cp").args(["-a", "--reflink=auto"]).arg(data).arg(server.datadir()).status();
        assert!(copied.unwrap().success());
        let mut text = String::from(
            "[mariadbd]\nuser=root\nbind-address=127.0.0.1\nperformance-schema=0\ninnodb-buffer-pool-size=32M\ninnodb-log-file-size=32M\n",
        );
        for (name, value) in
            [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid"), ("log-error", "log")]
        {
            writeln!(text, "{name}={}", server.dir.path().join(value).display()).unwrap();
        }
        std::fs::write(server.dir.path().join("my.cnf"), format!("{text}port={}\n{options}", server.port))
            .unwrap();
        server.begin();
        server
    }

    /// Starts a primary that is fit for a replica, with the database `shop`.
    pub fn primary() -> Self {
        Self::primary_with("")
    }

    /// Starts such a primary with further options.
    pub fn primary_with(options: &str) -> Self {
        let server = Self::start(&format!("{FIT}{options}"));
        server.sql(&format!("GRANT {GRANTS} ON *.* TO understudy@'127.0.0.1'; CREATE DATABASE shop;"));
        server.sql("CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, total INT NOT NULL, note VARCHAR(200));");
        server
    }

    pub fn begin(&mut self) {
        let child = Command::new("mariadbd")
            .arg(format!("--defaults-file={}", self.dir.path().join("my.cnf").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd: tests/tools.sh installs it");
        self.child = Some(child);
        wait_until("the server answers", || self.try_sql("SELECT 1").is_ok());
    }

    /// Kills the server at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn datadir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn account_file(&self) -> PathBuf {
        self.dir.path().join("account.cnf")
    }

    /// Returns the keys of `[store.database]` by which it is reached over TCP.
    pub fn tcp(&self) -> String {
        format!(
            "host = '127.0.0.1'\nport = {}\naccount_file = '{}'\n",
            self.port,
            self.account_file().display()
        )
    }

    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        sql_at(&self.socket(), &["--no-defaults", "-uroot"], statements)
    }

    /// Runs statements as root, and returns what they print.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// Commits this many orders, each in a transaction.
    pub fn orders(&self, count: u32) {
        let insert = "INSERT INTO shop.orders (total, note) VALUES (RAND() * 1000, REPEAT('x', 100));\n";
        self.sql(&insert.repeat(count as usize));
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs statements at a socket, and returns what they print.
pub fn sql_at(socket: &Path, account: &[&str], statements: &str) -> Result<String, String> {
    let mut child = Command::new("mariadb")
        .args(account)
        .arg("--socket")
        .arg(socket)
        .args(["--protocol=socket", "--batch", "--skip-column-names"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
