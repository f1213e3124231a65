//! README and docs are true: every command line in `console` blocks runs, every other one parses,
//! configurations are read by the real parser, links have a target, and the references name what the program
//! has.
//!
//! A page's ```` ```console ```` blocks are run as one shell session, in order, by root on a host of the
//! page's own: with its own namespaces for mounts, processes, network and host name, and its own directories
//! in place of `/root` (its home), `/srv`, `/mnt`, `/etc/understudy` and `/var/lib/understudy`. Preparations
//! for a page are in comments, `<!-- setup: … -->`, at the place where they are needed. A line that begins
//! with `$ ` is a command, one with `> ` continues it, and all others are its output. A command ends with 0,
//! or with the exit code of a comment: `# exits 4`.
//!
//! Sizes, times, dates, rates, keys and counts of requests may differ from those on a page; everything else
//! must be the same. `…` stands for any text within a line, and on a line of its own for any number of lines.
//! A command without output on the page may print anything. With `UNDERSTUDY_WRITE_DOCS=1` differences are
//! written into the page, except where it has a `…`: read the changes before you commit them.
//!
//! Commands that cannot run here (systemd, clusters, clouds, an installation) are in ```` ```sh ```` blocks:
//! their `understudy` lines are parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use understudy::cli::{parses, reference};
use understudy::service::config::{Config, SAMPLE};
use understudy::service::notify::event::Event;

const README_MAX_BYTES: u64 = 8192;
const PROSE_WIDTH: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns README and every page of docs, as paths from the root.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in
        walkdir::WalkDir::new(root().join("docs")).sort_by_file_name().into_iter().map(Result::unwrap)
    {
        let path = entry.path().strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if path.ends_with(".md") {
            pages.push(path);
        }
    }
    pages
}

/// A part of a page: text, a fenced block with its info string, or a comment that sets something up.
#[derive(Debug)]
enum Part {
    Line(String),
    Block {
        info: String,
        lines: Vec<String>,
        /// Number of the first line, from 0.
        first: usize,
        /// Number of blanks before each line.
        indent: usize,
    },
    Setup(String),
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let dedent = |line: &str| line.get(indent..).unwrap_or("").to_owned();
        if let Some(info) = line.trim_start().strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let (lines, info) = (inside.map(dedent).collect(), info.to_owned());
            parts.push(Part::Block { info, lines, first: number + 1, indent });
        } else if let Some(first) = line.trim_start().strip_prefix("<!-- setup:") {
            let mut script = first.to_owned();
            while !script.trim_end().ends_with("-->") {
                script += "\n";
                script += &dedent(lines.next().expect("a comment ends").1);
            }
            parts.push(Part::Setup(script.trim_end().trim_end_matches("-->").to_owned()));
        } else {
            parts.push(Part::Line(line.to_owned()));
        }
    }
    parts
}

// Running commands.

/// A command of a page, and its output on the page.
#[derive(Default)]
struct Step {
    script: String,
    shown: Vec<String>,
    code: i32,
    /// First line of its output on the page, and the number of blanks before each line.
    first: usize,
    indent: usize,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for part in parts(text) {
        match part {
            Part::Setup(script) => steps.push(Step { script, ..Default::default() }),
            Part::Block { info, lines, first, indent } if info == "console" => {
                let mut continues = false;
                for (line, first) in lines.iter().zip(first + 1..) {
                    if let Some(command) = line.strip_prefix("$ ") {
                        let code = command.split_once("# exits ").map_or("0", |(_, code)| code.trim());
                        let code = code.parse().unwrap_or_else(|_| panic!("{command}: no exit code"));
                        let script = command.to_owned();
                        steps.push(Step { script, code, first, indent, ..Default::default() });
                        continues = command.ends_with('\\');
                    } else if let Some(more) = line.strip_prefix("> ").filter(|_| continues) {
                        let step = steps.last_mut().unwrap();
                        let _ = write!(step.script, "\n{more}");
                        step.first = first;
                        continues = more.ends_with('\\');
                    } else {
                        steps.last_mut().expect("a block begins with a command").shown.push(line.clone());
                    }
                }
            }
            _ => {}
        }
    }
    steps
}

