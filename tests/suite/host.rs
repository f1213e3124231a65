//! The host: what another user of it can read, write, answer or keep from answering. The attacker is a process of a user without privileges,
//! and what it must not reach is root's.

use crate::kill::{ok, understudy};
use crate::rig::sample_tree;
use crate::service::{Host, wait_until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nobody else on this machine.
const ATTACKER: u32 = 61_234;

/// A command of the attacker's.
fn attacker(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let id = ATTACKER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program).stdin(Stdio::null());
    command
}

fn shell(script: &str) -> Output {
    attacker("sh").args(["-c", script]).output().unwrap()
}

/// A directory that everybody on the host may enter, of root's.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o755);
    dir
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Makes a file that belongs to the attacker.
fn theirs(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    chown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_configuration_that_another_user_may_write_runs_nothing() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    let proof = at("proof");
    let text = |path: &Path| {
        format!(
            "[[store]]\nname='acme'\npath='{}'\n[store.hooks]\nbefore=['/bin/sh','-c','id > {}']\n",
            path.display(),
            proof.display()
        )
    };
    // The tenant's own tree, in which root types a command.
    chown(at("shop"), Some(ATTACKER), Some(ATTACKER)).unwrap();
    let found = at("shop/understudy.toml");
    theirs(&found, &text(&at("shop")));
    for args in [&["resync", "acme"][..], &["resync", "--due"], &["drill", "acme"], &["status"], &["run"]] {
        let output = understudy(dir.path()).current_dir(at("shop")).args(args).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("belongs to user 61234") && said.contains("--config"), "{args:?}: {said}");
        assert!(!proof.exists(), "{args:?}");
    }
    // Root's file in a directory that is the tenant's: they put another in its place whenever they like.
    chown(&found, Some(0), Some(0)).unwrap();
    let output = understudy(dir.path()).current_dir(at("shop")).args(["resync", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("chown 0 ."), "{}", said(&output));
    // One that is named is no better.
    let named = at("named.toml");
    std::fs::write(&named, text(&at("shop"))).unwrap();
    for (mode, link) in [(0o666, false), (0o620, false), (0o646, true)] {
        chmod(&named, mode);
        let link_to = at("link.toml");
        let _ = std::fs::remove_file(&link_to);
        symlink("named.toml", &link_to).unwrap();
        let path = if link { &link_to } else { &named };
        let mut command = understudy(dir.path());
        let output = command.args(["resync", "acme", "--config"]).arg(path).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains("chmod go-w"), "{}", said(&output));
    }
    assert!(!proof.exists());
    // Its own user's is taken, and it is said which one that is.
    std::fs::remove_file(&found).unwrap();
    std::fs::write(at("understudy.toml"), text(&at("shop"))).unwrap();
    let output = ok(understudy(dir.path()).args(["resync", "acme"]));
    let here = at("understudy.toml").display().to_string();
    assert!(said(&output).contains(&format!("takes the configuration of this directory: {here}")));
    assert!(proof.exists());
}

#[test]
fn a_key_a_passphrase_and_a_token_that_others_may_write_are_refused_and_one_that_all_may_read_is_told() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    let key = at("key");
    std::fs::copy(crate::rig::key_file(), &key).unwrap();
    let resync = |key: &Path| {
        let mut command = understudy(dir.path());
        command.args(["resync", "shop", "--store", "acme"]).env("UNDERSTUDY_KEY_FILE", key);
        command.output().unwrap()
    };
    chmod(&key, 0o606);
    let output = resync(&key);
    assert!(!output.status.success() && said(&output).contains("chmod go-w"), "{}", said(&output));
    chmod(&key, 0o600);
    chown(&key, Some(ATTACKER), None).unwrap();
    let output = resync(&key);
    assert!(!output.status.success() && said(&output).contains("belongs to user 61234"), "{}", said(&output));
    chown(&key, Some(0), None).unwrap();
    chmod(&key, 0o644);
    let output = resync(&key);
    assert!(output.status.success() && said(&output).contains("chmod go-r"), "{}", said(&output));
    // As Kubernetes shows a secret to a pod of a group: by symlinks, in a directory that is sticky.
    let volume = at("volume");
    std::fs::create_dir_all(volume.join("..2026")).unwrap();
    std::fs::rename(&key, volume.join("..2026/key")).unwrap();
    chmod(&volume.join("..2026/key"), 0o440);
    chown(volume.join("..2026/key"), None, Some(33)).unwrap();
    chmod(&volume, 0o1777);
    symlink("..2026", volume.join("..data")).unwrap();
    symlink("..data/key", volume.join("key")).unwrap();
    let output = resync(&volume.join("key"));
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    // A passphrase, and a token.
    theirs(&at("passphrase"), "correct horse battery staple");
    std::fs::write(at("understudy.toml"), "passphrase_file = 'passphrase'\n").unwrap();
    let output = understudy(dir.path()).args(["resync", "shop", "--store", "new"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("belongs to user 61234"), "{}", said(&output));
    let mut host = Host::new(1);
    theirs(&host.path("token"), "0123456789abcdef0123");
    let text = format!(
        "[service]\nlisten = '127.0.0.1:{}'\ntoken_file = 'token'\n[[store]]\nname='a'\npath='s0'\n",
        host.port
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host.start();
    assert_eq!(host.ask("GET", "/api/v1/stores", Some("0123456789abcdef0123")).0, 503);
    assert!(host.log().contains("belongs to user 61234"), "{}", host.log());
}

#[test]
fn whoever_answers_at_the_port_of_a_daemon_that_is_down_gets_no_token_and_commits_nothing() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    host.end();
    // A user of the host takes the port, and answers as a daemon would.
    let listener = TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    let output = ok(&mut host.command(&["resync", "a"]));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("a@2 committed to ") && !told.contains("by the daemon"), "{told}");
    ok(&mut host.command(&["status"]));
    assert!(listener.accept().is_err(), "nobody connected");
    // Nor is one asked that left a socket where others may.
    let state = host.path("state/understudy");
    chmod(&state, 0o777);
    let output = ok(&mut host.command(&["resync", "a"]));
    assert!(said(&output).contains("chmod 700"), "{}", said(&output));
}

