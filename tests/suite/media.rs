//! What the database names and the files lack, and the other way round, with a real server and the real binary.

use crate::support::archived::Archived;
use crate::support::command::{ok, said};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn shop(rule: &str) -> Archived {
    let archived = Archived::unseeded("", "");
    let path = archived.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap() + "[[store.database.media]]\nschema = 'shop'\n" + rule;
    std::fs::write(&path, text).unwrap();
    archived
}

fn write(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
}

fn media(archived: &Archived, more: &[&str]) -> Output {
    archived.host.command(&["media", "acme"]).args(more).output().unwrap()
}

/// Returns the report, and the paths of each kind.
fn report(archived: &Archived) -> (Value, impl Fn(&str) -> Vec<String>) {
    let output = media(archived, &["--json"]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let report = lines.pop().unwrap_or_else(|| panic!("{}", said(&output)));
    let of = move |what: &str| {
        let of_kind = lines.iter().filter(|line| line["what"] == what);
        of_kind.map(|line| line["path"].as_str().unwrap().to_owned()).collect()
    };
    (report, of)
}

#[test]
fn magento_s_gallery_is_compared_and_the_report_names_exactly_what_was_taken_away_or_added() {
    let archived = shop("kind = 'magento'\nprefix = 'mg_'\n");
    let tree = archived.host.path("s0/pub/media/catalog/product");
    archived.server.sql(
        "CREATE TABLE shop.mg_catalog_product_entity_media_gallery (value_id INT PRIMARY KEY AUTO_INCREMENT, value VARCHAR(255)); \
         INSERT INTO shop.mg_catalog_product_entity_media_gallery (value) VALUES ('/a/b/one.jpg'), ('/a/b/two.jpg'), ('/a/b/two.jpg'), (NULL), ('/c/three.jpg')",
    );
    write(&tree, &["a/b/one.jpg", "a/b/two.jpg", "c/three.jpg", "cache/1/a/b/one.jpg", "placeholder/x.jpg"]);
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let clean = media(&archived, &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", said(&clean));
    assert!(said(&clean).contains("4 rows name 3 files; acme@2 has 5"), "{}", said(&clean));
    std::fs::remove_file(tree.join("a/b/two.jpg")).unwrap();
    write(&tree, &["d/four.jpg"]);
    archived
        .server
        .sql("INSERT INTO shop.mg_catalog_product_entity_media_gallery (value) VALUES ('/e/five.jpg')");
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let (report, of) = report(&archived);
    let below = |name: &str| format!("pub/media/catalog/product/{name}");
    assert_eq!(of("missing"), [below("a/b/two.jpg"), below("e/five.jpg")]);
    assert_eq!(of("unnamed"), [below("d/four.jpg")]);
    assert_eq!(report["refused"]["count"], 0, "{report:#}");
    assert_eq!(media(&archived, &[]).status.code(), Some(3));
    // The snapshot before has other files.
    let before = media(&archived, &["--at", "@2"]);
    assert!(said(&before).contains("five.jpg") && !said(&before).contains("two.jpg"), "{}", said(&before));
    // Without the directory, that is what is said.
    let nowhere = media(&archived, &["--at", "@1"]);
    assert!(said(&nowhere).contains("there is no directory pub/media/catalog/product"), "{}", said(&nowhere));
}

#[test]
fn wordpress_attachments_stand_for_the_sizes_that_were_made_of_them() {
    let archived = shop("kind = 'wordpress'\n");
    archived.server.sql(
        "CREATE TABLE shop.wp_postmeta (meta_id INT PRIMARY KEY AUTO_INCREMENT, meta_key VARCHAR(255), meta_value LONGTEXT); \
         INSERT INTO shop.wp_postmeta (meta_key, meta_value) VALUES ('_wp_attached_file', '2026/12/shoe-scaled.jpg'), \
         ('_wp_attached_file', '2026/12/gone.png'), ('_edit_lock', '2026/12/lock')",
    );
    let tree = archived.host.path("s0/wp-content/uploads/2026/12");
    write(&tree, &["shoe.jpg", "shoe-scaled.jpg", "shoe-300x200.jpg", "stray.jpg", "stray-10x10.jpg"]);
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let (_, of) = report(&archived);
    assert_eq!(of("missing"), ["wp-content/uploads/2026/12/gone.png"]);
    let stray = ["stray-10x10.jpg", "stray.jpg"].map(|name| format!("wp-content/uploads/2026/12/{name}"));
    assert_eq!(of("unnamed"), stray);
}

#[test]
fn a_value_that_leads_elsewhere_is_counted_and_neither_looked_up_nor_printed_raw() {
    let archived = shop("query = 'SELECT file FROM pictures'\npath = 'media/{value}'\n");
    archived.server.sql(
        "CREATE TABLE shop.pictures (id INT PRIMARY KEY AUTO_INCREMENT, file VARBINARY(9000)); \
         INSERT INTO shop.pictures (file) VALUES ('ok.jpg'), ('../../etc/passwd'), ('a/../../b'), ('/'), \
         (CONCAT('a', CHAR(10), 'b.jpg')), (CONCAT(CHAR(27), '[31mred')), (REPEAT('x', 9000)), (CONCAT('a', CHAR(0))), \
         (x'ff2e6a7067'), (CONCAT('tab', CHAR(9), 'x'))",
    );
    write(&archived.host.path("s0/media"), &["ok.jpg"]);
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let (report, of) = report(&archived);
    assert_eq!((&report["rows"], &report["named"]), (&10.into(), &2.into()), "{report:#}");
    assert_eq!(of("refused").len(), 8, "{report:#}");
    assert_eq!(of("missing").len(), 1, "{report:#}");
    let printed = media(&archived, &[]);
    assert_eq!(printed.status.code(), Some(3));
    let is_plain = |byte: &u8| *byte == b'\n' || !byte.is_ascii_control();
    assert!(printed.stdout.iter().all(is_plain), "{}", said(&printed));
    assert!(printed.stdout.len() < 4000);
    // A query changes nothing, and its error is the server's.
    let path = archived.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("SELECT file FROM pictures", "SELECT file FROM nowhere")).unwrap();
    let failed = media(&archived, &[]);
    assert!(failed.status.code() == Some(1) && said(&failed).contains("1146"), "{}", said(&failed));
    std::fs::write(&path, text.replace("SELECT file FROM pictures", "DELETE FROM pictures")).unwrap();
    let refused = media(&archived, &[]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("one SELECT"), "{}", said(&refused));
}

#[test]
fn a_view_in_the_place_of_a_table_reads_no_file_of_the_server_s_host_and_the_account_is_gone_afterwards() {
    let archived = shop("query = 'SELECT file FROM leak'\npath = 'media/{value}'\n");
    let secret = archived.server.dir.path().join("secret");
    std::fs::write(&secret, "SECRET").unwrap();
    let secret = secret.display();
    archived.server.sql(&format!(
        "CREATE SQL SECURITY INVOKER VIEW shop.leak AS SELECT CONCAT('x', LOAD_FILE('{secret}')) AS file UNION SELECT CURRENT_USER()"
    ));
    assert!(archived.server.sql("SELECT file FROM shop.leak").contains("SECRET"));
    let before = archived.position();
    write(&archived.host.path("s0/media"), &["a"]);
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let (report, of) = report(&archived);
    assert_eq!(of("missing"), ["media/understudy-media@localhost"], "{report:#}");
    assert_eq!(archived.server.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'understudy-%'"), "0");
    assert_eq!(archived.position(), before);
    let left = std::fs::read_dir(archived.host.path("state/understudy")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("media-0")), "{left:?}");
}

#[test]
fn a_hundred_thousand_rows_are_compared_in_little_memory() {
    let archived = shop("query = 'SELECT file FROM pictures'\npath = 'media/{value}'\n");
    archived.server.sql(
        "CREATE TABLE shop.pictures (id INT PRIMARY KEY, file VARCHAR(200)); \
         INSERT INTO shop.pictures SELECT seq, CONCAT('d', seq % 100, '/', REPEAT('n', 150), seq, '.jpg') FROM shop.seq_1_to_200000",
    );
    write(&archived.host.path("s0/media"), &["d0/stray.jpg"]);
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
    let command = archived.host.command(&[]);
    let program = command.get_program().to_owned();
    let mut limited = std::process::Command::new("/bin/sh");
    limited
        .args(["-c", "exec \"$0\" media acme --json > \"$1\""])
        .arg(program)
        .arg(archived.host.path("out"));
    limited.current_dir(archived.host.dir.path());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let mut child = limited.spawn().unwrap();
    // What it has in memory at most, as the kernel counted it.
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
        most = most.max(kib);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let text = std::fs::read_to_string(archived.host.path("out")).unwrap();
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    println!("{most} KiB, {} s", report["seconds"]);
    assert_eq!((&report["rows"], &report["missing"]["count"]), (&200_000.into(), &200_000.into()));
    assert_eq!((&report["unnamed"]["count"], text.lines().count()), (&1.into(), 200_002));
    // The names alone are 34 MB.
    assert!(most > 0 && most < 64 << 10, "{most} KiB");
}
