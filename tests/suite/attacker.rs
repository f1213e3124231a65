//! Attacks by a party that controls the bucket, with an independent implementation (tests/attacker, written
//! from FORMAT.md): what such a party can do, and what it cannot. Each test is a row of SECURITY.md.

use crate::support::command::{fails, host, ok, said};
use crate::support::facts::assert_same;
use crate::support::tree::{files, random, sample_tree};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/bin/python")
}

/// Carries out an attack on store acme.
fn attack(dir: &Path, name: &str, options: &[(&str, &str)]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacker/attack.py");
    let mut command = Command::new(python());
    command.arg(script).arg(name).arg(dir.join("repository")).arg("acme");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(options.iter().map(|(name, value)| format!("{name}={value}")));
    serde_json::from_slice(&ok(&mut command).stdout).unwrap()
}

/// A directory with a store's tree, and a secret in it.
struct Scene {
    dir: tempfile::TempDir,
    secret: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sample_tree(&dir.path().join("source"));
        let scene = Self { dir, secret: random(b"top secret", 20_000) };
        std::fs::write(scene.path().join("source/secret"), &scene.secret).unwrap();
        scene
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn resync(&self, home: &str) -> Command {
        let mut command = host(self.path(), home);
        command.args(["resync", "source", "--store", "acme", "--quiet", "--accept"]);
        command
    }

    fn run(&self, home: &str, args: &[&str]) -> Command {
        let mut command = host(self.path(), home);
        command.args(args);
        command
    }

    fn key(&self, home: &str) -> PathBuf {
        self.path().join(home).join(".config/understudy/key")
    }

    fn recipient(&self, home: &str) -> String {
        let output = ok(Command::new("age-keygen").arg("-y").arg(self.key(home)));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Saves a copy of a directory; `back` restores it.
    fn keep(&self, what: &str) {
        let _ = std::fs::remove_dir_all(self.path().join(format!("kept-{}", what.replace('/', "-"))));
        self.copy(what, &format!("kept-{}", what.replace('/', "-")));
    }

    fn back(&self, what: &str) {
        let _ = std::fs::remove_dir_all(self.path().join(what));
        self.copy(&format!("kept-{}", what.replace('/', "-")), what);
    }

    fn copy(&self, from: &str, to: &str) {
        ok(Command::new("cp").arg("-a").arg(self.path().join(from)).arg(self.path().join(to)));
    }

    fn store(&self, below: &str) -> PathBuf {
        self.path().join("repository/acme").join(below)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let listed = std::fs::read_dir(self.store(folder));
        let mut names: Vec<_> =
            listed.into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the directory where a host keeps what it saw of the store.
    fn cache(&self, home: &str) -> PathBuf {
        let root = self.path().join(home).join("cache/understudy");
        let of = |e: std::fs::DirEntry| e.path().join("acme");
        std::fs::read_dir(root).unwrap().map(|e| of(e.unwrap())).find(|p| p.exists()).unwrap()
    }

    /// Checks that no reader accepts the attacker's objects, and that the primary ships nothing.
    fn nobody_is_taken_in(&self, home: &str, what: &str) {
        let listing = || {
            let mut all = files(&self.path().join("repository/acme"));
            all.sort();
            all
        };
        let before = listing();
        for args in [
            &["restore", "acme", "stolen"][..],
            &["snapshots", "acme"],
            &["verify", "acme"],
            &["follow", "acme", "--once", "--standby", "standby"],
            &["pin", "acme"],
            &["prune", "acme", "--keep-last", "1"],
            &["key", "rotate", "acme"],
        ] {
            let output = self.run(home, args).output().unwrap();
            assert!(!output.status.success(), "{what}: {args:?}: {}", said(&output));
        }
        let output = self.resync(home).output().unwrap();
        assert!(!output.status.success(), "{what}: {}", said(&output));
        assert!(!self.path().join("stolen").exists(), "{what}");
        assert_eq!(listing(), before, "{what}");
        assert_eq!(self.stolen(&[]), 0, "{what}");
    }

    /// Returns how many of the contents that the attacker can decrypt are the secret.
    fn stolen(&self, options: &[(&str, &str)]) -> usize {
        let found = attack(self.path(), "read", options);
        let secret = blake3::hash(&self.secret).to_hex().to_string();
        found["read"].as_array().unwrap().iter().filter(|hash| **hash == secret.as_str()).count()
    }
}

#[test]
fn what_a_stranger_reads_by_the_page_on_the_format_is_what_was_written() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    ok(&mut scene.run("a", &["key", "add", "acme", "büro", "--file", "b.key", "--quiet"]));
    ok(&mut scene.run("a", &["key", "rotate", "acme", "--quiet"]));
    ok(&mut scene.resync("a"));
    let key = scene.key("a");
    let shown = attack(scene.path(), "show", &[("identity", key.to_str().unwrap())]);
    assert_eq!(shown["names"], serde_json::json!(["key-file", "büro"]));
    assert_eq!(shown["recipients"][0], scene.recipient("a"));
    assert_eq!((&shown["keys"], &shown["before"]), (&2.into(), &2.into()));
    let records = serde_json::json!([["snapshot", 1], ["rekeyed", 2], ["rekeyed", 3], ["snapshot", 3]]);
    assert_eq!(shown["records"], records);
    assert_eq!(scene.stolen(&[("identity", key.to_str().unwrap())]), 1);
    // Without a key, nothing in the repository shows who the holders are.
    for file in files(&scene.path().join("repository")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"age1"), "{}", file.display());
    }
}