/// Runs the page's commands and returns the differences.
fn run_page(page: &str) -> Vec<String> {
    let text = read(page);
    let steps = steps(&text);
    if steps.is_empty() {
        return Vec::new();
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let program = env!("CARGO_BIN_EXE_understudy");
    let fixtures = root().join("fixtures");
    let mut script =
        format!("set -e\nmkdir -p {at}/bin {at}/out\nchmod 711 {at} {at}/bin\ntouch {at}/bin/understudy\n");
    // What other tests have mounted meanwhile is no mount of this host.
    let others = std::env::temp_dir();
    let _ = writeln!(
        script,
        "awk -v dir={}/ 'index($2, dir) == 1 {{ print $2 }}' /proc/self/mounts | tac |\n\
         while read -r mounted; do umount -l \"$(printf %b \"$mounted\")\" || true; done",
        others.display()
    );
    let _ = writeln!(script, "mount --bind {program} {at}/bin/understudy");
    let _ = writeln!(script, "mkdir {at}/fixtures; cp -a {}/store {at}/fixtures/", fixtures.display());
    for place in ["/root", "/srv", "/mnt", "/etc/understudy", "/var/lib/understudy"] {
        let _ = writeln!(script, "mkdir -p {at}/host{place} {place}; mount --bind {at}/host{place} {place}");
    }
    // The session has nothing of the user who runs the tests; tokens and caches are at their default places.
    let _ = writeln!(
        script,
        "export HOME=/root PATH={at}/bin:$PATH TZ=UTC FIXTURES={at}/fixtures\n\
         unset ${{!UNDERSTUDY_*}} ${{!XDG_*}} RUST_LOG\n\
         echo web-1 >/proc/sys/kernel/hostname\nip link set lo up\ncd /root\nset +e"
    );
    for (number, step) in steps.iter().enumerate() {
        let _ = writeln!(
            script,
            "{{\n{}\n}} >{at}/out/{number} 2>&1 </dev/null\necho $? >{at}/out/{number}.code",
            step.script
        );
    }
    script += "exit 0\n";
    let file = dir.path().join("script");
    std::fs::write(&file, script).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts", "bash"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{page}: {}", String::from_utf8_lossy(&output.stderr));
    let mut wrong = Vec::new();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // From the last step to the first, since rewriting a step moves those after it.
    for (number, step) in steps.iter().enumerate().rev() {
        let out = dir.path().join("out").join(number.to_string());
        let printed = String::from_utf8_lossy(&std::fs::read(&out).unwrap()).into_owned();
        let code = std::fs::read_to_string(out.with_extension("code")).unwrap();
        let code: i32 = code.trim().parse().unwrap();
        let shown: Vec<&str> = step.shown.iter().map(String::as_str).collect();
        if code != step.code || !shown.is_empty() && !matches(&shown, &printed.lines().collect::<Vec<_>>()) {
            wrong.push(format!(
                "{page}: $ {}\nexits {code}, should {}; prints\n{printed}\nwhere the page shows\n{}",
                step.script,
                step.code,
                shown.join("\n")
            ));
            if code == step.code && !shown.iter().any(|line| line.contains('…')) {
                let indent = " ".repeat(step.indent);
                let new = printed.lines().map(|line| format!("{indent}{line}"));
                lines.splice(step.first..step.first + shown.len(), new);
            }
        }
    }
    if !wrong.is_empty() && std::env::var_os("UNDERSTUDY_WRITE_DOCS").is_some() {
        std::fs::write(root().join(page), lines.join("\n") + "\n").unwrap();
    }
    wrong
}

/// Returns whether the lines of a page equal the printed ones, except for what may differ.
fn matches(shown: &[&str], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.iter().all(|line| line.trim().is_empty()),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((first, rest)) => match printed.split_first() {
            Some((line, others)) => line_matches(first, line) && matches(rest, others),
            None => first.trim().is_empty() && matches(rest, printed),
        },
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let printed = normal(printed);
    let parts: Vec<String> = shown.split('…').map(normal).collect();
    let Some((first, rest)) = parts.split_first() else { return false };
    let Some(mut left) = printed.strip_prefix(first.as_str()) else { return false };
    let Some((last, middle)) = rest.split_last() else { return left.is_empty() };
    for part in middle {
        match left.split_once(part.as_str()) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last.as_str())
}