#[test]
fn a_command_meets_the_daemon_of_its_configuration_by_a_socket_that_nobody_else_enters() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    let told = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let resync = |how: &[&str]| told(ok(host.command(&["resync", "a"]).args(how)));
    assert!(resync(&[]).contains("by the daemon"));
    // Of another configuration, or of another repository, it knows nothing.
    std::fs::copy(host.path("understudy.toml"), host.path("other.toml")).unwrap();
    let other = host.path("other.toml").display().to_string();
    assert!(!resync(&["--config", &other]).contains("by the daemon"));
    let socket = host.socket().unwrap();
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket) & 0o077), (0o700, 0));
    // A second daemon of the configuration is refused; the first goes on.
    let second = host.command(&["run", "--listen", "off"]).output().unwrap();
    let log = said(&second);
    assert!(second.status.code() == Some(1) && log.contains("another daemon runs"), "{log}");
    assert!(resync(&[]).contains("by the daemon"));
    // Entered by force, it answers nobody but its user and root.
    for dir in [host.dir.path(), &host.path("state"), socket.parent().unwrap()] {
        chmod(dir, 0o755);
    }
    chmod(&socket, 0o777);
    let ask = format!("curl -s --max-time 5 --unix-socket {} http://localhost/healthz", socket.display());
    let output = shell(&ask);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    chmod(socket.parent().unwrap(), 0o700);
    assert!(resync(&[]).contains("by the daemon"));
    // What a killed one leaves is replaced.
    let mut daemon = host.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(socket.exists());
    assert!(!told(ok(&mut host.command(&["resync", "a"]))).contains("by the daemon"));
    host.start();
    assert!(told(ok(&mut host.command(&["resync", "a"]))).contains("by the daemon"));
    host.end();
    assert!(!socket.exists());
}

#[test]
fn at_the_port_whoever_has_no_token_sees_health_and_figures_only() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    std::fs::write(host.path("s0/invoice-jane-doe.pdf"), b"new").unwrap();
    ok(&mut host.command(&["resync", "a", "--quiet"]));
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(host.ask("GET", path, None).0, 200, "{path}");
    }
    let api = [
        "/api/v1/stores",
        "/api/v1/stores/a",
        "/api/v1/stores/a/snapshots",
        "/api/v1/stores/a/changes?from=1",
        "/api/v1/openapi.json",
        "/nothing",
    ];
    for path in api {
        let (status, body) = host.ask("GET", path, None);
        assert!(status == 401 && !body.contains("jane"), "{path}: {status} {body}");
        let with = host.ask("GET", path, Some(&host.token()));
        assert_eq!(with.0, if path == "/nothing" { 404 } else { 200 }, "{path}: {}", with.1);
    }
    // A name of an attacker's that leads here, in a browser of this host.
    for path in ["/metrics", "/api/v1/stores"] {
        let token = format!("Authorization: Bearer {}", host.token());
        let (status, body) = host.curl(&["-H", "Host: evil.example", "-H", &token], "GET", path);
        assert!(status == 421 && body.contains("service.hosts"), "{path}: {status} {body}");
    }
    assert_eq!(host.curl(&["-H", "Host: localhost"], "GET", "/metrics").0, 200);
    host.end();
    host.configure("hosts = ['shop.example']\n[[store]]\nname='a'\npath='s0'\n");
    host.start();
    assert_eq!(host.curl(&["-H", "Host: shop.example:9184"], "GET", "/metrics").0, 200);
}

#[test]
fn half_requests_keep_nobody_out_and_end_by_themselves() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    // Few handles, as a service may have.
    host.start_with(|command| {
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let envs: Vec<_> =
            command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        let dir = command.get_current_dir().unwrap().to_owned();
        *command = Command::new("prlimit");
        command.arg("--nofile=256").arg(program).args(args).current_dir(dir).stdin(Stdio::null());
        for (key, value) in envs {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.stdout(Stdio::null()).stderr(Stdio::null())
    });
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    let half: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
            stream.write_all(b"GET /api/v1/stores HTTP/1.1\r\nHost: 127.0.0.1\r\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(host.ask("GET", "/healthz", None).0, 200, "a probe finds a place");
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    ok(&mut host.command(&["resync", "a", "--quiet"]));
    assert_eq!(host.store("a")["snapshot"], 2, "handles are left for runs");
    let begun = Instant::now();
    for mut stream in half {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        // Closed, whether it says so or resets.
        let read = stream.read_to_end(&mut rest);
        assert!(read.is_ok() || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}