#[test]
fn a_keyring_that_was_planted_for_a_live_store_is_not_taken() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    ok(&mut scene.resync("a"));
    let victim = scene.recipient("a");
    scene.keep("repository");
    scene.keep("a/cache");
    for (version, claims, sequence) in
        [("1", "", 1), ("2", "", 1), ("2", "victim", 1), ("1", "", 2), ("2", "", 2), ("2", "victim", 2)]
    {
        for gone in ["nothing", "log", "all but what it saw"] {
            scene.back("repository");
            scene.back("a/cache");
            let cache = scene.cache("a");
            for entry in std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()) {
                let is_gone = match gone {
                    "log" => entry.ends_with("log"),
                    "nothing" => false,
                    _ => !entry.ends_with("head"),
                };
                if is_gone {
                    ok(Command::new("rm").arg("-r").arg(&entry));
                }
            }
            let sequence = sequence.to_string();
            let options = [
                ("victim", victim.as_str()),
                ("version", version),
                ("claims", claims),
                ("sequence", &sequence),
                ("records", "3"),
            ];
            attack(scene.path(), "plant", &options);
            scene.nobody_is_taken_in(
                "a",
                &format!("version {version} {claims} {sequence}, {gone} of the cache gone"),
            );
        }
    }
    // A planted keyring next to the existing one, as its successor.
    for (version, claims) in [("1", ""), ("2", ""), ("2", "victim")] {
        scene.back("repository");
        let options = [
            ("victim", victim.as_str()),
            ("version", version),
            ("claims", claims),
            ("sequence", "2"),
            ("delete", "no"),
        ];
        attack(scene.path(), "plant", &options);
        scene.nobody_is_taken_in("a", &format!("added, version {version} {claims}"));
    }
    scene.back("repository");
    ok(&mut scene.resync("a"));
}

#[test]
fn a_new_store_does_not_begin_with_a_keyring_that_nobody_here_made() {
    let scene = Scene::new();
    ok(host(scene.path(), "a").args(["key", "new"]).arg(scene.path().join("key")));
    std::fs::create_dir_all(scene.key("a").parent().unwrap()).unwrap();
    std::fs::rename(scene.path().join("key"), scene.key("a")).unwrap();
    let victim = scene.recipient("a");
    let plant = |version: &str, claims: &str| {
        attack(scene.path(), "plant", &[("victim", &victim), ("version", version), ("claims", claims)])
    };
    for version in ["1", "2"] {
        plant(version, "");
        let output = scene.resync("a").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        for word in ["no key here made", victim.as_str(), "--trust-keyring", "key-file"] {
            assert!(said(&output).contains(word), "{word}: {}", said(&output));
        }
        assert!(scene.names("packs").is_empty() && scene.names("log").is_empty());
    }
    // A keyring that claims the victim as its maker is an error rather than a question.
    plant("2", "victim");
    fails(&mut scene.resync("a"), 1, "does not prove that the holder it names made it");
    // An operator who trusts the keyring gives the attacker access; that is what the option means.
    plant("2", "");
    ok(scene.resync("a").arg("--trust-keyring"));
    assert_eq!(scene.stolen(&[]), 1);
    ok(&mut scene.resync("a"));

    // A keyring of this key that a killed run left is taken, also by a host without its cache.
    let own = Scene::new();
    ok(&mut own.resync("a"));
    for part in ["log", "packs", "index"] {
        std::fs::remove_dir_all(own.store(part)).unwrap();
    }
    std::fs::remove_dir_all(own.path().join("a/cache")).unwrap();
    ok(&mut own.resync("a"));
    assert_eq!(own.names("keys").len(), 1);
    // Another host with the same key takes it as well, but none with another key.
    for part in ["log", "packs", "index"] {
        std::fs::remove_dir_all(own.store(part)).unwrap();
    }
    fails(own.resync("b").env("UNDERSTUDY_PASSPHRASE", "some other words"), 2, "no key here opens it");
    ok(own.resync("b").arg("--key-file").arg(own.key("a")));
}

#[test]
fn no_object_takes_the_encryption_off() {
    let scene = Scene::new();
    // A plain log that was planted before the first run of a store.
    for nothing in ["yes", "no"] {
        let _ = std::fs::remove_dir_all(scene.path().join("a/cache"));
        attack(scene.path(), "plain", &[("records", "1"), ("nothing", nothing)]);
        fails(&mut scene.resync("a"), 2, "is not encrypted");
        assert_eq!(scene.names("log").len(), 1);
        assert!(!scene.key("a").exists());
        std::fs::remove_dir_all(scene.path().join("a/cache")).unwrap();
        // Reading the store does not confirm it either.
        let looked = scene.run("a", &["snapshots", "acme"]).output().unwrap();
        assert!(said(&looked).contains("warning: store 'acme' is not encrypted"), "{}", said(&looked));
        fails(&mut scene.resync("a"), 2, "is not encrypted");
    }
    // A plain log in place of an encrypted store: for a host that knows the store, and for one without its
    // cache.
    std::fs::remove_dir_all(scene.path().join("repository")).unwrap();
    ok(&mut scene.resync("b"));
    scene.keep("b/cache");
    attack(scene.path(), "plain", &[("records", "3")]);
    scene.nobody_is_taken_in("b", "the store that it knows, without encryption");
    for config in ["encryption = \"none\"\n", ""] {
        std::fs::write(scene.path().join("understudy.toml"), config).unwrap();
        scene.nobody_is_taken_in("b", "whatever the configuration says");
        let said = scene.resync("b").arg("--allow-unencrypted").output().unwrap();
        assert!(!said.status.success());
    }
    std::fs::remove_dir_all(scene.path().join("b/cache")).unwrap();
    fails(&mut scene.resync("b"), 2, "is not encrypted");
    for args in [&["pin", "acme"][..], &["prune", "acme"]] {
        fails(&mut scene.run("b", args), 2, "is not encrypted");
    }
    let read = ok(&mut scene.run("b", &["restore", "acme", "out", "--quiet"]));
    assert!(said(&read).contains("warning: store 'acme' is not encrypted"), "{}", said(&read));
    assert_eq!(said(&read).matches("warning").count(), 1, "{}", said(&read));
    // The option confirms the store for the runs after it as well.
    std::fs::remove_dir_all(scene.path().join("b/cache")).unwrap();
    let allowed = ok(scene.resync("b").arg("--allow-unencrypted"));
    assert!(!said(&allowed).contains("warning"), "{}", said(&allowed));
    assert!(ok(&mut scene.resync("b")).stderr.is_empty());
}