/// Returns a line with `#` for every size, time, date, decimal, count of requests and key, and one blank
/// between words. Whole numbers stay.
fn normal(line: &str) -> String {
    const UNITS: [&str; 12] = ["B", "KiB", "MiB", "GiB", "ns", "ms", "s", "m", "h", "d", "%", "requests"];
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let (begin, core) = word.split_at(word.find(|c: char| c.is_alphanumeric()).unwrap_or(word.len()));
        let end = core.rfind(|c: char| c.is_alphanumeric() || c == '%').map_or(0, |at| at + 1);
        let (core, end) = core.split_at(end);
        let digits =
            core.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).unwrap_or(core.len());
        let (number, unit) = core.split_at(digits);
        let is_date = !number.is_empty()
            && core.len() >= 8
            && core.chars().all(|c| c.is_ascii_digit() || "-:TZ.".contains(c));
        let is_key = core.len() > 50 && core.starts_with("age1");
        let is_figure =
            !number.is_empty() && (UNITS.contains(&unit) || unit.is_empty() && number.contains('.'));
        if UNITS.contains(&core) && words.last().is_some_and(|last| is_number(last)) {
            let last = words.pop().unwrap();
            let before = &last[..last.find(|c: char| c.is_ascii_digit() || c == '#').unwrap_or(0)];
            words.push(format!("{before}#{end}"));
        } else if is_date || is_key || is_figure {
            words.push(format!("{begin}#{end}"));
        } else {
            words.push(word.to_owned());
        }
        // `1h 15m` counts like `44s`.
        if let [.., before, last] = words.as_slice()
            && before.ends_with('#')
            && last.starts_with('#')
        {
            let last = words.pop().unwrap();
            let before = words.pop().unwrap();
            words.push(format!("{}{last}", before.trim_end_matches('#')));
        }
    }
    words.join(" ")
}

fn is_number(word: &str) -> bool {
    let word = word.trim_start_matches('(');
    !word.is_empty() && (word == "#" || word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',')))
}

