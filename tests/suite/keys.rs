//! Encryption: who can open a store, what the bucket shows, what tampering leads to, and age as a judge.

use crate::support::command::{fails, host, ok};
use crate::support::facts::assert_same;
use crate::support::objects::{keys, read, write};
use crate::support::rig::{self, Rig};
use crate::support::tree::{files, sample_tree};
use object_store::path::Path as Key;
use std::process::Command;
use understudy::maintain::verify::{self, VerifyOptions};
use understudy::model::snapshot_ref::Moment;
use understudy::repository::key_source::{Encryption, KeySource};
use understudy::repository::store::{Repository, RepositoryOptions};
use understudy::support::clock::UnixNanos;

#[test]
fn a_store_opens_with_its_keys_and_with_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let source = dir.join("source");
    sample_tree(&source);
    std::fs::write(source.join("note"), "a very secret note ".repeat(20)).unwrap();
    let resync = |home: &str| {
        let mut command = host(dir, home);
        command.args(["resync", "source", "--store", "acme", "--quiet"]);
        command
    };
    let restore = |home: &str, to: &str| {
        let mut command = host(dir, home);
        command.args(["restore", "acme", to, "--quiet"]);
        command
    };
    // A key file that is named is only created in an existing directory.
    fails(resync("a").env("UNDERSTUDY_KEY_FILE", dir.join("not-mounted/key")), 1, "not-mounted");
    assert!(!dir.join("repository/acme/log").exists() && !dir.join("not-mounted").exists());
    let first = ok(&mut resync("a"));
    assert!(String::from_utf8_lossy(&first.stderr).contains("keep a copy elsewhere"), "{first:?}");
    assert!(ok(&mut resync("a")).stderr.is_empty());
    let key = dir.join("a/.config/understudy/key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The bucket shows no content, no name and no chunk's id.
    let id = blake3::hash(&std::fs::read(source.join("note")).unwrap());
    for file in files(&dir.join("repository")) {
        let bytes = std::fs::read(&file).unwrap();
        for secret in
            [&b"secret note"[..], b"medium", b"scan_start_ns", id.as_bytes(), id.to_hex().as_bytes()]
        {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", file.display());
        }
        assert!(!file.display().to_string().contains(id.to_hex().as_str()));
    }

    // Another host: without a key, with a wrong one, with a copy.
    fails(&mut restore("b", "no"), 2, "no key here opens it");
    ok(host(dir, "b").args(["key", "new"]).arg(dir.join("wrong")));
    fails(restore("b", "no").env("UNDERSTUDY_KEY_FILE", dir.join("wrong")), 2, "key-file");
    fails(resync("b").env("UNDERSTUDY_PASSPHRASE", "a guess"), 2, "no key here opens it");
    assert!(!dir.join("no").exists());
    ok(restore("b", "copy").arg("--key-file").arg(&key));
    assert_same(&source, &dir.join("copy"), "with a copy of the key file");

    // A passphrase, and an identity that age made.
    let mut add = host(dir, "a");
    add.args(["key", "add", "acme", "office", "--passphrase"])
        .env("UNDERSTUDY_NEW_PASSPHRASE", "correct horse battery");
    ok(&mut add);
    let friend = dir.join("friend");
    ok(Command::new("age-keygen").arg("-o").arg(&friend));
    let recipient = String::from_utf8(ok(Command::new("age-keygen").arg("-y").arg(&friend)).stdout).unwrap();
    ok(host(dir, "a").args(["key", "add", "acme", "friend", "--recipient", recipient.trim()]));
    ok(restore("c", "by-passphrase").env("UNDERSTUDY_PASSPHRASE", "correct horse battery"));
    assert_same(&source, &dir.join("by-passphrase"), "by passphrase");
    fails(
        restore("c", "no").env("UNDERSTUDY_PASSPHRASE", "correct horse batterz"),
        2,
        "'office' (a passphrase)",
    );
    ok(restore("c", "by-age").env("UNDERSTUDY_KEY_FILE", &friend));
    assert_same(&source, &dir.join("by-age"), "by age's key");
    let listed = |home: &str| {
        let output = ok(host(dir, home).args(["key", "list", "acme"]));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let [table, said] = listed("a");
    assert!(table.contains("office") && table.contains(recipient.trim()) && said.is_empty(), "{table}{said}");
    // Without a key, the bucket's data is shown as unverified, and contains no public keys.
    let [table, said] = listed("c");
    assert!(
        table.contains("office") && !table.contains("age1") && said.contains("not verified"),
        "{table}{said}"
    );

    // A removed key does not open what is written after its removal, with the old keyring or without.
    ok(host(dir, "a").args(["key", "remove", "acme", "friend"]));
    std::fs::write(source.join("after"), "written after the removal").unwrap();
    ok(&mut resync("a"));
    fails(restore("c", "no").env("UNDERSTUDY_KEY_FILE", &friend), 2, "no key here opens it");
    let keyrings = files(&dir.join("repository/acme/keys"));
    assert_eq!(keyrings.len(), 4);
    for newer in keyrings.iter().filter(|k| k.ends_with("0000000004")) {
        std::fs::rename(newer, dir.join("newest")).unwrap();
    }
    let rolled_back = restore("c", "no").env("UNDERSTUDY_KEY_FILE", &friend).output().unwrap();
    assert!(String::from_utf8_lossy(&rolled_back.stderr).contains("rolled back"), "{rolled_back:?}");
    // The owner does not write with the old keys then either.
    assert!(!resync("a").output().unwrap().status.success());
    std::fs::rename(dir.join("newest"), dir.join("repository/acme/keys/0000000004")).unwrap();

    ok(host(dir, "a").args(["key", "rotate", "acme"]));
    std::fs::write(source.join("again"), "after the rotation").unwrap();
    ok(&mut resync("a"));
    ok(restore("c", "rotated").env("UNDERSTUDY_PASSPHRASE", "correct horse battery"));
    assert_same(&source, &dir.join("rotated"), "after the rotation, by passphrase");
    ok(host(dir, "a").args(["verify", "acme", "--read-data"]));
    fails(host(dir, "a").args(["key", "remove", "acme", "nobody"]), 2, "no key 'nobody'");
    ok(host(dir, "a").args(["key", "remove", "acme", "office"]));
    fails(host(dir, "a").args(["key", "remove", "acme", "key-file"]), 2, "only key");
}

#[test]
fn an_empty_key_file_is_made_again_and_one_without_a_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let resync = |store: &str| {
        let mut command = host(dir, "home");
        command.args(["resync", "source", "--quiet", "--store", store]);
        command
    };
    // A kill of an earlier version between creating and writing the file left it like this.
    let key = dir.join("home/.config/understudy/key");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, b"").unwrap();
    let said = ok(&mut resync("acme")).stderr;
    assert!(
        String::from_utf8_lossy(&said).contains("created the key file"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(text.contains("AGE-SECRET-KEY-1"));
    ok(host(dir, "home").args(["restore", "acme", "out", "--quiet"]));
    // The store exists, but its key is lost: the error says so, and no new key is made.
    std::fs::write(&key, b"").unwrap();
    fails(&mut resync("acme"), 2, "that file is empty");
    assert_eq!(std::fs::read(&key).unwrap(), b"");
    std::fs::remove_file(&key).unwrap();
    fails(&mut resync("acme"), 2, "that file does not exist");
    // A file of comments alone is kept, and is no key.
    std::fs::write(&key, b"# my keys\n").unwrap();
    fails(&mut resync("other"), 2, &format!("key file {}: it contains no key", key.display()));
    // A file that cannot be read is not treated as missing.
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    fails(&mut resync("other"), 2, &format!("key file {}", key.display()));
}

#[test]
fn a_home_that_is_not_absolute_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    for variable in ["HOME", "XDG_CONFIG_HOME"] {
        let mut command = host(dir, "home");
        command.args(["resync", "source", "--quiet"]).env(variable, "here/or/there");
        fails(&mut command, 2, &format!("here/or/there: {variable} is not an absolute path"));
    }
    assert!(!dir.join("here").exists());
}

