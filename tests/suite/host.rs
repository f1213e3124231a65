//! The host: what another user of it can read, write, answer or keep from answering. The attacker is a
//! process of an unprivileged user, and must not reach what is root's.

use crate::support::command::{ok, understudy};
use crate::support::host::Host;
use crate::support::tree::sample_tree;
use crate::support::wait::wait_until;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use understudy::failover::peers::ASK_PATH;
use understudy::failover::peers::question::{Addressee, Ask, Asked, Question};
use understudy::model::id::{StoreName, WriterId};
use understudy::support::clock::UnixNanos;
use understudy::support::signature::SigningKey;

/// A user id that has no other process on this machine.
const ATTACKER: u32 = 61_234;

/// Returns a command that runs as the attacker.
fn attacker(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let id = ATTACKER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program).stdin(Stdio::null());
    command
}

fn shell(script: &str) -> Output {
    attacker("sh").args(["-c", script]).output().unwrap()
}

/// A process that ends with its test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a directory of root's that every user of the host may enter.
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

/// Creates a file that belongs to the attacker.
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
    // A file of root's in the tenant's directory: the tenant can replace it at any time.
    chown(&found, Some(0), Some(0)).unwrap();
    let output = understudy(dir.path()).current_dir(at("shop")).args(["resync", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("chown 0 ."), "{}", said(&output));
    // A configuration that is named explicitly gets no more trust.
    let named = at("named.toml");
    std::fs::write(&named, text(&at("shop"))).unwrap();
    // A group that another user is in; root's own group is trusted.
    chown(&named, Some(0), Some(1)).unwrap();
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
    // A configuration of the user's own is used, and its path is shown.
    std::fs::remove_file(&found).unwrap();
    std::fs::write(at("understudy.toml"), text(&at("shop"))).unwrap();
    let output = ok(understudy(dir.path()).args(["resync", "acme"]));
    let here = at("understudy.toml").display().to_string();
    assert!(said(&output).contains(&format!("using the configuration in the current directory: {here}")));
    assert!(proof.exists());
}

#[test]
fn a_key_a_passphrase_and_a_token_that_others_may_write_are_refused_and_one_that_all_may_read_is_told() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    let key = at("key");
    std::fs::copy(crate::support::rig::key_file(), &key).unwrap();
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
    // No key file is made in a directory where another user could replace it.
    std::fs::create_dir(at("theirs")).unwrap();
    chown(at("theirs"), Some(ATTACKER), None).unwrap();
    let mut command = understudy(dir.path());
    command.args(["resync", "shop", "--store", "other"]).env("UNDERSTUDY_KEY_FILE", at("theirs/key"));
    let output = command.output().unwrap();
    assert!(!output.status.success() && said(&output).contains("belongs to user 61234"), "{}", said(&output));
    assert_eq!(std::fs::read_dir(at("theirs")).unwrap().count(), 0);
    // Kubernetes shows a secret to a pod with a group like this: by symlinks, in a sticky directory.
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
    // The same for a passphrase and a token.
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
    let socket = host.socket().unwrap();
    host.end();
    // A user of the host takes the port, and answers like a daemon.
    let listener = TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    let output = ok(&mut host.command(&["resync", "a"]));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("a@2 committed to ") && !told.contains("by the daemon"), "{told}");
    ok(&mut host.command(&["status"]));
    assert!(listener.accept().is_err(), "nobody connected");
    // A process that made the socket is not asked either, if other users may create files there.
    chmod(&host.path("state"), 0o755);
    chmod(socket.parent().unwrap(), 0o777);
    let imposter = UnixListener::bind(&socket).unwrap();
    imposter.set_nonblocking(true).unwrap();
    let output = ok(&mut host.command(&["resync", "a"]));
    assert!(said(&output).contains("mkdir -m 700"), "{}", said(&output));
    assert!(imposter.accept().is_err(), "nobody connected");
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
    // The daemon does not answer for another configuration or another repository.
    std::fs::copy(host.path("understudy.toml"), host.path("other.toml")).unwrap();
    let other = host.path("other.toml").display().to_string();
    assert!(!resync(&["--config", &other]).contains("by the daemon"));
    let socket = host.socket().unwrap();
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket) & 0o077), (0o700, 0));
    // A second daemon of the configuration is refused; the first one continues.
    let second = host.command(&["run", "--listen", "off"]).output().unwrap();
    let log = said(&second);
    assert!(second.status.code() == Some(1) && log.contains("another daemon is running"), "{log}");
    assert!(resync(&[]).contains("by the daemon"));
    // Even in an opened directory it answers only its user and root.
    for dir in [host.dir.path(), &host.path("state"), socket.parent().unwrap()] {
        chmod(dir, 0o755);
    }
    chmod(&socket, 0o777);
    let ask = format!("curl -s --max-time 5 --unix-socket {} http://localhost/healthz", socket.display());
    let output = shell(&ask);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    chmod(socket.parent().unwrap(), 0o700);
    assert!(resync(&[]).contains("by the daemon"));
    // The socket of a killed daemon is replaced.
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
    // A name of the attacker's that resolves to this host, used by a browser on it.
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
fn at_the_members_path_a_signature_counts_and_a_token_does_not() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    let question = |store: &str| {
        let (store, asked) = (StoreName::parse(store).unwrap(), WriterId("web-1".into()));
        let said = Asked { at: UnixNanos(1), ask: Ask::Look };
        let to = Addressee { store, asked, nonce: 1 };
        let signed = Question::sign(to, &said, &WriterId("web-2".into()), &SigningKey::of(&[1; 32]));
        String::from_utf8(signed.unwrap().encode()).unwrap()
    };
    let token = format!("Authorization: Bearer {}", host.token());
    let ask = |text: &str| {
        let sent = ["-H", "Host: evil.example", "-H", &token, "--data-binary", text];
        host.curl(&sent, "POST", ASK_PATH)
    };
    // Who is no member does not learn which stores are here.
    let known = ask(&question("a"));
    assert_eq!((known.0, &known), (403, &ask(&question("b"))), "{}", known.1);
    assert_eq!((ask("{}").0, ask(&"x".repeat(5000)).0), (403, 413));
    assert_eq!(host.ask("GET", ASK_PATH, None).0, 405);
    assert_eq!(host.ask("GET", "/api/v1/members", None).0, 401);
}