fn run_pages(wanted: impl Fn(&str) -> bool) {
    let wrong: Vec<_> = pages().iter().filter(|page| wanted(page)).flat_map(|page| run_page(page)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_command_of_the_readme_runs_and_prints_what_it_shows() {
    run_pages(|page| page == "README.md");
}

#[test]
fn every_command_of_the_how_tos_runs_and_prints_what_it_shows() {
    run_pages(|page| page.starts_with("docs/how-to/"));
}

#[test]
fn every_command_of_the_other_pages_runs_and_prints_what_it_shows() {
    run_pages(|page| page != "README.md" && !page.starts_with("docs/how-to/"));
}

#[test]
fn a_page_that_shows_other_output_is_noticed() {
    let same = |shown: &str, printed: &str| {
        matches(&shown.lines().collect::<Vec<_>>(), &printed.lines().collect::<Vec<_>>())
    };
    for (shown, printed) in [
        ("  23 entries, 517.95 KiB: 1 added", "  23 entries, 1.02 MiB: 1 added"),
        ("acme@1  2026-11-25 02:58:59   23", "acme@1 2027-01-05 12:00:00 23"),
        ("read (517.95 KiB), 0.02 s", "read (12 B), 11.30 s"),
        ("in 16 requests, 0.03 s", "in 14 requests, 1.00 s"),
        ("lag 1h 15m", "lag 44s"),
        ("a … z", "a b c z"),
        ("first\n…\nlast", "first\n1\n2\nlast"),
        ("{\"a\":1,…", "{\"a\":1,\"b\":2}"),
    ] {
        assert!(same(shown, printed), "{shown} | {printed}: {} | {}", normal(shown), normal(printed));
    }
    for (shown, printed) in [
        ("acme@1 committed", "acme@2 committed"),
        ("23 entries", "24 entries"),
        ("1 added", "1 removed"),
        ("sound", ""),
        ("", "sound"),
        ("first\nlast", "first\n1\nlast"),
        ("a … z", "a b c"),
        ("517.95 KiB", "none"),
    ] {
        assert!(!same(shown, printed), "{shown} | {printed}: {} | {}", normal(shown), normal(printed));
    }
}

// Parsing command lines.

/// Splits a line as a shell does, up to its first comment, pipe or redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, _) = (Vec::new(), None, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&' | '>') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Returns the arguments of a line that calls this program, also as another user or with variables set.
fn arguments(line: &str) -> Option<Vec<String>> {
    let words = words(line.trim_start_matches("$ "));
    if words.starts_with(&["cargo".to_owned(), "run".to_owned()]) {
        let at = words.iter().position(|word| word == "--")?;
        return Some(words[at + 1..].to_vec());
    }
    let is_before = |word: &&String| *word == "sudo" || word.contains('=') && !word.starts_with('-');
    let before = words.iter().take_while(is_before).count();
    let name = words.get(before)?;
    (name == "understudy" || name.ends_with("/understudy")).then(|| words[before + 1..].to_vec())
}

#[test]
fn every_command_that_does_not_run_here_parses() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut look = |page: &str, line: &str, may_be_short: bool| {
        let Some(args) = arguments(line) else { return };
        count += 1;
        if let Err(error) = parses(&args)
            && !(may_be_short && error.contains("required"))
        {
            wrong.push(format!("{page}: {line}\n{error}"));
        }
    };
    for page in pages().into_iter().chain(["SECURITY.md", "CONTRIBUTING.md"].map(String::from)) {
        for part in parts(&read(&page)) {
            match part {
                Part::Block { info, lines, .. } if info == "sh" => {
                    let whole = lines.join("\n").replace("\\\n", " ");
                    whole.lines().for_each(|line| look(&page, line, false));
                }
                // A command in running text may omit required arguments.
                Part::Line(line) => {
                    let spans = line.split('`').skip(1).step_by(2);
                    spans
                        .filter(|span| span.starts_with("understudy "))
                        .for_each(|span| look(&page, span, true));
                }
                _ => {}
            }
        }
    }
    assert!(count > 20 && wrong.is_empty(), "{count}: {}", wrong.join("\n"));
}

#[test]
fn every_block_says_what_it_is() {
    const KNOWN: [&str; 8] = ["console", "sh", "toml", "toml wrong", "text", "yaml", "json", "rust"];
    for page in pages() {
        for part in parts(&read(&page)) {
            if let Part::Block { info, lines, .. } = part {
                assert!(KNOWN.contains(&info.as_str()), "{page}: block of '{info}': {lines:?}");
            }
        }
    }
}

// Reading configurations.

#[test]
fn every_configuration_of_a_page_is_valid() {
    let mut count = 0;
    for page in pages() {
        for part in parts(&read(&page)) {
            if let Part::Block { info, lines, .. } = part
                && info == "toml"
            {
                count += 1;
                let text = lines.join("\n");
                if let Err(error) = Config::parse(&text, Path::new("understudy.toml")) {
                    panic!("{page}: {error}\n{text}");
                }
            }
        }
    }
    assert!(count > 5);
}

/// Each wrong configuration in fixtures/configurations begins with the text of its error.
#[test]
fn every_wrong_configuration_is_refused_with_words_that_help() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("fixtures/configurations")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted: Vec<_> = text.lines().map_while(|line| line.strip_prefix("# error: ")).collect();
        let found = Config::parse(&text, &path);
        if wanted.is_empty() {
            found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        } else {
            let error = found.expect_err(&path.display().to_string()).to_string();
            for words in wanted {
                assert!(error.contains(words), "{}: wanted '{words}': {error}", path.display());
            }
        }
        count += 1;
    }
    assert!(count >= 10);
}