#[test]
fn age_opens_what_wraps_the_master_key() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("source")).unwrap();
    ok(host(dir, "a").args(["resync", "source", "--store", "acme", "--quiet"]));
    let ring = std::fs::read_to_string(dir.join("repository/acme/keys/0000000001")).unwrap();
    let ring: serde_json::Value = serde_json::from_str(ring.lines().next().unwrap()).unwrap();
    let wrapped = Command::new("python3")
        .args(["-c", "import sys, base64; t = sys.argv[1]; sys.stdout.buffer.write(base64.b64decode(t + '=' * (-len(t) % 4)))"])
        .arg(ring["master"].as_str().unwrap())
        .output()
        .unwrap();
    std::fs::write(dir.join("master.age"), wrapped.stdout).unwrap();
    let key = dir.join("a/.config/understudy/key");
    let opened = ok(Command::new("age").arg("-d").arg("-i").arg(&key).arg(dir.join("master.age")));
    assert_eq!(opened.stdout.len(), 32);
    // This program opens age's files as well.
    let recipient = String::from_utf8(ok(Command::new("age-keygen").arg("-y").arg(&key)).stdout).unwrap();
    std::fs::write(dir.join("plain"), b"made by age").unwrap();
    ok(Command::new("age")
        .args(["-r", recipient.trim(), "-o"])
        .arg(dir.join("sealed"))
        .arg(dir.join("plain")));
    let text = std::fs::read_to_string(&key).unwrap();
    let identity = understudy::format::age::Identity::parse(text.lines().last().unwrap()).unwrap();
    let sealed = std::fs::read(dir.join("sealed")).unwrap();
    assert_eq!(&understudy::format::age::open(&sealed, &[identity]).unwrap()[..], b"made by age");
}