#[test]
fn where_encryption_is_required_no_command_takes_a_store_without() {
    let scene = Scene::new();
    attack(scene.path(), "plain", &[("records", "3")]);
    let source = scene.path().join("source");
    let config = |encryption: &str, of_store: &str| {
        let text = format!(
            "encryption = \"{encryption}\"\n[[store]]\nname = \"acme\"\npath = \"{}\"\n{of_store}\n",
            source.display()
        );
        std::fs::write(scene.path().join("understudy.toml"), text).unwrap();
    };
    let commands = [
        &["resync", "acme"][..],
        &["resync", "acme", "--allow-unencrypted"],
        &["restore", "acme", "out"],
        &["restore", "acme", "out", "--until-record", "3"],
        &["verify", "acme"],
        &["verify", "acme", "--repair"],
        &["follow", "acme", "--once", "--standby", "standby"],
        &["mount", "acme", "mnt", "--method", "fuse"],
        &["drill", "acme"],
        &["diff", "acme", "3", "3"],
        &["snapshots", "acme"],
        &["prune", "acme"],
        &["prune", "acme", "--dry-run"],
        &["pin", "acme"],
        &["unpin", "acme@3"],
        &["key", "list", "acme"],
        &["key", "rotate", "acme"],
    ];
    std::fs::create_dir(scene.path().join("mnt")).unwrap();
    for (encryption, of_store) in [("required", ""), ("on", "encryption = \"required\"")] {
        config(encryption, of_store);
        for args in commands {
            fails(&mut scene.run("a", args), 2, "store 'acme' is not encrypted");
        }
        let status = scene.run("a", &["status"]).output().unwrap();
        assert!(said(&status).contains("store 'acme' is not encrypted"), "{}", said(&status));
        let upkeep = scene.run("a", &["upkeep"]).output().unwrap();
        assert!(said(&upkeep).contains("store 'acme' is not encrypted"), "{}", said(&upkeep));
        assert!(!upkeep.status.success() && !scene.path().join("out").exists());
    }
    // The setting of a store takes precedence.
    config("required", "encryption = \"none\"");
    ok(&mut scene.run("a", &["restore", "acme", "out", "--quiet"]));
}