#[test]
fn half_requests_keep_nobody_out_and_end_by_themselves() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    // A low limit of handles, as a service may have.
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
        // The connection is closed, with or without a reset.
        let read = stream.read_to_end(&mut rest);
        assert!(read.is_ok() || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// Returns the paths below a directory that other users of this host can list.
fn exposed(dir: &Path) -> Vec<String> {
    let output = shell(&format!("find {} -mindepth 1 2>/dev/null", dir.display()));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn what_is_made_here_is_nobody_else_s_to_read() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    // The most permissive umask that a careless administrator could set.
    let command = |args: &[&str]| {
        let mut command = Command::new("sh");
        let binary = understudy(dir.path());
        command.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(dir.path());
        command.env("XDG_STATE_HOME", at("state")).env("XDG_DATA_HOME", at("data"));
        command.args(["-c", "umask 000; exec \"$@\"", "sh"]).arg(binary.get_program()).args(args);
        command.stdin(Stdio::null());
        command
    };
    std::fs::write(at("understudy.toml"), "encryption = 'none'\n[service]\nlisten = 'off'\n").unwrap();
    ok(&mut command(&["resync", "shop", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let daemon = Running(command(&["run"]).stderr(Stdio::null()).spawn().unwrap());
    wait_until("it is there", || at("state/understudy").is_dir());
    drop(daemon);
    for place in ["repository", "cache/understudy", "data/understudy/standby", "state/understudy"] {
        assert!(at(place).is_dir() && mode(&at(place)) & 0o077 == 0, "{place}: {:o}", mode(&at(place)));
        assert_eq!(exposed(&at(place)), [""; 0], "{place}");
    }
    for entry in walkdir::WalkDir::new(at("repository")).into_iter().chain(walkdir::WalkDir::new(at("cache")))
    {
        let entry = entry.unwrap();
        assert_eq!(mode(entry.path()) & 0o077, 0, "{}", entry.path().display());
    }
    // Places that an earlier version left open are closed.
    for place in ["cache/understudy", "data/understudy/standby/acme"] {
        chmod(&at(place), 0o755);
    }
    ok(&mut command(&["resync", "shop", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    assert_eq!((mode(&at("cache/understudy")), mode(&at("data/understudy/standby/acme"))), (0o700, 0o700));
    // A restore still applies the snapshot's modes.
    ok(&mut command(&["restore", "acme", "out", "--quiet"]));
    crate::support::facts::assert_same(&at("shop"), &at("out"), "restored");
}

#[test]
fn a_directory_of_somebody_else_s_is_taken_for_none_of_ours() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    let fails = |args: &[&str], told: &str| {
        let mut command = understudy(dir.path());
        let output = command.env("XDG_DATA_HOME", at("data")).args(args).output().unwrap();
        let said = said(&output);
        assert!(!output.status.success() && said.contains(told), "{args:?}: {said}");
    };
    let resync = ["resync", "shop", "--store", "acme", "--quiet"];
    for place in ["repository", "cache/understudy"] {
        std::fs::create_dir_all(at(place)).unwrap();
        chown(at(place), Some(ATTACKER), None).unwrap();
        fails(&resync, "belongs to user 61234");
        chown(at(place), Some(0), None).unwrap();
        chmod(&at(place), 0o777);
        fails(&resync, "chmod o-w");
        chmod(&at(place), 0o755);
    }
    ok(understudy(dir.path()).args(resync));
    std::fs::create_dir_all(at("data/understudy/standby/acme")).unwrap();
    chown(at("data/understudy/standby/acme"), Some(ATTACKER), None).unwrap();
    fails(&["follow", "acme", "--once"], "belongs to user 61234");
    std::fs::remove_dir(at("data/understudy/standby/acme")).unwrap();
    ok(understudy(dir.path()).env("XDG_DATA_HOME", at("data")).args(["follow", "acme", "--once", "--quiet"]));
    // A standby directory of another user is not shown, by neither method.
    let point = crate::support::mount::MountPoint::new(&at("mounted"));
    let (mounted, standby) = (point.0.display().to_string(), at("data/understudy/standby"));
    for theirs in [&standby, &standby.join("acme")] {
        chown(theirs, Some(ATTACKER), None).unwrap();
        for method in ["kernel", "fuse"] {
            fails(&["mount", "acme", &mounted, "--method", method], "belongs to user 61234");
        }
        // A restore checks what it copies from there; here it copies nothing.
        ok(understudy(dir.path())
            .env("XDG_DATA_HOME", at("data"))
            .args(["restore", "acme", "out", "--quiet"]));
        crate::support::facts::assert_same(&at("shop"), &at("out"), "restored");
        std::fs::remove_dir_all(at("out")).unwrap();
        chown(theirs, Some(0), None).unwrap();
    }
    // The directory that a symlink leads through must belong to this user as well.
    std::fs::create_dir(at("shared")).unwrap();
    chmod(&at("shared"), 0o1777);
    assert!(shell(&format!("mkdir -m 777 {}", at("shared/.live.understudy").display())).status.success());
    fails(&["mount", "acme", "shared/live", "--follow", "--swap", "symlink"], "belongs to user 61234");
}

#[test]
fn a_restore_into_a_directory_that_all_may_write_to_is_nobody_else_s_at_any_moment() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    std::fs::write(at("shop/secret"), "secret").unwrap();
    ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
    // A parent that every user can write to and that is not sticky: the worst case.
    std::fs::create_dir(at("shared")).unwrap();
    chmod(&at("shared"), 0o777);
    let restore = |to: &str| {
        let mut command = understudy(dir.path());
        command.args(["restore", "acme", to, "--quiet"]);
        command
    };
    // The room's name, as another user may see it once: of a restore that is stopped before its rename.
    let log = at("log");
    let stopped = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=rename,renameat,renameat2"])
        .args(["-e", "inject=rename,renameat,renameat2:error=EIO", "-o"])
        .arg(&log)
        .arg(restore("x").get_program())
        .args(["restore", "acme", "shared/out", "--quiet"])
        .envs(restore("x").get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        !stopped.status.success() && said(&stopped).contains("the tree is complete in"),
        "{}",
        said(&stopped)
    );
    let names = |dir: &Path| -> Vec<String> {
        let listed = std::fs::read_dir(dir).unwrap();
        listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let room = names(&at("shared")).pop().unwrap();
    assert_eq!(mode(&at("shared").join(&room)), 0o700);
    assert_eq!(exposed(&at("shared").join(&room)), [""; 0], "not even the root's own mode opens it");
    // The room was made by another user, with a tree in it.
    let away = format!("mv {0}/{room} {0}/kept", at("shared").display());
    assert!(shell(&away).status.success(), "they may do that much");
    let theirs = format!(
        "mkdir -p -m 777 {0}/{room}/tree && echo evil > {0}/{room}/tree/index.php",
        at("shared").display()
    );
    assert!(shell(&theirs).status.success());
    let output = restore("shared/out").output().unwrap();
    assert!(
        !output.status.success() && said(&output).contains("other users have access to it"),
        "{}",
        said(&output)
    );
    assert!(!at("shared/out").exists());
    // A room of root's that others may write to is refused as well.
    std::fs::remove_dir_all(at("shared").join(&room)).unwrap();
    std::fs::create_dir(at("shared").join(&room)).unwrap();
    chmod(&at("shared").join(&room), 0o770);
    let output = restore("shared/out").output().unwrap();
    assert!(
        !output.status.success() && said(&output).contains("other users have access to it"),
        "{}",
        said(&output)
    );
    // An interrupted restore is continued in a room that is root's alone, and the room is removed.
    std::fs::remove_dir(at("shared").join(&room)).unwrap();
    std::fs::rename(at("shared/kept"), at("shared").join(&room)).unwrap();
    ok(&mut restore("shared/out"));
    crate::support::facts::assert_same(&at("shop"), &at("shared/out"), "gone on with");
    assert_eq!(names(&at("shared")), ["out"]);
    // A user who exchanges the room all the time gets nothing under the destination's name, and nothing of
    // the tree.
    let swap = format!(
        "cd {0}; mkdir -m 777 theirs theirs/tree; echo evil > theirs/tree/index.php; n=0; while :; do \
         for r in .out*understudy-room-*; do n=$((n+1)); mv \"$r\" gone.$n 2>/dev/null && cp -r theirs \"$r\"; done; done",
        at("shared").display()
    );
    let swapper = Running(
        attacker("sh").args(["-c", &swap]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
    );
    for round in 0..30 {
        let to = format!("shared/out{round}");
        let output = restore(&to).output().unwrap();
        if output.status.success() {
            crate::support::facts::assert_same(&at("shop"), &at(&to), "whatever they do");
        } else {
            assert!(!at(&to).exists(), "{}", said(&output));
        }
    }
    drop(swapper);
    assert!(names(&at("shared")).iter().any(|name| name.starts_with("gone.")), "they did what they could");
}

#[test]
fn a_name_of_the_snapshot_s_or_of_a_user_s_is_no_leftover() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    let beside = format!(".understudy-new-{}", &blake3::hash(b"index.php").to_hex()[..16]);
    std::fs::create_dir(at("shop")).unwrap();
    std::fs::write(at("shop/index.php"), "new").unwrap();
    std::fs::write(at("shop").join(&beside), "of the snapshot").unwrap();
    std::fs::write(at("shop/.understudy-new-notes"), "of the snapshot, too").unwrap();
    ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
    std::fs::create_dir(at("out")).unwrap();
    let mine = [".understudy-new-mine", ".understudy-new-0123456789abcdef", ".understudy-restoring-mine"];
    for name in mine {
        std::fs::write(at("out").join(name), "mine").unwrap();
    }
    std::fs::write(at("out/index.php"), "old").unwrap();
    let restore = |how: &[&str]| {
        let mut command = understudy(dir.path());
        command.args(["restore", "acme", "out", "--overwrite", "--quiet"]).args(how);
        ok(&mut command)
    };
    let read = |name: &str| std::fs::read_to_string(at("out").join(name)).unwrap_or_default();
    restore(&[]);
    assert_eq!((read("index.php"), read(&beside)), ("new".into(), "of the snapshot".into()));
    assert!(mine.iter().all(|name| read(name) == "mine"));
    restore(&["--delete"]);
    crate::support::facts::assert_same(&at("shop"), &at("out"), "and with --delete they go");
}

#[test]
fn a_program_that_would_run_as_whoever_restores_does_not() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("shop")).unwrap();
    std::fs::copy("/bin/sh", at("shop/sh")).unwrap();
    chmod(&at("shop/sh"), 0o6755);
    ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
    // By a user who may not give files to root.
    for place in ["home", "repository"] {
        let _ = std::fs::create_dir(at(place));
        ok(Command::new("chown").arg("-R").arg(ATTACKER.to_string()).arg(at(place)));
    }
    let key = at("key");
    std::fs::copy(crate::support::rig::key_file(), &key).unwrap();
    chown(&key, Some(ATTACKER), None).unwrap();
    chmod(&key, 0o600);
    let mut command = attacker(env!("CARGO_BIN_EXE_understudy"));
    command.env("UNDERSTUDY_REPOSITORY", at("repository")).env("UNDERSTUDY_KEY_FILE", &key);
    command.env("HOME", at("home")).env("XDG_CACHE_HOME", at("home/cache")).current_dir(at("home"));
    let output = command.args(["restore", "acme", "out", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(mode(&at("home/out/sh")), 0o755);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = report["warnings"]["first"].as_array().unwrap();
    assert!(
        first.iter().any(|w| w["path"] == "sh" && w["reason"].as_str().unwrap().contains("not 6755")),
        "{report}"
    );
}

#[test]
fn what_is_exchanged_for_a_pipe_that_is_being_made_gets_neither_its_owner_nor_its_mode() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("shop")).unwrap();
    // The shop's own root made it: harmless as a pipe, a way to root on the host as a program.
    ok(Command::new("mkfifo").arg(at("shop/pipe")));
    chmod(&at("shop/pipe"), 0o4755);
    ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
    std::fs::create_dir(at("out")).unwrap();
    std::fs::write(at("out/kept"), "kept").unwrap();
    chown(at("out"), Some(ATTACKER), None).unwrap();
    let swap = format!(
        "cd {}; while :; do for f in .understudy-new-*; do [ -p \"$f\" ] && mv \"$f\" gone && cp /bin/sh \"$f\" && touch won; done; done",
        at("out").display()
    );
    let swapper =
        attacker("sh").args(["-c", &swap]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let swapper = Running(swapper);
    // The call that makes it returns late, which gives the attacker the time that luck would give.
    let binary = understudy(dir.path());
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-e",
        "trace=mknodat",
        "-e",
        "inject=mknodat:delay_exit=1500000",
        "-o",
        "/dev/null",
    ]);
    command.arg(binary.get_program()).args(["restore", "acme", "out", "--overwrite", "--json"]);
    command.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(dir.path());
    let output = command.output().unwrap();
    drop(swapper);
    assert!(at("out/won").exists(), "they exchanged it");
    for entry in walkdir::WalkDir::new(at("out")).min_depth(1) {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let runs_as_root = meta.is_file() && meta.uid() == 0 && meta.mode() & 0o6000 != 0;
        assert!(!runs_as_root, "{}: {:o}", entry.path().display(), meta.mode());
    }
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
}

#[test]
fn what_a_mount_s_changes_hold_is_out_of_reach_by_any_other_way() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("shop")).unwrap();
    std::fs::copy("/bin/sh", at("shop/sh")).unwrap();
    // The tree was an overlay's upper layer once: these marks are the tenant's data, and must not affect this
    // mount.
    let marks = ["trusted.overlay.origin", "trusted.overlay.opaque", "user.of-the-shop"];
    for mark in marks {
        ok(Command::new("setfattr").args(["-n", mark, "-v", "0x00fb1d0001"]).arg(at("shop")));
    }
    ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("XDG_DATA_HOME", at("data")).args(args);
        command
    };
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let point = crate::support::mount::MountPoint::new(&at("live"));
    let mount = |upper: &str| {
        let mut mount = command(&["mount", "acme", "--quiet", "--writable", upper]);
        mount.arg(&point.0);
        mount
    };
    ok(&mut mount("changes"));
    for mark in marks {
        let value = ok(Command::new("getfattr").args(["--only-values", "-n", mark]).arg(&point.0)).stdout;
        assert_eq!(value, [0, 0xfb, 0x1d, 0, 1], "{mark}");
    }
    // As the shop's own root in its container.
    chmod(&point.0.join("sh"), 0o4755);
    let upper = at("changes/upper/sh");
    assert_eq!((mode(&upper), mode(&at("changes"))), (0o4755, 0o700));
    let output = shell(&format!("{} -p -c 'id -u'", upper.display()));
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    ok(command(&["umount", "--quiet"]).arg(&point.0));
    // An earlier version made it with this mode.
    chmod(&at("changes"), 0o755);
    ok(&mut mount("changes"));
    assert_eq!(mode(&at("changes")), 0o700);
    ok(command(&["umount", "--quiet"]).arg(&point.0));
    // A directory of another user is refused.
    std::fs::create_dir(at("theirs")).unwrap();
    chown(at("theirs"), Some(ATTACKER), None).unwrap();
    let output = mount("theirs").output().unwrap();
    assert!(
        output.status.code() == Some(2) && said(&output).contains("belongs to user 61234"),
        "{}",
        said(&output)
    );
    let link = at("link");
    std::fs::create_dir(at("elsewhere")).unwrap();
    chown(at("elsewhere"), Some(ATTACKER), None).unwrap();
    symlink("elsewhere", &link).unwrap();
    assert!(!mount("link").status().unwrap().success());
}

