//! What must exist at CloudFront: told, made, and checked.
//!
//! The check tries the writes as well, with a version that no thing there has: AWS looks at the permission first,
//! and then refuses the version, so nothing is changed.

use super::access::{Access, TRIES, is_outdated};
use super::control::{Function, Stage};
use super::distribution::{Distribution, mark_of};
use super::function;
use super::names::FunctionName;
use super::needs::{Missing, missing};
use super::store::KeyValueStore;
use crate::edge::aws::client::CallFailure;
use crate::edge::context::Deadline;
use crate::edge::error::EdgeError;
use crate::edge::switch::{Finding, Setup};
use crate::model::escape;
use crate::model::id::Epoch;

/// A version that nothing has.
const NO_ETAG: &str = "understudy-check";
/// Maximum number of changes of one setup.
const CHANGES_MAX: usize = 256;

/// Looks at everything that a switch needs.
pub(super) fn check(edge: &Access) -> Vec<Finding> {
    let deadline = Deadline::of(&edge.context.env, edge.limit);
    let mut found = Vec::new();
    let distribution = edge.control.config(&edge.client, &deadline).map(|(distribution, _)| distribution);
    let arn = match &edge.key_value_store {
        Some(keys) => {
            check_keys(edge, keys, &deadline, &mut found);
            let code = code(edge, keys, distribution.as_ref().ok());
            check_function(edge, keys, &code, &deadline, &mut found)
        }
        None => {
            found.push(Finding::good(
                "without `key_value_store` a switch is an update of the distribution, which takes minutes",
            ));
            None
        }
    };
    match distribution {
        Ok(distribution) => check_distribution(edge, distribution, arn.as_deref(), &deadline, &mut found),
        Err(failure) => {
            found.push(Finding::wrong(failure.into_error(&edge.name, "reading the distribution")));
        }
    }
    found
}

/// Returns the code of the function, with the further headers of the first origin that is there.
fn code(edge: &Access, keys: &KeyValueStore, distribution: Option<&Distribution>) -> String {
    let headers = distribution.and_then(|distribution| {
        let origin = edge.config.origins.iter().find_map(|wanted| distribution.origin(&wanted.id))?;
        Some(distribution.other_headers(&origin))
    });
    function::code(&keys.key, &headers.unwrap_or_default())
}

fn check_keys(edge: &Access, keys: &KeyValueStore, deadline: &Deadline, found: &mut Vec<Finding>) {
    let read = || -> Result<Option<String>, EdgeError> {
        keys.etag(&edge.client, deadline).map_err(edge.error("reading the key value store"))?;
        let mark = keys.mark(&edge.client, deadline).map_err(edge.error("reading the key"))?;
        Ok(mark.map(|mark| mark.to_string()))
    };
    match read() {
        Ok(Some(mark)) => found.push(Finding::good(format!("key '{}' holds {mark}", keys.key))),
        Ok(None) => found.push(Finding::good(format!("key '{}' is written by the first switch", keys.key))),
        Err(error) => return found.push(Finding::wrong(error)),
    }
    if let Some(origin) = edge.config.origins.first()
        && let Ok(mark) = mark_of(origin, Epoch(0))
        && let Err(failure) = keys.put(&edge.client, &mark, NO_ETAG, deadline)
        && !(failure.is(409) || failure.is(412) || failure.is(400))
    {
        found.push(Finding::wrong(failure.into_error(&edge.name, "trying to write the key")));
    }
}

/// Returns the function's ARN.
fn check_function(
    edge: &Access,
    keys: &KeyValueStore,
    code: &str,
    deadline: &Deadline,
    found: &mut Vec<Finding>,
) -> Option<String> {
    let name = &edge.function;
    let live = match edge.control.function(&edge.client, name, Stage::Live, deadline) {
        Ok(Some(live)) => live,
        Ok(None) => {
            found.push(Finding::wrong(format!(
                "there is no published function '{name}': run `understudy edge setup` with `--apply`"
            )));
            return None;
        }
        Err(failure) => {
            found.push(Finding::wrong(failure.into_error(&edge.name, "reading the function")));
            return None;
        }
    };
    if !live.stores.contains(&keys.arn.to_string()) {
        found.push(Finding::wrong(format!("function '{name}' is not associated with {}", keys.arn)));
    }
    match edge.control.code(&edge.client, name, Stage::Live, deadline) {
        Ok(there) if there.as_deref() == Some(code) => {
            found.push(Finding::good(format!("function '{name}' is published")));
        }
        Ok(_) if edge.config.function.is_some() => found.push(Finding::good(format!(
            "function '{name}' has code of its own: it must contain what `understudy edge setup` prints"
        ))),
        Ok(_) => found.push(Finding::wrong(format!(
            "function '{name}' has other code: run `understudy edge setup` with `--apply`"
        ))),
        Err(failure) => found.push(Finding::wrong(failure.into_error(&edge.name, "reading the function"))),
    }
    Some(live.arn)
}