#[test]
fn a_log_that_was_made_longer_is_noticed_with_any_part_of_the_cache_gone() {
    let scene = Scene::new();
    std::fs::write(scene.path().join("understudy.toml"), "encryption = \"none\"\n").unwrap();
    for round in 0..3 {
        std::fs::write(scene.path().join("source/round"), format!("{round}")).unwrap();
        ok(&mut scene.resync("a"));
    }
    scene.keep("a/cache");
    let parts: Vec<_> =
        std::fs::read_dir(scene.cache("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(parts.len() > 2, "{parts:?}");
    for records in ["1", "3", "4", "8"] {
        attack(scene.path(), "plain", &[("records", records)]);
        let gone = (0..1 << parts.len().min(6)).filter(|gone| {
            // The note of the last seen record stays, since this alone is what a host relies on.
            let mut named = parts.iter().enumerate().filter(|(at, _)| gone >> at & 1 == 1);
            named.all(|(_, part)| part != "head")
        });
        for gone in gone {
            scene.back("a/cache");
            for (_, part) in parts.iter().enumerate().filter(|(at, _)| gone >> at & 1 == 1) {
                ok(Command::new("rm").arg("-r").arg(scene.cache("a").join(part)));
            }
            for args in [&["restore", "acme", "out"][..], &["verify", "acme"]] {
                fails(&mut scene.run("a", args), 1, "was rolled back: this host saw record 3");
            }
            fails(&mut scene.resync("a"), 1, "was rolled back: this host saw record 3");
        }
    }
    // A host whose note is damaged reports that, and accepts nothing.
    scene.back("a/cache");
    std::fs::write(scene.cache("a").join("head"), "{\"sequence\":").unwrap();
    fails(&mut scene.run("a", &["restore", "acme", "out"]), 1, "cannot read what this host remembers");
    assert!(!scene.path().join("out").exists());
}

#[test]
fn a_checkpoint_behind_what_a_host_saw_hides_no_fork() {
    let scene = Scene::new();
    std::fs::write(scene.path().join("understudy.toml"), "encryption = \"none\"\n").unwrap();
    for round in 0..3 {
        std::fs::write(scene.path().join("source/round"), format!("{round}")).unwrap();
        ok(&mut scene.resync("a"));
    }
    // From a copy that was taken after the first record, an honest host without a cache makes another log,
    // long enough for a checkpoint.
    attack(scene.path(), "longer", &[("behind", "1"), ("records", "132")]);
    ok(&mut scene.resync("new"));
    assert_eq!(scene.names("checkpoints").len(), 1);
    attack(scene.path(), "back", &[("record", "3")]);
    let head = std::fs::read(scene.cache("a").join("head")).unwrap();
    scene.keep("a/cache");
    for whole in [true, false] {
        scene.back("a/cache");
        if !whole {
            std::fs::remove_dir_all(scene.cache("a").join("log")).unwrap();
        }
        for args in [&["restore", "acme", "out"][..], &["snapshots", "acme"], &["verify", "acme"]] {
            let output = scene.run("a", args).output().unwrap();
            assert!(!output.status.success(), "{args:?}: {}", said(&output));
        }
        assert!(!scene.resync("a").output().unwrap().status.success());
        assert_eq!(std::fs::read(scene.cache("a").join("head")).unwrap(), head);
    }
}

/// Returns a scene with the owner's host `a`, a standby `c`, and a contractor who was added and removed; both
/// hosts saw the removal.
fn removal() -> (Scene, String) {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    for (name, home) in [("contractor", "contractor"), ("standby", "c")] {
        std::fs::create_dir_all(scene.key(home).parent().unwrap()).unwrap();
        ok(scene.run("a", &["key", "add", "acme", name, "--quiet", "--file"]).arg(scene.key(home)));
    }
    ok(&mut scene.run("c", &["snapshots", "acme"]));
    ok(&mut scene.run("a", &["key", "remove", "acme", "contractor", "--quiet"]));
    ok(&mut scene.run("c", &["snapshots", "acme"]));
    assert_eq!((scene.names("keys").len(), scene.names("log").len()), (4, 4));
    let key = scene.key("contractor").to_str().unwrap().to_owned();
    scene.keep("repository");
    (scene, key)
}

/// Not promised: a host cannot miss what it has never seen.
#[test]
fn a_host_that_never_saw_a_store_reads_what_it_finds_and_writes_nothing_under_it() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    let victim = scene.recipient("a");
    let key = scene.key("a");
    for (version, records) in [("1", "1"), ("2", "1"), ("2", "4")] {
        attack(scene.path(), "plant", &[("victim", &victim), ("version", version), ("records", records)]);
        let new = |args: &[&str]| {
            let mut command = scene.run("new", args);
            command.arg("--key-file").arg(&key);
            command
        };
        // The attacks are real: a first-time reader accepts the planted store,
        ok(&mut new(&["restore", "acme", "stolen", "--quiet"]));
        assert!(std::fs::read(scene.path().join("stolen/evil.php")).unwrap().starts_with(b"<?php"));
        std::fs::remove_dir_all(scene.path().join("stolen")).unwrap();
        // but ships nothing, and does not adopt the attacker's keyring.
        for args in [
            &["resync", "source", "--store", "acme", "--accept"][..],
            &["key", "rotate", "acme"],
            &["key", "upgrade", "acme"],
            &["key", "add", "acme", "x", "--recipient", &victim],
            &["pin", "acme"],
            &["prune", "acme", "--keep-last", "1"],
            &["verify", "acme", "--repair"],
        ] {
            if args[1] == "upgrade" && version == "2" {
                continue;
            }
            let output = new(args).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
            assert!(said(&output).contains("no key here made"), "{args:?}: {}", said(&output));
        }
        // Neither does it write notes about this host.
        for args in [&["verify", "acme", "--read-data=50"][..], &["drill", "acme"]] {
            let noted = new(args).output().unwrap();
            assert!(said(&noted).contains("no key here made"), "{args:?}: {}", said(&noted));
        }
        assert_eq!(
            (scene.names("upkeep").len(), scene.names("log").len().to_string()),
            (0, records.to_owned())
        );
        assert_eq!((scene.names("keys").len(), scene.stolen(&[])), (1, 0));
        std::fs::remove_dir_all(scene.path().join("new")).unwrap();
    }
}

/// Not promised: a holder has all rights until removed, also for hosts that have not read the log since the
/// removal.
#[test]
fn what_a_holder_makes_is_taken_until_the_removal_was_seen() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    std::fs::create_dir_all(scene.key("contractor").parent().unwrap()).unwrap();
    ok(scene
        .run("a", &["key", "add", "acme", "contractor", "--quiet", "--file"])
        .arg(scene.key("contractor")));
    let key = scene.key("contractor").to_str().unwrap().to_owned();
    scene.keep("repository");
    scene.keep("a/cache");
    let fresh = |args: &[&str]| {
        let _ = std::fs::remove_dir_all(scene.path().join("new"));
        let output = ok(scene.run("new", args).arg("--key-file").arg(scene.key("a")));
        String::from_utf8(output.stdout).unwrap()
    };
    let evil = |listed: &str| listed.contains("2023-11-14");
    // Each of the forgeries that other tests see refused is valid before the removal.
    attack(scene.path(), "former_record", &[("identity", &key), ("knows", "2"), ("names", "known")]);
    assert!(evil(&String::from_utf8(ok(&mut scene.run("a", &["snapshots", "acme"])).stdout).unwrap()));
    for at in ["2", "1"] {
        scene.back("repository");
        attack(scene.path(), "former_checkpoint", &[("identity", &key), ("knows", "2"), ("at", at)]);
        assert_eq!(evil(&fresh(&["snapshots", "acme"])), at == "2");
    }
    scene.back("repository");
    scene.back("a/cache");
    let options = [("identity", key.as_str()), ("knows", "2"), ("sequence", "3"), ("record", "yes")];
    attack(scene.path(), "former_ring", &options);
    assert!(evil(&String::from_utf8(ok(&mut scene.run("a", &["snapshots", "acme"])).stdout).unwrap()));
    scene.back("repository");
    scene.back("a/cache");
    let content = random(b"fresh", 20_000);
    let chunk = blake3::hash(&content).to_hex().to_string();
    attack(scene.path(), "former_segment", &[("identity", &key), ("knows", "2"), ("chunk", &chunk)]);
    std::fs::write(scene.path().join("source/fresh"), &content).unwrap();
    ok(&mut scene.resync("a"));
    assert!(!scene.run("a", &["restore", "acme", "out", "--quiet"]).output().unwrap().status.success());
}

