//! Hooks: when they run, how they end, and what they leave behind.

use std::path::Path;
use std::time::{Duration, Instant};
use understudy::model::id::StoreName;
use understudy::service::config::Hooks;
use understudy::service::hooks::{HookContext, HookError, around};
use understudy::support::env::Env;

fn with(
    before: &str,
    after: &str,
    work: impl FnOnce() -> Result<u32, HookError>,
) -> Result<(u32, Option<HookError>), HookError> {
    with_stop(before, after, &|| false, work)
}

fn with_stop(
    before: &str,
    after: &str,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> Result<u32, HookError>,
) -> Result<(u32, Option<HookError>), HookError> {
    let shell = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
    let hooks =
        Hooks { before: shell(before), after: shell(after), timeout_seconds: Some(1), ..Hooks::default() };
    let store = StoreName::parse("acme").unwrap();
    let this = Path::new(env!("CARGO_BIN_EXE_understudy"));
    around(
        &hooks,
        &HookContext { store: &store, path: Path::new("/srv"), this, env: &Env::system() },
        stop,
        work,
    )
}

#[test]
fn a_hook_that_fails_before_stops_the_run_and_the_one_after_always_runs() {
    let dir = tempfile::tempdir().unwrap();
    let noted = dir.path().join("noted");
    let note = format!("echo $UNDERSTUDY_STORE $UNDERSTUDY_PATH $UNDERSTUDY_OUTCOME >> {}", noted.display());
    assert_eq!(with("true", &note, || Ok(7)).unwrap().0, 7);
    let error = with("echo no freeze >&2; exit 3", &note, || panic!("it must not run")).unwrap_err();
    assert!(error.to_string().contains("exit status: 3: no freeze"), "{error}");
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), "acme /srv done\nacme /srv failed\n");
    // The result of the work stays, whatever the hook after it returns.
    let (done, failed) = with("true", "false", || Ok(7)).unwrap();
    assert_eq!(done, 7);
    let error = failed.unwrap();
    assert!(error.to_string().contains("`after`"), "{error}");
}

#[test]
fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
    let begun = Instant::now();
    let error = with("sleep 100 & sleep 100", "true", || Ok(7)).unwrap_err();
    assert!(error.to_string().contains("took longer than 1 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// A time that suffices for any machine, and is a tenth of the helpers' run time.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_helper_that_keeps_standard_error_open_holds_nobody_up() {
    for (hook, told) in [
        ("setsid sleep 300 & echo cannot freeze >&2; exit 1", "exit status: 1: cannot freeze"),
        ("setsid sleep 300 & echo it takes long >&2; sleep 300", "took longer than 1 s: it takes long"),
        // The helper continues to write; the output until the hook's end is reported.
        ("setsid sh -c 'for n in $(seq 300); do echo again; sleep 1; done' >&2 & sleep 0.5; exit 1", "again"),
    ] {
        let begun = Instant::now();
        let error = with(hook, "true", || panic!("it must not run")).unwrap_err();
        assert!(error.to_string().contains(told), "{hook}: {error}");
        assert!(begun.elapsed() < SOON, "{hook}");
    }
    let begun = Instant::now();
    assert_eq!(with("setsid sleep 300 & exit 0", "setsid sleep 300 &", || Ok(7)).unwrap().0, 7);
    assert!(begun.elapsed() < SOON);
}

#[test]
fn a_hook_that_says_more_than_a_pipe_holds_goes_on_and_its_first_words_are_told() {
    let error =
        with("(echo first; seq 100000) >&2; exit 5", "true", || panic!("it must not run")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status: 5: first") && text.len() < 3000, "{text}");
}

#[test]
fn who_is_asked_to_end_waits_for_no_hook_but_the_one_that_undoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let noted = dir.path().join("noted");
    let after = format!("sleep 0.2; echo $UNDERSTUDY_OUTCOME > {}", noted.display());
    let error = with_stop("sleep 300", &after, &|| true, || panic!("it must not run")).unwrap_err();
    assert!(error.to_string().contains("this process is shutting down"), "{error}");
    assert_eq!(std::fs::read_to_string(noted).unwrap(), "failed\n");
}