#[test]
fn encryption_is_turned_off_and_required_by_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let config = |text: &str| std::fs::write(dir.join("understudy.toml"), text).unwrap();
    config("encryption = \"none\"\n");
    ok(host(dir, "a").args(["resync", "source", "--store", "acme", "--quiet"]));
    assert!(!dir.join("repository/acme/keys").exists() && !dir.join("a/.config/understudy/key").exists());
    // An existing store without encryption is used as it is, unless that is refused.
    config("");
    ok(host(dir, "a").args(["resync", "source", "--store", "acme", "--quiet"]));
    config("encryption = \"required\"\n");
    fails(host(dir, "a").args(["resync", "source", "--store", "acme", "--quiet"]), 2, "not encrypted");
    fails(host(dir, "a").args(["key", "rotate", "acme"]), 2, "not encrypted");
}

/// Returns whether all of the last snapshot is restored unchanged.
fn comes_back(rig: &Rig, wanted: &crate::support::facts::Facts) -> bool {
    let to = format!("out-{}", rig::nonce());
    let restored = rig::restore_at(&rig.store(), Moment::Latest, &rig.restore_request(&to));
    restored.is_ok() && crate::support::facts::of(&rig.dir.path().join(to)) == *wanted
}

#[test]
fn every_object_that_is_exchanged_cut_or_made_up_is_noticed() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    std::fs::write(rig.source().join("late"), b"late".repeat(5000)).unwrap();
    rig.resync();
    let wanted = crate::support::facts::of(&rig.source());
    assert!(comes_back(&rig, &wanted));
    let all = keys(&rig, "acme/");
    assert_eq!(all.len(), 2 + 2 + 2 + 1, "{all:?}");
    for key in &all {
        let good = read(&rig, key);
        let part = |key: &Key| key.parts().nth(1).unwrap().as_ref().to_owned();
        // Another object of its kind in its place, sealed with the same keys.
        let other = all.iter().find(|other| *other != key && part(other) == part(key));
        let mut bad = vec![good.slice(..good.len() - 1), good.slice(..good.len() / 2), bytes::Bytes::new()];
        bad.extend(other.map(|other| read(&rig, other)));
        for at in [0, 7, 8, 9, 20, 28, 40, good.len() / 2, good.len() - 1] {
            let mut flipped = good.to_vec();
            flipped[at] ^= 1;
            bad.push(flipped.into());
        }
        for bad in bad {
            write(&rig, key, bad.clone());
            let noticed = match verify::verify(&rig.store(), VerifyOptions::whole()) {
                Ok(report) => !report.is_sound(),
                Err(_) => true,
            };
            // The JSON around a keyring has bytes without meaning; then it opens as before.
            let harmless = part(key) == "keys" && comes_back(&rig, &wanted);
            assert!(noticed || harmless, "{key}: {} bytes of {}", bad.len(), good.len());
            if !noticed {
                assert!(comes_back(&rig, &wanted));
            }
        }
        write(&rig, key, good);
    }
    assert!(comes_back(&rig, &wanted) && rig.verify().is_sound());
}