#[test]
fn whoever_was_removed_makes_no_keyring_that_is_taken() {
    let (scene, key) = removal();
    let ring = |sequence: &str, claims: Option<&str>, record: &str| {
        let mut options =
            vec![("identity", key.as_str()), ("knows", "3"), ("sequence", sequence), ("record", record)];
        options.extend(claims.map(|claims| ("claims", claims)));
        attack(scene.path(), "former_ring", &options);
    };
    for record in ["no", "yes"] {
        for claims in [None, Some("0"), Some("2")] {
            // After the keyring of the removal.
            scene.back("repository");
            ring("5", claims, record);
            for home in ["a", "c"] {
                scene.nobody_is_taken_in(home, &format!("{home}: behind, in the name of {claims:?}"));
            }
            // In its place, with everything that came after it.
            scene.back("repository");
            std::fs::remove_file(scene.store("keys/0000000004")).unwrap();
            std::fs::remove_file(scene.store("log/00000000000000000004")).unwrap();
            ring("4", claims, record);
            for home in ["a", "c"] {
                scene.nobody_is_taken_in(home, &format!("{home}: in its place, in the name of {claims:?}"));
            }
        }
    }
    // The keyring of the removal is deleted, without or with its record.
    for log in [false, true] {
        scene.back("repository");
        std::fs::remove_file(scene.store("keys/0000000004")).unwrap();
        if log {
            std::fs::remove_file(scene.store("log/00000000000000000004")).unwrap();
        }
        for home in ["a", "c"] {
            scene.nobody_is_taken_in(home, &format!("{home}: the newest keyring is gone"));
        }
    }
    scene.back("repository");
    std::fs::write(scene.path().join("source/after"), b"written after the removal").unwrap();
    ok(&mut scene.resync("a"));
    ok(&mut scene.run("c", &["restore", "acme", "out", "--quiet"]));
    assert_same(&scene.path().join("source"), &scene.path().join("out"), "after all that");
}

#[test]
fn whoever_was_removed_appends_no_record_with_the_keys_that_they_have() {
    let (scene, key) = removal();
    for names in ["known", "newest", "none"] {
        scene.back("repository");
        let options = [("identity", key.as_str()), ("knows", "3"), ("names", names)];
        attack(scene.path(), "former_record", &options);
        for home in ["a", "c"] {
            scene.nobody_is_taken_in(home, &format!("{home}: a record that names {names}"));
        }
        // A host that never saw the store does not accept it either.
        let output =
            scene.run("new", &["restore", "acme", "stolen"]).arg("--key-file").arg(scene.key("c")).output();
        let output = output.unwrap();
        assert!(!output.status.success() && !scene.path().join("stolen").exists(), "{}", said(&output));
        std::fs::remove_dir_all(scene.path().join("new")).unwrap();
    }
}

#[test]
fn the_past_of_a_log_is_held_to_what_a_host_saw_as_well() {
    let (scene, key) = removal();
    let until = |home: &str| {
        let output = scene.run(home, &["restore", "acme", "stolen", "--until-record", "3"]).output().unwrap();
        assert!(
            !output.status.success() && !scene.path().join("stolen").exists(),
            "{home}: {}",
            said(&output)
        );
    };
    // In place of the record before the removal, with everything after it or nothing.
    for gone in [&["3"][..], &["3", "4"]] {
        scene.back("repository");
        let removed = scene.store("log/00000000000000000004");
        let kept = std::fs::read(&removed).unwrap();
        for sequence in ["3", "4"] {
            std::fs::remove_file(scene.store(&format!("log/0000000000000000000{sequence}"))).unwrap();
        }
        attack(scene.path(), "former_record", &[("identity", &key), ("knows", "3"), ("names", "known")]);
        if gone == ["3"] {
            std::fs::write(&removed, kept).unwrap();
        }
        for home in ["a", "c"] {
            until(home);
        }
    }
    // Also if a later record exists but cannot be read; the hosts have kept a copy.
    let damage = || {
        let removed = scene.store("log/00000000000000000004");
        let mut bytes = std::fs::read(&removed).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&removed, bytes).unwrap();
    };
    scene.back("repository");
    for sequence in ["3", "4"] {
        std::fs::rename(
            scene.store(&format!("log/0000000000000000000{sequence}")),
            scene.path().join(format!("honest-{sequence}")),
        )
        .unwrap();
    }
    attack(scene.path(), "former_record", &[("identity", &key), ("knows", "3"), ("names", "known")]);
    std::fs::copy(scene.path().join("honest-4"), scene.store("log/00000000000000000004")).unwrap();
    damage();
    for home in ["a", "c"] {
        until(home);
    }
    // Unaltered records can be read, whatever happened to later ones; without a cache, the program says that
    // nothing confirms them.
    scene.back("repository");
    damage();
    let had = |said_so: &str| {
        let args = ["restore", "acme", "out", "--overwrite", "--until-record", "3", "--quiet"];
        let output = ok(&mut scene.run("c", &args));
        assert!(said(&output).contains(said_so), "{}", said(&output));
    };
    had("the records up to 3 are those that this host saw");
    std::fs::remove_dir_all(scene.cache("c").join("log")).unwrap();
    had("the records up to 3 cannot be compared");
}