#[test]
fn hooks_and_drills_are_handed_no_secret_and_run_as_whom_they_are_to() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    // A program in the tenant's tree, which a relative name could lead to.
    std::fs::write(at("shop/check"), format!("#!/bin/sh\nid > {}\n", at("proof").display())).unwrap();
    chmod(&at("shop/check"), 0o755);
    std::fs::create_dir(at("told")).unwrap();
    chmod(&at("told"), 0o1777);
    let tell = |name: &str| {
        let to = at("told").join(name).display().to_string();
        format!("(id -u; id -G; umask; pwd; grep NoNewPrivs /proc/self/status; env) > {to} 2>&1")
    };
    let text = format!(
        "[[store]]\nname='acme'\npath='shop'\n\
         [store.hooks]\nbefore=['sh','-c','{}']\nafter=['sh','-c','{}']\nuser='{ATTACKER}'\nenvironment=['MYSQL_PWD']\n\
         [store.drill]\ncommand=['sh','-c','{}']\n",
        tell("before"),
        tell("after"),
        tell("drill"),
    );
    std::fs::write(at("understudy.toml"), &text).unwrap();
    let run = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command
            .env("UNDERSTUDY_PASSPHRASE", "correct horse battery")
            .env("AWS_SECRET_ACCESS_KEY", "a secret");
        command.env("MYSQL_PWD", "handed on").env("LANG", "C.UTF-8").env("SOMETHING", "else").args(args);
        command.output().unwrap()
    };
    let output = run(&["resync", "acme", "--quiet"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = run(&["drill", "acme", "--quiet"]);
    assert!(output.status.success(), "{}", said(&output));
    let told = |name: &str| std::fs::read_to_string(at("told").join(name)).unwrap();
    for (name, user, handed_on) in
        [("before", ATTACKER, true), ("after", ATTACKER, true), ("drill", 65_534, false)]
    {
        let told = told(name);
        // A drill's command has a further group of its own, by which it reaches the snapshot.
        let groups = told.lines().nth(1).unwrap().split(' ').collect::<Vec<_>>();
        assert_eq!(
            (groups[0], groups.len()),
            (&*user.to_string(), if name == "drill" { 2 } else { 1 }),
            "{told}"
        );
        assert!(told.starts_with(&format!("{user}\n")) && told.contains("\n0022\n"), "{name}: {told}");
        for secret in ["PASSPHRASE", "a secret", "SOMETHING", "KEY_FILE"] {
            assert!(!told.contains(secret), "{name}: {told}");
        }
        assert_eq!(told.contains("MYSQL_PWD=handed on"), handed_on, "{told}");
        assert_eq!(told.contains("NoNewPrivs:\t1"), name == "drill", "{told}");
        for line in ["UNDERSTUDY_STORE=acme", "LANG=C.UTF-8", "PATH=/"] {
            assert!(told.contains(line), "{name}: {told}");
        }
    }
    // The command reaches its files by absolute paths.
    let output = run(&[
        "drill",
        "acme",
        "--quiet",
        "--",
        "sh",
        "-c",
        "cat \"$UNDERSTUDY_PATH/a/b/f1\" && test \"$PWD\" = \"$UNDERSTUDY_PATH\"",
    ]);
    assert!(output.status.success(), "{}", said(&output));
    // A relative program is never taken from the snapshot, nor by a PATH that leads there.
    for program in ["./check", "check"] {
        let mut command = understudy(dir.path());
        command.env("PATH", format!(".::{}", std::env::var("PATH").unwrap()));
        let output = command.args(["drill", "acme", "--quiet", "--", program]).output().unwrap();
        assert!(!output.status.success(), "{program}: {}", said(&output));
    }
    let output = understudy(dir.path())
        .current_dir(at("shop"))
        .args(["resync", "--config"])
        .arg(at("understudy.toml"))
        .arg("acme")
        .output();
    assert!(output.unwrap().status.success());
    assert!(!at("proof").exists());
    // A relative program of the configuration is next to the configuration, not in the current directory.
    for (place, mark) in [(dir.path().to_owned(), "beside"), (at("shop"), "proof")] {
        std::fs::write(
            place.join("freeze"),
            format!("#!/bin/sh\ntouch {}\n", at("told").join(mark).display()),
        )
        .unwrap();
        chmod(&place.join("freeze"), 0o755);
    }
    std::fs::write(
        at("beside.toml"),
        "[[store]]\nname='acme'\npath='shop'\n[store.hooks]\nbefore=['./freeze']\n",
    )
    .unwrap();
    ok(understudy(dir.path()).current_dir(at("shop")).args([
        "resync",
        "acme",
        "--quiet",
        "--config",
        "../beside.toml",
    ]));
    assert!(at("told/beside").exists() && !at("told/proof").exists());
    // Variables that may not be handed on, and a user that does not exist.
    for (change, told) in [
        (("environment=['MYSQL_PWD']", "environment=['UNDERSTUDY_PASSPHRASE']"), "UNDERSTUDY_PASSPHRASE"),
        (("user='61234'", "user='nosuchuser'"), "no user 'nosuchuser'"),
    ] {
        std::fs::write(at("understudy.toml"), text.replace(change.0, change.1)).unwrap();
        let output = run(&["resync", "acme", "--quiet"]);
        assert!(!output.status.success() && said(&output).contains(told), "{}", said(&output));
    }
}

#[test]
fn what_a_hook_started_ends_with_whoever_started_it() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    let script = format!("sleep 300 & echo $! > {0}.new; mv {0}.new {0}; sleep 300", at("mark").display());
    let text = format!("[[store]]\nname='acme'\npath='shop'\n[store.hooks]\nbefore=['sh','-c','{script}']\n");
    std::fs::write(at("understudy.toml"), text).unwrap();
    let resync =
        understudy(dir.path()).args(["resync", "acme", "--quiet"]).stderr(Stdio::null()).spawn().unwrap();
    let resync = Running(resync);
    wait_until("the hook runs", || at("mark").exists());
    let helper: u32 = std::fs::read_to_string(at("mark")).unwrap().trim().parse().unwrap();
    let runs =
        || std::fs::read_to_string(format!("/proc/{helper}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(runs());
    // Dropping it kills the process by SIGKILL.
    drop(resync);
    wait_until("what it started in turn ends as well", || !runs());
}

#[test]
fn no_other_process_of_its_user_looks_into_its_memory() {
    let dir = open_dir();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(ATTACKER), None).unwrap();
    let mut daemon = attacker(env!("CARGO_BIN_EXE_understudy"));
    daemon
        .args(["run", "--listen", "off"])
        .env("HOME", &home)
        .env_remove("XDG_STATE_HOME")
        .current_dir(&home);
    let daemon = Running(daemon.stderr(Stdio::null()).spawn().unwrap());
    wait_until("it is there", || home.join(".local/state/understudy").is_dir());
    // The files in /proc of a process that is not dumpable belong to root.
    let environment = std::fs::metadata(format!("/proc/{}/environ", daemon.0.id())).unwrap();
    assert_eq!(environment.uid(), 0);
}

fn units() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schedules/systemd")
}