#[test]
fn an_object_without_a_seal_and_one_of_another_store_are_not_taken() {
    let (rig, other) = (Rig::new(), Rig::new());
    for rig in [&rig, &other] {
        sample_tree(&rig.source());
        rig.resync();
    }
    // An intact record of another repository, under the same store's name and number: it has other keys.
    let log = keys(&rig, "acme/").into_iter().find(|k| k.as_ref().contains("log")).unwrap();
    let good = read(&rig, &log);
    write(&rig, &log, read(&other, &log));
    assert!(rig.store().log().state().is_err());
    write(&rig, &log, good);

    // A record that any party could make: without a seal, chained to the last one.
    let plain = Repository::over(
        rig.objects.clone(),
        "test",
        RepositoryOptions { keys: KeySource::none(), patience: rig::patience(1), ..Default::default() },
        rig::runtime(),
    );
    assert!(plain.store(&rig::name()).log().state().is_err(), "it is not read without a key");
    let forged = {
        let state = rig.store().log().state().unwrap();
        let record = understudy::model::record::Record {
            store: rig::name(),
            sequence: state.next_sequence(),
            epoch: state.epoch,
            writer: understudy::model::id::WriterId("attacker".into()),
            nonce: 1,
            previous: state.head.map(|(_, hash)| hash),
            ring: state.ring,
            event: understudy::model::record::Event::Pruned(Box::default()),
        };
        understudy::format::record::encode(&record, &Default::default(), None).unwrap()
    };
    write(&rig, &Key::from("acme/log/00000000000000000002"), forged);
    let error = rig.store().log().state().unwrap_err().to_string();
    assert!(error.contains("without a seal"), "{error}");
}

#[test]
fn a_keyring_that_is_taken_away_does_not_make_a_store_plain() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let resync = || {
        let mut command = host(dir, "a");
        command.args(["resync", "source", "--store", "acme", "--quiet"]);
        command
    };
    ok(&mut resync());
    // The log stays, and its records are sealed.
    std::fs::rename(dir.join("repository/acme/keys"), dir.join("keys")).unwrap();
    fails(&mut resync(), 1, "keyring");
    // Everything is deleted, but this host has seen it.
    std::fs::remove_dir_all(dir.join("repository/acme")).unwrap();
    fails(&mut resync(), 1, "rolled back");
    assert_eq!(Encryption::default(), Encryption::On);
}