#[test]
fn whoever_was_removed_makes_up_no_checkpoint_and_no_segment() {
    let (scene, key) = removal();
    let honest =
        ok(scene.run("new", &["snapshots", "acme", "--json"]).arg("--key-file").arg(scene.key("c"))).stdout;
    for (at, what) in [("4", "of the head"), ("3", "of the last record before the removal")] {
        scene.back("repository");
        let options = [("identity", key.as_str()), ("knows", "3"), ("at", at)];
        attack(scene.path(), "former_checkpoint", &options);
        for home in ["new", "c", "a"] {
            let _ = std::fs::remove_dir_all(scene.path().join("new"));
            let found =
                ok(scene.run(home, &["snapshots", "acme", "--json"]).arg("--key-file").arg(scene.key("c")));
            assert_eq!(found.stdout, honest, "{home}: a checkpoint {what}");
        }
    }
    // A segment that claims that a file's content is present already.
    scene.back("repository");
    let fresh = random(b"fresh", 20_000);
    let chunk = blake3::hash(&fresh).to_hex().to_string();
    attack(scene.path(), "former_segment", &[("identity", &key), ("knows", "3"), ("chunk", &chunk)]);
    std::fs::write(scene.path().join("source/fresh"), &fresh).unwrap();
    ok(&mut scene.resync("a"));
    ok(&mut scene.run("c", &["restore", "acme", "out", "--quiet"]));
    assert_same(&scene.path().join("source"), &scene.path().join("out"), "it was shipped all the same");
}

#[test]
fn a_change_of_the_keys_that_was_killed_is_in_force_and_the_next_command_names_it() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    std::fs::create_dir_all(scene.key("b").parent().unwrap()).unwrap();
    ok(scene.run("a", &["key", "add", "acme", "friend", "--quiet", "--file"]).arg(scene.key("b")));
    let records = |scene: &Scene| {
        let key = scene.key("a");
        attack(scene.path(), "show", &[("identity", key.to_str().unwrap())])["records"].clone()
    };
    let mut remove = scene.run("a", &["key", "remove", "acme", "friend", "--quiet"]);
    remove.env("UNDERSTUDY_TEST_KILL_AT", "rekeyed").output().unwrap();
    assert_eq!((scene.names("keys").len(), scene.names("log").len()), (3, 2));
    scene.keep("repository");
    scene.keep("a/cache");
    // The new keyring is in force,
    fails(
        scene.run("b", &["restore", "acme", "no"]).arg("--key-file").arg(scene.key("b")),
        2,
        "no key here opens it",
    );
    // its loss is noticed,
    std::fs::remove_file(scene.store("keys/0000000003")).unwrap();
    fails(&mut scene.resync("a"), 1, "rolled back");
    // the next run names it,
    scene.back("repository");
    scene.back("a/cache");
    ok(&mut scene.resync("a"));
    assert_eq!(records(&scene)[2], serde_json::json!(["snapshot", 3]));
    // or the next command on the keys, whether that succeeds or not.
    scene.back("repository");
    scene.back("a/cache");
    fails(&mut scene.run("a", &["key", "remove", "acme", "friend"]), 2, "no key 'friend'");
    assert_eq!(records(&scene)[2], serde_json::json!(["rekeyed", 3]));
    assert_eq!(scene.names("log").len(), 3);
}

#[test]
fn a_record_with_old_keys_in_the_midst_of_a_removal_is_told_to_whoever_removes() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    std::fs::create_dir_all(scene.key("b").parent().unwrap()).unwrap();
    ok(scene.run("a", &["key", "add", "acme", "friend", "--quiet", "--file"]).arg(scene.key("b")));
    let mut remove = scene.run("a", &["key", "remove", "acme", "friend", "--quiet"]);
    remove.env("UNDERSTUDY_TEST_KILL_AT", "rekeyed").output().unwrap();
    assert_eq!((scene.names("keys").len(), scene.names("log").len()), (3, 2));
    let key = scene.key("b").to_str().unwrap().to_owned();
    attack(scene.path(), "former_record", &[("identity", &key), ("knows", "2"), ("names", "known")]);
    let told = "warning: record 3 of store 'acme'";
    let looked = ok(&mut scene.run("a", &["snapshots", "acme"]));
    assert!(said(&looked).contains(told) && said(&looked).contains("names keyring 2"), "{}", said(&looked));
    assert!(!said(&ok(&mut scene.run("a", &["snapshots", "acme"]))).contains(told));
    // After the record that names the keyring no such record is accepted.
    fails(&mut scene.run("a", &["key", "remove", "acme", "friend"]), 2, "no key 'friend'");
    attack(scene.path(), "former_record", &[("identity", &key), ("knows", "2"), ("names", "known")]);
    fails(&mut scene.run("a", &["snapshots", "acme"]), 1, "does not name the current keyring");
}

#[test]
fn a_key_that_was_removed_and_added_again_goes_on_after_one_word() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    std::fs::create_dir_all(scene.key("c").parent().unwrap()).unwrap();
    ok(scene.run("a", &["key", "add", "acme", "standby", "--quiet", "--file"]).arg(scene.key("c")));
    ok(&mut scene.run("c", &["snapshots", "acme"]));
    ok(&mut scene.run("a", &["key", "remove", "acme", "standby", "--quiet"]));
    ok(&mut scene.run("a", &["key", "rotate", "acme", "--quiet"]));
    ok(scene.run("a", &["key", "add", "acme", "standby", "--quiet", "--file"]).arg(scene.key("c")));
    ok(&mut scene.resync("a"));
    let head = || std::fs::read_to_string(scene.cache("c").join("head")).unwrap();
    let before = head();
    fails(&mut scene.run("c", &["restore", "acme", "out"]), 1, "--trust-keyring");
    assert_eq!(head(), before);
    scene.keep("repository");
    // The option concerns the keyring only: the log must still continue from what this host saw.
    for sequence in 2..=6 {
        std::fs::remove_file(scene.store(&format!("log/0000000000000000000{sequence}"))).unwrap();
    }
    fails(&mut scene.run("c", &["restore", "acme", "out", "--trust-keyring"]), 1, "was rolled back");
    scene.back("repository");
    ok(&mut scene.run("c", &["restore", "acme", "out", "--quiet", "--trust-keyring"]));
    ok(&mut scene.run("c", &["snapshots", "acme"]));
    assert_ne!(head(), before);
}