fn check_distribution(
    edge: &Access,
    distribution: Distribution,
    arn: Option<&str>,
    deadline: &Deadline,
    found: &mut Vec<Finding>,
) {
    let origins = &edge.config.origins;
    let missing = missing(&distribution, origins, arn);
    found.extend(missing.into_iter().map(|missing| Finding::wrong(missing.what)));
    // What it lacks was told.
    if let Ok(there) = distribution.there(origins) {
        let mark = there.mark.map_or("no mark yet".to_owned(), |mark| mark.to_string());
        let part = if there.is_whole || mark == "no mark yet" { "" } else { ", in some behaviours only" };
        found.push(Finding::good(format!("the distribution holds {mark}{part}")));
    }
    match edge.control.update(&edge.client, distribution.text, NO_ETAG, deadline) {
        Err(failure) if is_outdated(&failure) => {}
        Err(failure) => {
            found.push(Finding::wrong(failure.into_error(&edge.name, "trying to update the distribution")));
        }
        Ok(()) => {
            found.push(Finding::wrong("AWS takes an update of an outdated version: it does not compare"))
        }
    }
    match edge.control.is_deployed(&edge.client, deadline) {
        Ok(true) => found.push(Finding::good("the distribution is deployed")),
        Ok(false) => found.push(Finding::good("the distribution is on its way to the points of presence")),
        Err(failure) => {
            found.push(Finding::wrong(failure.into_error(&edge.name, "reading the distribution")))
        }
    }
}

/// Tells what must exist, or makes it. Returns lines for a person.
pub(super) fn setup(edge: &Access, what: &Setup) -> Result<Vec<String>, EdgeError> {
    let (apply, deadline) = (what.apply, Deadline::of(&edge.context.env, edge.limit));
    let mut lines = Vec::new();
    if let Some(name) = &what.key_value_store {
        setup_store(edge, name, apply, &deadline, &mut lines)?;
    }
    let arn = match &edge.key_value_store {
        Some(keys) => {
            keys.etag(&edge.client, &deadline).map_err(edge.error("reading the key value store"))?;
            let read = edge.control.config(&edge.client, &deadline);
            let (distribution, _) = read.map_err(edge.error("reading the distribution"))?;
            let code = code(edge, keys, Some(&distribution));
            setup_function(edge, keys, &code, apply, &deadline, &mut lines)?
        }
        None => {
            lines.push(
                "no `key_value_store` is configured, so a switch takes minutes: `--key-value-store NAME` makes one"
                    .into(),
            );
            None
        }
    };
    setup_distribution(edge, arn.as_deref(), apply, &deadline, &mut lines)?;
    Ok(lines)
}

/// Makes a key value store of a name, unless there is one, and tells how it is configured.
fn setup_store(
    edge: &Access,
    name: &str,
    apply: bool,
    deadline: &Deadline,
    lines: &mut Vec<String>,
) -> Result<(), EdgeError> {
    let name = FunctionName::parse(name).map_err(|_| {
        EdgeError::wrong(&edge.name, "a key value store's name has letters, digits, '-' and '_'")
    })?;
    let found = edge.control.store_arn(&edge.client, &name, deadline);
    let arn = match found.map_err(edge.error("reading the key value store"))? {
        None if !apply => {
            lines.push(format!("key value store '{name}' is missing"));
            return Ok(());
        }
        None => {
            let made = edge.control.make_store(&edge.client, &name, deadline);
            made.map_err(edge.error("making the key value store"))?
        }
        Some(arn) => arn,
    };
    if edge.key_value_store.as_ref().is_none_or(|keys| keys.arn.to_string() != arn) {
        lines.push(format!("for the configuration: key_value_store = \"{arn}\"; then set up once more"));
    }
    Ok(())
}