/// Returns all values of a key in a unit.
fn settings(unit: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(units().join(unit)).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).collect()
}

/// Settings of a unit that create a mount namespace.
const NAMESPACE_KEYS: [&str; 24] = [
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateIPC",
    "ProtectSystem",
    "ProtectHome",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "ProcSubset",
    "ProtectHostname",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "InaccessiblePaths",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "RootDirectory",
    "MountFlags",
    "DynamicUser",
    "MountImages",
];

#[test]
fn the_units_are_hardened_and_the_one_that_mounts_for_others_has_no_namespace() {
    let exposure = |unit: &str| {
        let mut command = Command::new("systemd-analyze");
        let output = ok(command.args(["security", "--offline=true", "--no-pager"]).arg(units().join(unit)));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, figure) = text.rsplit_once("level for ").unwrap();
        figure.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    for (unit, most) in [
        ("understudy.service", 2.5),
        ("understudy-resync.service", 2.5),
        ("understudy-database@.service", 2.0),
        // The units explain these higher figures.
        ("understudy-standby.service", 3.9),
        ("understudy-mount@.service", 4.0),
        ("understudy-failover.service", 5.5),
    ] {
        let figure = exposure(unit);
        assert!(figure <= most, "{unit}: {figure}");
    }
    for (unit, key) in ["understudy-mount@.service", "understudy-failover.service"]
        .into_iter()
        .flat_map(|unit| NAMESPACE_KEYS.map(|key| (unit, key)))
    {
        assert_eq!(settings(unit, key), [""; 0], "{unit} {key}");
    }
}