#[test]
fn an_empty_or_short_passphrase_is_an_error_wherever_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let resync = || {
        let mut command = host(dir, "a");
        command.args(["resync", "source", "--store", "acme", "--quiet"]);
        command
    };
    fails(resync().env("UNDERSTUDY_PASSPHRASE", ""), 2, "UNDERSTUDY_PASSPHRASE is empty");
    fails(
        host(dir, "a").args(["status"]).env("UNDERSTUDY_PASSPHRASE", ""),
        2,
        "UNDERSTUDY_PASSPHRASE is empty",
    );
    let not_text: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&[0xff; 12]);
    fails(resync().env("UNDERSTUDY_PASSPHRASE", not_text), 2, "is not UTF-8");
    fails(resync().env("UNDERSTUDY_PASSPHRASE", "seven77"), 2, "at least 8 characters");
    std::fs::write(dir.join("understudy.toml"), "passphrase_file = \"words\"\n").unwrap();
    for (text, wanted) in [
        ("", "the file contains no passphrase"),
        ("\n", "the file contains no passphrase"),
        ("short\n", "8 characters"),
    ] {
        std::fs::write(dir.join("words"), text).unwrap();
        fails(&mut resync(), 2, wanted);
    }
    for text in ["", "seven77"] {
        let mut add = host(dir, "a");
        add.args(["key", "add", "acme", "x", "--passphrase"]).env("UNDERSTUDY_NEW_PASSPHRASE", text);
        std::fs::remove_file(dir.join("understudy.toml")).ok();
        fails(&mut add, 2, "at least 8 characters");
    }
    assert!(!dir.join("repository/acme").exists() && !dir.join("a/.config/understudy/key").exists());
}

#[test]
fn a_passphrase_that_is_given_gets_a_slot_of_a_new_store_also_beside_a_key_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let words = "correct horse battery staple";
    let resync = |store: &str| {
        let mut command = host(dir, "a");
        command.args(["resync", "source", "--store", store, "--quiet"]);
        command
    };
    ok(&mut resync("first"));
    ok(resync("second").env("UNDERSTUDY_PASSPHRASE", words));
    ok(host(dir, "b").args(["restore", "second", "out", "--quiet"]).env("UNDERSTUDY_PASSPHRASE", words));
    assert_same(&dir.join("source"), &dir.join("out"), "by the passphrase, on another host");
    ok(host(dir, "a").args(["restore", "second", "out-2", "--quiet"]));
    let listed = ok(host(dir, "a").args(["key", "list", "second"])).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("key-file") && listed.contains("passphrase"), "{listed}");
    // Where there is no key file the passphrase is the only key, and no file is made.
    ok(host(dir, "c")
        .args(["resync", "source", "--store", "third", "--quiet"])
        .env("UNDERSTUDY_PASSPHRASE", words));
    assert!(!dir.join("c/.config/understudy/key").exists());
    // The passphrase proves that its holder made the keyring, also without a cache.
    std::fs::remove_dir_all(dir.join("c/cache")).unwrap();
    ok(host(dir, "c")
        .args(["resync", "source", "--store", "third", "--quiet"])
        .env("UNDERSTUDY_PASSPHRASE", words));
}

#[test]
fn a_note_that_is_replayed_is_an_old_note_and_one_that_is_moved_is_none() {
    use understudy::repository::standbys::StandbyReport;
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let report = |snapshot: u64| StandbyReport {
        host: understudy::model::id::WriterId("web-2".into()),
        snapshot: understudy::model::id::Sequence(snapshot),
        published: UnixNanos(snapshot),
        pinned: Vec::new(),
        noted: UnixNanos::EPOCH,
    };
    let at = Key::from("acme/standbys/web-2");
    rig.store().notes().report_standby(&report(1)).unwrap();
    let old = read(&rig, &at);
    rig.store().notes().report_standby(&report(2)).unwrap();
    let told =
        || rig.store().notes().standbys().unwrap().into_iter().map(|r| r.snapshot.0).collect::<Vec<_>>();
    assert_eq!(told(), [2]);
    write(&rig, &Key::from("acme/standbys/web-3"), old.clone());
    write(&rig, &Key::from("acme/upkeep/web-2"), old.clone());
    assert_eq!((told(), rig.store().notes().upkeep().unwrap().len()), (vec![2], 0));
    write(&rig, &at, old);
    assert_eq!(told(), [1]);
}