/// Returns the function's ARN, if there is one.
fn setup_function(
    edge: &Access,
    keys: &KeyValueStore,
    code: &str,
    apply: bool,
    deadline: &Deadline,
    lines: &mut Vec<String>,
) -> Result<Option<String>, EdgeError> {
    let name = &edge.function;
    // The values of further headers, which may be secrets, are not shown.
    let shown = function::code(&keys.key, &[]);
    let find = |stage| -> Result<(Option<Function>, bool), EdgeError> {
        let wrong = edge.error("reading the function");
        let found = edge.control.function(&edge.client, name, stage, deadline).map_err(&wrong)?;
        let there = edge.control.code(&edge.client, name, stage, deadline).map_err(&wrong)?;
        let is_ours = there.as_deref() == Some(code)
            && found.as_ref().is_some_and(|found| found.stores.contains(&keys.arn.to_string()));
        Ok((found, is_ours))
    };
    let (live, is_live) = find(Stage::Live)?;
    if is_live {
        return Ok(live.map(|live| live.arn));
    }
    if edge.config.function.is_some() && live.is_some() {
        lines.push(format!(
            "by hand: function '{name}' is not understudy's, and must do as this one, and send the origins' further custom headers:\n{shown}"
        ));
        return Ok(live.map(|live| live.arn));
    }
    if !apply {
        lines.push(format!("function '{name}' is missing or outdated; its code, without the origins' further custom headers:\n{shown}"));
        return Ok(live.map(|live| live.arn));
    }
    let (development, is_written) = find(Stage::Development)?;
    if !is_written {
        let etag = development.as_ref().map(|function| function.etag.as_str());
        edge.control
            .write_function(&edge.client, name, (code, &keys.arn), etag, deadline)
            .map_err(edge.error("writing the function"))?;
    }
    let (Some(written), _) = find(Stage::Development)? else {
        return Err(EdgeError::refused(
            &edge.name,
            format!("function '{name}' was written and is not there"),
        ));
    };
    edge.control
        .publish(&edge.client, name, &written.etag, deadline)
        .map_err(edge.error("publishing the function"))?;
    lines.push(format!("function '{name}' is published"));
    Ok(Some(written.arn))
}

fn setup_distribution(
    edge: &Access,
    arn: Option<&str>,
    apply: bool,
    deadline: &Deadline,
    lines: &mut Vec<String>,
) -> Result<(), EdgeError> {
    let wrong = |reason: String| EdgeError::refused(&edge.name, reason);
    let mut tries = 0;
    loop {
        let (distribution, etag) =
            edge.control.config(&edge.client, deadline).map_err(edge.error("reading the distribution"))?;
        let (distribution, done, left) = mended(distribution, edge, arn).map_err(wrong)?;
        let refused: Option<CallFailure> = match apply && !done.is_empty() {
            true => edge.control.update(&edge.client, distribution.text, &etag, deadline).err(),
            false => None,
        };
        match refused {
            Some(failure) if is_outdated(&failure) && tries < TRIES => {
                tries += 1;
                edge.wait();
            }
            Some(failure) => return Err(failure.into_error(&edge.name, "updating the distribution")),
            None => {
                let word = if apply { "mended" } else { "to be mended" };
                lines.extend(done.iter().map(|what| format!("{word}: {what}")));
                lines.extend(left.iter().map(|what| format!("by hand: {what}")));
                return Ok(());
            }
        }
    }
}

/// Returns the configuration with all that can be mended, what that was, and what is left.
fn mended(
    mut distribution: Distribution,
    edge: &Access,
    arn: Option<&str>,
) -> Result<(Distribution, Vec<String>, Vec<String>), String> {
    let mut done = Vec::new();
    for _ in 0..CHANGES_MAX {
        let all = missing(&distribution, &edge.config.origins, arn);
        let plain = |missing: &Missing| escape::line(&missing.what).into_owned();
        match all.iter().find_map(|missing| Some((plain(missing), missing.changes.clone()?))) {
            Some((what, changes)) => {
                distribution = distribution.after(changes)?;
                done.push(what);
            }
            None => return Ok((distribution, done, all.iter().map(plain).collect())),
        }
    }
    Err("the configuration needs more changes than this program makes".into())
}
