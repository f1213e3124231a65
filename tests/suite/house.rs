//! The house's own rules: layers, licences, one version of each dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// From the top down; a module imports only from layers below its own.
const LAYERS: [&[&str]; 6] = [
    &["cli"],
    &["service"],
    &["replicate", "standby"],
    &["repository", "source", "delta", "mount"],
    &["format"],
    &["model", "support"],
];

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|l| l.contains(&module)).unwrap_or_else(|| panic!("src/{module} is in no layer"))
}

#[test]
fn imports_point_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for entry in walkdir::WalkDir::new(&src) {
        let entry = entry.unwrap();
        let relative = entry.path().strip_prefix(&src).unwrap();
        let module = relative.iter().next().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
        if !entry.file_type().is_file()
            || relative.iter().count() < 2
            || !module.is_ascii()
            || relative.extension().is_none_or(|e| e != "rs")
        {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for import in text.split("crate::").skip(1) {
            let target: String =
                import.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if target != module && layer(&target) <= layer(&module) {
                wrong.push(format!("{} imports {target}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_macro(package: &serde_json::Value) -> bool {
    package["targets"].as_array().unwrap().iter().any(|t| t["kind"][0] == "proc-macro")
}

/// The packages that the program is built of: neither tests' nor build scripts'.
fn built_of(metadata: &serde_json::Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &serde_json::Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["id"].as_str().unwrap(), n))
        .collect();
    let macros: BTreeSet<&str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| is_macro(p))
        .map(|p| p["id"].as_str().unwrap())
        .collect();
    let mut found = BTreeSet::new();
    let mut stack = vec![metadata["resolve"]["root"].as_str().unwrap().to_owned()];
    while let Some(id) = stack.pop() {
        // What a macro is made of runs at build time.
        if !found.insert(id.clone()) || macros.contains(id.as_str()) {
            continue;
        }
        for dependency in nodes[id.as_str()]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|k| k["kind"].is_null()) {
                stack.push(dependency["pkg"].as_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn licences_are_permissive() {
    const ALLOWED: [&str; 11] = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "CC0-1.0",
        "Unlicense",
        "CDLA-Permissive-2.0",
    ];
    let metadata = metadata();
    let built = built_of(&metadata);
    for package in metadata["packages"].as_array().unwrap() {
        if !built.contains(package["id"].as_str().unwrap()) {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or("none");
        // One alternative of an OR, or all parts of an AND, must be allowed.
        let allowed = licence.replace('/', " OR ").split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|part| ALLOWED.contains(&part.trim().trim_matches(['(', ')'])))
        });
        assert!(allowed, "{}: {licence}", package["name"]);
    }
}

#[test]
fn there_is_one_version_of_each_dependency() {
    // Twice because of others: `object_store`'s checksums (crc-fast) and `ring` lag behind.
    const KNOWN: [&str; 3] = ["crypto-common", "digest", "getrandom"];
    let metadata = metadata();
    let built = built_of(&metadata);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        if built.contains(package["id"].as_str().unwrap()) && !is_macro(package) {
            versions
                .entry(package["name"].as_str().unwrap())
                .or_default()
                .insert(package["version"].as_str().unwrap());
        }
    }
    let twice: Vec<_> = versions.iter().filter(|(name, v)| v.len() > 1 && !KNOWN.contains(name)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn fuzz_seeds_are_decoded_or_refused() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut formats = BTreeSet::new();
    for entry in walkdir::WalkDir::new(&seeds).into_iter().filter_map(Result::ok) {
        if !entry.file_type().is_file() {
            continue;
        }
        let bytes = std::fs::read(entry.path()).unwrap();
        formats.insert(entry.path().parent().unwrap().to_owned());
        understudy::format::decode_anything(&bytes);
        // And damaged: cut, a byte changed, a length blown up, at up to 400 places.
        for at in (0..bytes.len()).step_by(bytes.len() / 400 + 1) {
            understudy::format::decode_anything(&bytes[..at]);
            for value in [0, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                understudy::format::decode_anything(&bad);
            }
        }
    }
    assert_eq!(
        formats.len(),
        9,
        "page, pack, index, record, lists, delta, checkpoint, keyring, age: {formats:?}"
    );
}

/// What SECURITY.md says that a test shows is shown by one of that name.
#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let is_name = |word: &&str| {
        word.len() > 20 && word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let named: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
    let mut sources = String::new();
    for folder in ["src", "tests/suite"] {
        for entry in walkdir::WalkDir::new(root.join(folder)).into_iter().map(Result::unwrap) {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(entry.path()).unwrap();
            }
        }
    }
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(named.len() >= 20 && missing.is_empty(), "{missing:?} of {}", named.len());
}