/// Returns the keys that the parser knows in a table, by its error message.
fn keys_of(table: &str) -> BTreeSet<String> {
    let store = "[[store]]\nname = 'a'\npath = '/a'\n";
    let text = match table {
        "" => "no_such_key = 1\n".to_owned(),
        "[[store]]" => format!("{store}no_such_key = 1\n"),
        table if table.starts_with("[store.") || table.starts_with("[[store.") => {
            format!("{store}{table}\nno_such_key = 1\n")
        }
        table => format!("{table}\nno_such_key = 1\n"),
    };
    let error = Config::parse(&text, Path::new("x")).unwrap_err().to_string();
    let (_, known) = error.split_once("expected one of ").or_else(|| error.split_once("expected ")).unwrap();
    let known = known.lines().next().unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_of_the_configuration_is_in_the_sample_and_in_the_reference() {
    let page = read("docs/reference/configuration.md");
    let tables = [
        "",
        "[limits]",
        "[standby]",
        "[service]",
        "[[notify]]\nkind = 'webhook'",
        "[[notify]]\nkind = 'slack'",
        "[[notify]]\nkind = 'email'",
        "[[notify]]\nkind = 'ping'",
        "[panel]",
        "[panel.handover]",
        "[panel.proxy]",
        "[[panel.proxy.user]]",
        "[[store]]",
        "[store.hooks]",
        "[store.retention]",
        "[store.upkeep]",
        "[store.drill]",
        "[store.drill.site]",
        "[store.member]",
        "[store.fence]",
        "[store.replica]",
        "[store.stranded]",
        "[[store.service]]",
        "[store.gate]",
        "[store.database]",
        "[store.database.serve]",
        "[store.database.reports]",
        "[store.database.drill]",
        "[[store.database.media]]",
        "[[store.probe]]\nkind = 'http'",
        "[[store.probe]]\nkind = 'tcp'",
        "[[store.probe]]\nkind = 'command'",
        "[[store.probe]]\nkind = 'disk'",
        "[store.watch]",
        "[[store.edge]]\nkind = 'cloudfront'",
        "[[store.edge]]\nkind = 'command'",
        "[[store.edge]]\nkind = 'haproxy'",
        "[[store.edge]]\nkind = 'nginx'",
        "[[store.edge]]\nkind = 'route53'",
    ];
    for table in tables {
        let heading = match table.split_once("\nkind = ") {
            _ if table.is_empty() => "## The file".to_owned(),
            Some((table, kind)) => format!("## `{table}`, kind `{}`", kind.trim_matches('\'')),
            None => format!("## `{table}`"),
        };
        let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no heading '{heading}'"));
        let section = section.split("\n## ").next().unwrap();
        let told: BTreeSet<String> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key.to_owned()))
            .collect();
        // Tables have a section of their own.
        let is_table = |key: &String| {
            [
                "limits",
                "standby",
                "service",
                "panel",
                "handover",
                "proxy",
                "store",
                "hooks",
                "retention",
                "upkeep",
                "drill",
                "site",
                "member",
                "fence",
                "replica",
                "stranded",
                "edge",
                "gate",
                "database",
                "serve",
                "reports",
                "media",
                "probe",
                "watch",
                "notify",
            ]
            .contains(&key.as_str())
                && ![("[store.database]", "fence"), ("[store.member]", "database")]
                    .contains(&(table, key.as_str()))
        };
        let known: BTreeSet<String> = keys_of(table)
            .into_iter()
            .filter(|key| !is_table(key) && (table, key.as_str()) != ("[panel.proxy]", "user"))
            .collect();
        assert_eq!(told, known, "docs/reference/configuration.md, {heading}");
        for key in known {
            let is_there = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            assert!(SAMPLE.lines().any(is_there), "understudy.sample.toml: no {key} of {table}");
        }
    }
}

// Checking the references.

#[test]
fn the_commands_reference_is_what_the_program_says() {
    let path = root().join("docs/reference/commands.md");
    let wanted = reference();
    if std::env::var_os("UNDERSTUDY_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "docs/reference/commands.md is not what the program says: {differs:?}; \
         UNDERSTUDY_WRITE_REFERENCE=1 cargo nextest run commands_reference writes it"
    );
}

/// Returns the words of a text that begin with `prefix`.
fn words_with<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_word(c));
    words.filter(|word| word.len() > prefix.len() && word.starts_with(prefix)).collect()
}

#[test]
fn every_figure_for_prometheus_is_in_the_reference() {
    let (source, page) = (read("src/service/metrics.rs"), read("docs/reference/metrics.md"));
    let sources = words_with(&source, "understudy_");
    assert!(sources.len() > 20);
    assert_eq!(words_with(&page, "understudy_"), sources);
}

#[test]
fn every_event_that_is_notified_is_on_its_page() {
    let page = read("docs/how-to/notify.md");
    let (_, section) = page.split_once("## Events").unwrap();
    let rows = section.split("\n## ").next().unwrap().lines();
    let told: Vec<_> = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(told, Event::ALL.map(Event::name));
}