#[test]
fn the_capabilities_of_the_units_are_enough() {
    let dir = open_dir();
    let at = |name: &str| dir.path().join(name);
    sample_tree(&at("shop"));
    chown(at("shop/c/medium"), Some(ATTACKER), None).unwrap();
    chmod(&at("shop/c/medium"), 0o600);
    let script = format!("id -u > {}", at("told").display());
    std::fs::write(at("told"), "").unwrap();
    chown(at("told"), Some(ATTACKER), None).unwrap();
    let text = format!(
        "[[store]]\nname='acme'\npath='shop'\n[store.hooks]\nbefore=['sh','-c','{script}']\nuser='{ATTACKER}'\n\
         [store.drill]\ncommand=['sh','-c','test $(id -u) = 65534 && cat \"$UNDERSTUDY_PATH/a/b/f1\"']\n"
    );
    std::fs::write(at("understudy.toml"), text).unwrap();
    let within = |unit: &str, args: &[&str]| {
        let capabilities = settings(unit, "CapabilityBoundingSet").pop().unwrap();
        let set: Vec<_> = capabilities
            .split(' ')
            .map(|c| format!("+{}", c.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let set = format!("-all,{}", set.join(","));
        let binary = understudy(dir.path());
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &set, "--inh-caps", "-all", "--no-new-privs"]);
        command.arg(binary.get_program()).args(args).current_dir(dir.path()).stdin(Stdio::null());
        command.envs(binary.get_envs().filter_map(|(k, v)| Some((k, v?)))).env("XDG_DATA_HOME", at("data"));
        ok(&mut command)
    };
    within("understudy-resync.service", &["resync", "--due", "--quiet"]);
    assert_eq!(std::fs::read_to_string(at("told")).unwrap(), format!("{ATTACKER}\n"));
    within("understudy.service", &["follow", "acme", "--once", "--quiet"]);
    within("understudy-standby.service", &["drill", "acme", "--quiet"]);
    let point = crate::support::mount::MountPoint::new(&at("live"));
    within("understudy-mount@.service", &["mount", "acme", "live", "--method", "kernel", "--quiet"]);
    crate::support::facts::assert_same(&at("shop"), &point.0, "mounted");
}

#[test]
fn a_stolen_cache_shows_neither_names_nor_content_nor_a_key() {
    let dir = open_dir();
    let shop = dir.path().join("shop");
    std::fs::create_dir_all(shop.join("customers-of-acme")).unwrap();
    std::fs::write(shop.join("customers-of-acme/invoice-jane-doe"), "4111 1111 1111 1111\n".repeat(20_000))
        .unwrap();
    for round in 0..3 {
        std::fs::write(shop.join("counter"), format!("counted to {round}")).unwrap();
        ok(understudy(dir.path()).args(["resync", "shop", "--store", "acme", "--quiet"]));
        ok(understudy(dir.path()).args(["diff", "acme", "1", "--quiet"]));
    }
    let key = std::fs::read_to_string(crate::support::rig::key_file()).unwrap();
    let key = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let (mut files, secrets) =
        (0, ["customers-of-acme", "jane-doe", "4111 1111", "counted to", "counter", key]);
    for entry in walkdir::WalkDir::new(dir.path().join("cache")) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            for secret in secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} in {}", entry.path().display());
            }
            files += 1;
        }
    }
    assert!(files > 3, "there is a cache");
}