/// Checks that the output contains nothing that steers a terminal.
fn is_plain(output: &Output, what: &str) {
    let said = said(output);
    let steers = |c: char| {
        c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!said.chars().any(steers), "{what}: {said:?}");
    assert!(
        !said.lines().any(|line| line.starts_with("root") || line.starts_with("key-file")),
        "{what}: {said}"
    );
}

#[test]
fn text_from_a_repository_steers_no_terminal() {
    let scene = Scene::new();
    attack(scene.path(), "names", &[]);
    for args in [
        &["key", "list", "acme"][..],
        &["key", "list", "acme", "--json"],
        &["restore", "acme", "out"],
        &["snapshots", "acme"],
        &["status"],
        &["verify", "acme"],
    ] {
        let output = scene.run("a", args).output().unwrap();
        is_plain(&output, &format!("{args:?}"));
        assert!(args[0] != "key" || said(&output).contains("owned"), "{args:?}: {}", said(&output));
    }
    attack(scene.path(), "plain_text", &[]);
    for args in [
        &["snapshots", "acme"][..],
        &["snapshots", "acme", "--json"],
        &["status"],
        &["status", "--json"],
        &["prune", "acme", "--dry-run"],
        &["resync", "source", "--store", "acme", "--allow-unencrypted"],
    ] {
        let output = scene.run("a", args).output().unwrap();
        is_plain(&output, &format!("{args:?}"));
        if args.last() == Some(&"--json") {
            serde_json::from_slice::<Value>(&output.stdout).unwrap();
        }
    }
}

#[test]
fn a_store_of_an_earlier_version_goes_on_and_its_upgrade_has_no_way_back() {
    let scene = Scene::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repositories/3-encrypted/repository");
    ok(Command::new("cp").arg("-a").arg(fixture).arg(scene.path().join("repository")));
    let key = crate::support::rig::key_file();
    let with_key = |home: &str, args: &[&str]| {
        let mut command = scene.run(home, args);
        command.env("UNDERSTUDY_KEY_FILE", &key);
        command
    };
    // A host that used the store when its note had fewer fields.
    ok(&mut with_key("old", &["snapshots", "acme"]));
    let note = scene.cache("old").join("head");
    let mut seen: Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
    seen.as_object_mut().unwrap().retain(|name, _| name == "sequence" || name == "hash");
    std::fs::write(&note, seen.to_string()).unwrap();
    ok(&mut with_key("fresh", &["snapshots", "acme"]));
    scene.keep("repository");
    scene.keep("old/cache");
    // Neither host takes another keyring of that version, whatever its number.
    let victim = String::from_utf8(ok(Command::new("age-keygen").arg("-y").arg(&key)).stdout).unwrap();
    for (sequence, delete, records) in [("1", "yes", "4"), ("2", "yes", "4"), ("2", "no", "0")] {
        let options = [
            ("victim", victim.trim()),
            ("version", "1"),
            ("sequence", sequence),
            ("records", records),
            ("delete", delete),
        ];
        attack(scene.path(), "plant", &options);
        for home in ["old", "fresh"] {
            let output = with_key(home, &["restore", "acme", "stolen"]).output().unwrap();
            assert!(!output.status.success() && !scene.path().join("stolen").exists(), "{}", said(&output));
            let resync =
                with_key(home, &["resync", "source", "--store", "acme", "--accept"]).output().unwrap();
            assert!(!resync.status.success(), "{}", said(&resync));
        }
        scene.back("repository");
        scene.back("old/cache");
    }
    // The store can be used as it is,
    ok(&mut with_key("old", &["resync", "source", "--store", "acme", "--accept", "--quiet"]));
    let list = ok(&mut with_key("old", &["key", "list", "acme"]));
    assert!(said(&list).contains("key upgrade acme"), "{}", said(&list));
    let status = |home: &str| said(&ok(&mut with_key(home, &["status"])));
    assert!(status("old").contains("key upgrade acme"), "{}", status("old"));
    assert_eq!(std::fs::read(scene.store("log/00000000000000000004")).unwrap()[7], 3);
    // until it is upgraded.
    ok(&mut with_key("old", &["key", "upgrade", "acme"]));
    let again = ok(&mut with_key("old", &["key", "upgrade", "acme"]));
    assert!(said(&again).contains("already"), "{}", said(&again));
    assert_eq!((scene.names("keys").len(), scene.names("log").len()), (2, 5));
    assert_eq!(std::fs::read(scene.store("log/00000000000000000005")).unwrap()[7], 4);
    for home in ["old", "fresh", "new"] {
        let to = format!("out-{home}");
        ok(&mut with_key(home, &["restore", "acme", &to, "--quiet"]));
        assert_same(&scene.path().join("source"), &scene.path().join(to), home);
        assert!(said(&ok(&mut with_key(home, &["key", "list", "acme"]))).contains("made the keyring"));
        assert!(!status(home).contains("upgrade"), "{}", status(home));
    }
    ok(&mut with_key("new", &["verify", "acme", "--read-data"]));
    scene.keep("repository");
    // After that no keyring of the earlier version is taken, with or without its log.
    let newer = [("victim", victim.trim()), ("version", "1"), ("sequence", "3"), ("delete", "no")];
    attack(scene.path(), "plant", &newer);
    fails(&mut with_key("old", &["snapshots", "acme"]), 1, "does not prove who made it");
    scene.back("repository");
    std::fs::remove_file(scene.store("keys/0000000002")).unwrap();
    for home in ["old", "fresh", "new"] {
        let output = with_key(home, &["snapshots", "acme"]).output().unwrap();
        assert!(!output.status.success(), "{home}: {}", said(&output));
    }
    scene.back("repository");
    ok(&mut with_key("fresh", &["resync", "source", "--store", "acme", "--accept", "--quiet"]));
    ok(&mut with_key("old", &["snapshots", "acme"]));
}