#[test]
fn every_path_of_the_api_is_in_the_reference() {
    let described: serde_json::Value = serde_json::from_str(&read("src/api/openapi.json")).unwrap();
    let page = read("docs/reference/http-api.md");
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in
            methods.as_object().unwrap().keys().filter(|key| ["get", "post"].contains(&key.as_str()))
        {
            let wanted = format!("| `{} {path}` |", method.to_uppercase());
            assert!(page.contains(&wanted), "docs/reference/http-api.md: no {wanted}");
        }
    }
}

// Checking the form of pages.

#[test]
fn the_readme_is_short() {
    let length = std::fs::metadata(root().join("README.md")).unwrap().len();
    assert!(length <= README_MAX_BYTES, "README.md: {length} bytes");
}

#[test]
fn lines_of_prose_are_not_wider_than_a_screen() {
    let mut wrong = Vec::new();
    for page in pages().into_iter().filter(|page| page != "docs/reference/commands.md") {
        for part in parts(&read(&page)) {
            if let Part::Line(line) = part
                && !line.starts_with('|')
                && line.chars().count() > PROSE_WIDTH
            {
                wrong.push(format!("{page}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_summary_lists_every_page_once() {
    let summary = read("docs/SUMMARY.md");
    let mut listed: Vec<String> = links(&summary).into_iter().map(|link| format!("docs/{link}")).collect();
    listed.sort();
    let mut there: Vec<String> =
        pages().into_iter().filter(|page| page.starts_with("docs/") && page != "docs/SUMMARY.md").collect();
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn the_design_names_every_folder_of_the_source() {
    let page = read("docs/explanation/design.md");
    let (_, section) = page.split_once("## The source tree").unwrap();
    let named: BTreeSet<&str> = section.split_whitespace().collect();
    for entry in std::fs::read_dir(root().join("src")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            !entry.path().is_dir() || named.contains(name.as_str()),
            "docs/explanation/design.md: no src/{name}"
        );
    }
}

/// The glossary is sorted, and has each word once.
#[test]
fn the_glossary_lists_each_word_once_in_order() {
    let text = read("docs/glossary.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let words: Vec<String> = rows.map(|(word, _)| word.to_lowercase()).skip(2).collect();
    assert!(words.len() > 60 && words.is_sorted_by(|before, after| before < after), "{words:?}");
}

/// Returns the targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for part in parts(text) {
        let Part::Line(line) = part else { continue };
        // Code contains no links.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = prose.split("](").skip(1);
        links.extend(targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned())));
    }
    links
}

/// Returns the anchors of a page's headings, as forges and mdbook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for part in parts(text) {
        let Part::Line(line) = part else { continue };
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let anchor: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let count = counts.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

#[test]
fn every_link_leads_somewhere() {
    let others = ["SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "src/format/FORMAT.md"].map(String::from);
    let mut wrong = Vec::new();
    for page in pages().into_iter().chain(others) {
        let text = read(&page);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(p, a)| (p, Some(a)));
            let target: PathBuf = match path {
                "" => root().join(&page),
                path => root().join(&page).parent().unwrap().join(path),
            };
            let is_there = target.exists();
            let is_anchor = anchor.is_none_or(|anchor| {
                std::fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor))
            });
            if !is_there || !is_anchor {
                wrong.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each table of figures names the program of benches/ that makes it.
#[test]
fn every_table_of_the_benchmarks_names_its_bench() {
    let text = read("docs/benchmarks.md");
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        if !section.contains("| --- |") {
            continue;
        }
        let named: Vec<_> = section
            .split('`')
            .filter(|span| span.contains("benches/") || span.contains("cargo bench --bench"))
            .collect();
        assert!(!named.is_empty(), "'{title}' names no bench");
        for span in named {
            let file = span.split_whitespace().find(|word| word.starts_with("benches/")).map(str::to_owned);
            let bench =
                || span.split("--bench ").nth(1)?.split(' ').next().map(|name| format!("benches/{name}.rs"));
            let file = file.or_else(bench).unwrap_or_else(|| panic!("'{title}': {span}"));
            assert!(root().join(&file).is_file(), "'{title}': no {file}");
        }
    }
}
