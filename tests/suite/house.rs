//! The project's own rules: layers, circles, commands, kinds of errors, lengths, licences, one version of
//! each dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The folders from the top down; a file imports only from lower folders, or from its own.
const FLOORS: [&[&str]; 11] = [
    &["cli"],
    &["service"],
    &["failover"],
    &["mounts"],
    &["standby", "database"],
    &["restore"],
    &["maintain", "replicate", "content"],
    &["repository", "delta", "panel"],
    &["format", "vfs", "source", "api", "edge"],
    &["model"],
    &["support"],
];

/// Maximum number of lines of a function.
const FUNCTION_MAX_LINES: usize = 70;

/// Returns each module of the crate by its path (`repository::log`), with its text up to its unit tests.
fn modules() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&src).into_iter().map(Result::unwrap) {
        if entry.path().extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let path = entry.path().strip_prefix(&src).unwrap().with_extension("");
        let path = path.to_str().unwrap().replace('/', "::");
        let path = path.strip_suffix("::mod").unwrap_or(&path).to_owned();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        modules.insert(path, text.to_owned());
    }
    modules
}

/// Returns the paths that a text names from the root of the crate; `super` is resolved.
fn named_paths(module: &str, text: &str) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let code: String = text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
    let mut paths = BTreeSet::new();
    for (word, base) in [("crate::", ""), ("super::", parent)] {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &code[at + word.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            let path = rest[..end].trim_end_matches(':');
            let full = if base.is_empty() { path.to_owned() } else { format!("{base}::{path}") };
            if rest[end..].starts_with('{') {
                let group = rest[end + 1..].split('}').next().unwrap();
                for item in group.split(',') {
                    let name = item.split_whitespace().next().unwrap_or_default();
                    paths.insert(format!("{full}::{name}").replace("::::", "::"));
                }
            }
            paths.insert(full);
        }
    }
    paths
}

/// Returns the modules that each module imports: for a path, the deepest module on it.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules();
    let mut imports = BTreeMap::new();
    for (module, text) in &modules {
        let mut targets = BTreeSet::new();
        for path in named_paths(module, text) {
            let mut path = path.as_str();
            while !modules.contains_key(path) {
                match path.rsplit_once("::") {
                    Some((shorter, _)) => path = shorter,
                    None => break,
                }
            }
            if modules.contains_key(path) && path != module {
                targets.insert(path.to_owned());
            }
        }
        imports.insert(module.clone(), targets);
    }
    imports
}

fn floor(folder: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&folder))
        .unwrap_or_else(|| panic!("src/{folder} is on no floor"))
}

#[test]
fn imports_point_downwards() {
    let folder = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut wrong = Vec::new();
    for (module, targets) in imports() {
        for target in targets {
            let (from, to) = (folder(&module), folder(&target));
            if !["lib", "main"].contains(&from.as_str()) && from != to && floor(&to) <= floor(&from) {
                wrong.push(format!("{module} imports {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Finds modules that reach each other. Each call removes one module from the way back, by Warshall's
/// closure.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    let mut reached = imports.clone();
    for middle in imports.keys() {
        let onwards = reached[middle].clone();
        for targets in reached.values_mut().filter(|targets| targets.contains(middle)) {
            targets.extend(onwards.iter().cloned());
        }
    }
    let circular: Vec<_> = reached.iter().filter(|(module, targets)| targets.contains(*module)).collect();
    let circular: Vec<_> = circular.iter().map(|(module, _)| module).collect();
    assert!(circular.is_empty(), "{circular:#?}");
}

#[test]
fn a_suite_takes_its_tools_from_the_toolbox_and_not_from_another_suite() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut suites = BTreeSet::new();
    let mut named = BTreeSet::new();
    for folder in ["suite", "support"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap) {
            let module = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            // A tool's `super` is the toolbox.
            let full = if folder == "suite" { module.clone() } else { format!("support::{module}") };
            named.extend(named_paths(&full, &text).into_iter().map(|path| (full.clone(), path)));
            if folder == "suite" {
                suites.insert(module);
            }
        }
    }
    assert!(suites.contains("house") && named.len() >= 100, "{named:?}");
    let is_suite = |path: &str| path.split("::").next().is_some_and(|first| suites.contains(first));
    let wrong: Vec<_> = named.iter().filter(|(_, path)| is_suite(path)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_command_imports_no_command() {
    let commands: BTreeSet<String> = modules()
        .into_iter()
        .filter(|(module, text)| module.starts_with("cli::") && text.contains("pub(super) fn run("))
        .map(|(module, _)| module)
        .collect();
    assert!(commands.len() >= 15, "{commands:?}");
    for (module, targets) in imports() {
        let others: Vec<_> = targets.iter().filter(|target| commands.contains(*target)).collect();
        assert!(!commands.contains(&module) || others.is_empty(), "{module} imports {others:?}");
    }
}

/// The exit code, the HTTP status, retries and alerts follow from the kind of every error.
#[test]
fn every_public_error_has_a_kind() {
    let modules = modules();
    let mut errors = Vec::new();
    for (module, text) in &modules {
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let is_error = |derives: &str| derives.starts_with("#[derive(") && derives.contains("Error");
        for line in lines.windows(2).filter(|two| is_error(two[0])).map(|two| two[1]) {
            let words = ["pub enum ", "pub struct ", "pub(crate) enum ", "pub(crate) struct "];
            let named = words.iter().find_map(|word| line.strip_prefix(word));
            let name: String =
                named.unwrap_or_default().chars().take_while(|c| c.is_alphanumeric()).collect();
            if name.ends_with("Error") {
                errors.push((module, name));
            }
        }
    }
    assert!(errors.len() >= 25, "{errors:?}");
    let without: Vec<_> = errors
        .iter()
        .filter(|(module, name)| !modules[*module].contains(&format!("impl Failure for {name} {{")))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (module, text) in modules() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let is_function =
                ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "]
                    .iter()
                    .any(|word| code.starts_with(word));
            if !is_function || code.ends_with([';', '}']) {
                continue;
            }
            let indent = line.len() - code.len();
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(1, |n| n + 1);
            if length > FUNCTION_MAX_LINES {
                long.push(format!("{module}, line {}: {length} lines", start + 1));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
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

/// Returns the packages that the program is built of, without those of tests and build scripts.
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
        // The dependencies of a macro run at build time only.
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
    // Dependencies cause these duplicates: `object_store`'s checksums (crc-fast) and `ring` lag behind.
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
        // Also with damage: cut, a byte changed, a length enlarged, at up to 400 places.
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
        10,
        "page, pack, index, record, lists, delta, checkpoint, keyring, age, binlog: {formats:?}"
    );
}

/// Every test that SECURITY.md names exists.
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