#[test]
fn a_store_with_more_passphrases_than_are_added_opens_and_loses_them() {
    let scene = Scene::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repositories/3-encrypted/repository");
    ok(Command::new("cp").arg("-a").arg(fixture).arg(scene.path().join("repository")));
    let key = crate::support::rig::key_file();
    attack(scene.path(), "many_words", &[("identity", key.to_str().unwrap()), ("count", "10")]);
    let with_key = |args: &[&str]| {
        let mut command = scene.run("a", args);
        command.env("UNDERSTUDY_KEY_FILE", &key).env("UNDERSTUDY_NEW_PASSPHRASE", "yet another passphrase");
        command
    };
    ok(&mut with_key(&["restore", "acme", "out", "--quiet"]));
    ok(&mut with_key(&["key", "upgrade", "acme", "--trust-keyring"]));
    let add = ["key", "add", "acme", "more", "--passphrase"];
    for number in 0..3 {
        fails(&mut with_key(&add), 2, "at most 8 passphrases");
        ok(&mut with_key(&["key", "remove", "acme", &format!("words-{number}"), "--quiet"]));
    }
    ok(&mut with_key(&add));
    fails(&mut with_key(&["key", "add", "acme", "still-more", "--passphrase"]), 2, "at most 8 passphrases");
    ok(&mut with_key(&["key", "add", "acme", "another", "--file", "b.key", "--quiet"]));
    ok(scene.run("b", &["snapshots", "acme"]).env("UNDERSTUDY_PASSPHRASE", "yet another passphrase"));
}

#[test]
fn a_note_that_is_too_large_stops_nobody() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    for folder in ["standbys", "upkeep"] {
        std::fs::create_dir_all(scene.store(folder)).unwrap();
        std::fs::write(scene.store(folder).join("large"), vec![b'x'; (64 << 10) + 1]).unwrap();
    }
    // A checkpoint that is too large stops no command either.
    std::fs::create_dir_all(scene.store("checkpoints")).unwrap();
    let large = std::fs::File::create(scene.store("checkpoints/00000000000000000001")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    for args in [&["prune", "acme"][..], &["drill", "acme"], &["status"], &["snapshots", "acme"]] {
        let output = ok(&mut scene.run("a", args));
        assert!(!said(&output).contains("warning"), "{args:?}: {}", said(&output));
    }
    ok(scene.run("new", &["restore", "acme", "out", "--quiet"]).arg("--key-file").arg(scene.key("a")));
}

#[test]
fn whoever_was_locked_out_by_a_holder_gets_in_again_and_locks_them_out() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    std::fs::create_dir_all(scene.key("b").parent().unwrap()).unwrap();
    ok(scene.run("a", &["key", "add", "acme", "taken-over", "--quiet", "--file"]).arg(scene.key("b")));
    // Their own command would lock its user out as well:
    let own = ["key", "remove", "acme", "taken-over", "--trust-keyring"];
    fails(&mut scene.run("b", &own), 2, "cannot decide who remains");
    ok(&mut scene.run("b", &["key", "remove", "acme", "key-file", "--quiet"]));
    fails(&mut scene.resync("a"), 2, "no key here opens it");
    for gone in ["keys/0000000003", "log/00000000000000000003"] {
        std::fs::remove_file(scene.store(gone)).unwrap();
    }
    ok(&mut scene.run("a", &["key", "remove", "acme", "taken-over", "--quiet"]));
    ok(&mut scene.resync("a"));
    fails(
        scene.run("new", &["restore", "acme", "no"]).arg("--key-file").arg(scene.key("b")),
        2,
        "no key here opens it",
    );
    ok(&mut scene.run("a", &["restore", "acme", "out", "--quiet"]));
    assert_same(&scene.path().join("source"), &scene.path().join("out"), "it goes on");
}

#[test]
fn a_host_whose_key_others_added_writes_after_one_word_or_once_it_published() {
    let scene = Scene::new();
    ok(&mut scene.resync("a"));
    for home in ["standby", "reader"] {
        std::fs::create_dir_all(scene.key(home).parent().unwrap()).unwrap();
        ok(scene.run("a", &["key", "add", "acme", home, "--quiet", "--file"]).arg(scene.key(home)));
    }
    // A failover needs no confirmation, since the standby has published a snapshot.
    ok(&mut scene.run("standby", &["follow", "acme", "--once", "--standby", "standby-dir", "--quiet"]));
    ok(&mut scene.resync("standby"));
    // Reading alone is not enough.
    ok(&mut scene.run("reader", &["restore", "acme", "out", "--quiet"]));
    fails(&mut scene.resync("reader"), 2, "no key here made or accepted: 'key-file'");
    ok(scene.resync("reader").arg("--trust-keyring"));
    ok(&mut scene.resync("reader"));
    // The confirmation also holds for later keyrings.
    ok(&mut scene.run("a", &["key", "rotate", "acme", "--quiet"]));
    ok(&mut scene.resync("reader"));
    ok(&mut scene.resync("standby"));
}
