//! What must be in a distribution for a switch to work, and what is missing there. Pure.

use super::distribution::{Distribution, Origin, domain_of};
use super::function;
use crate::edge::ask::EPOCH_HEADER;
use crate::edge::aws::xml::{Change, Element, changed};
use crate::edge::config::OriginConfig;
use quick_xml::escape::escape;

/// The statuses of a host that does not serve, or of one that cannot be reached.
const STATUSES: [u16; 3] = [502, 503, 504];
/// Maximum number of seconds for which CloudFront may keep such an answer.
const KEPT_MAX_SECONDS: u64 = 1;

/// Something that is missing.
#[derive(Debug)]
pub(crate) struct Missing {
    pub what: String,
    /// The changes that mend it; none where a person must.
    pub changes: Option<Vec<Change>>,
}

/// Returns what is missing. `function` is the ARN of the function that must be associated.
pub(crate) fn missing(
    distribution: &Distribution,
    origins: &[OriginConfig],
    function: Option<&str>,
) -> Vec<Missing> {
    let mut all = Vec::new();
    for wanted in origins {
        match distribution.origin(&wanted.id) {
            None => all.push(without_origin(distribution, origins, wanted)),
            Some(origin) => all.extend(wrong_origin(distribution, wanted, &origin)),
        }
    }
    all.extend(STATUSES.iter().filter_map(|status| kept_errors(distribution, *status)));
    let behaviours = distribution.behaviours(origins);
    if behaviours.is_empty() {
        let what =
            "no behaviour sends requests to any of the store's origins: choose one as its origin".into();
        all.push(Missing { what, changes: None });
    }
    if let Some(arn) = function {
        all.extend(unlike_headers(distribution, origins));
        let missing =
            behaviours.iter().filter_map(|b| without_function(distribution, &b.path, b.element, arn));
        all.extend(missing);
    }
    all
}

/// An origin is made like another one of the store's: the two must be alike but for their names.
fn without_origin(distribution: &Distribution, all: &[OriginConfig], wanted: &OriginConfig) -> Missing {
    let what = format!("origin '{}' ({}) is missing", wanted.id, domain_of(&wanted.address));
    let like = all.iter().find_map(|other| distribution.origin(&other.id));
    let list = distribution.root().child("Origins");
    let (Some(like), Some(list)) = (like, list) else {
        let what = format!("{what}: make the first of the store's origins by hand");
        return Missing { what, changes: None };
    };
    let base = like.element.whole.start;
    let here = |change: Change| Change { at: change.at.start - base..change.at.end - base, ..change };
    let mut changes: Vec<Change> = Vec::new();
    for (name, value) in [("Id", wanted.id.to_string()), ("DomainName", domain_of(&wanted.address))] {
        changes.extend(like.element.child(name).map(|element| here(element.with_value(&value))));
    }
    changes.extend(distribution.epoch_header(&like).map(|(element, _)| here(element.with_value("0"))));
    let text = changed(&distribution.text[like.element.whole.clone()], changes);
    Missing { what: format!("{what}: it is made like '{}'", like.id), changes: Some(list.with_item(&text)) }
}

fn wrong_origin(distribution: &Distribution, wanted: &OriginConfig, origin: &Origin<'_>) -> Vec<Missing> {
    let mut all = Vec::new();
    let domain = domain_of(&wanted.address);
    if !origin.domain.eq_ignore_ascii_case(&domain) {
        let what = format!(
            "origin '{}' is at '{}', and the configuration says '{domain}'",
            origin.id, origin.domain
        );
        all.push(Missing { what, changes: None });
    }
    let custom = origin.element.child("CustomOriginConfig");
    let port = |name| custom.and_then(|custom| custom.value_of(name, &distribution.text));
    let ports = ["HTTPPort", "HTTPSPort"].map(port);
    let is_port = |found: &&str| found.parse() == Ok(wanted.address.port());
    if custom.is_some() && !ports.iter().flatten().map(AsRef::as_ref).any(|found: &str| is_port(&found)) {
        let what = format!("origin '{}' is not asked at port {}", origin.id, wanted.address.port());
        all.push(Missing { what, changes: None });
    }
    match distribution.epoch_header(origin) {
        Some((_, value)) if crate::edge::mark::parse_epoch(&value).is_some() => {}
        Some(_) => {
            let what =
                format!("the {EPOCH_HEADER} of origin '{}' is no number: give it the value 0", origin.id);
            all.push(Missing { what, changes: None });
        }
        None => {
            let what = format!("origin '{}' has no custom header {EPOCH_HEADER}", origin.id);
            let header = format!(
                "<OriginCustomHeader><HeaderName>{EPOCH_HEADER}</HeaderName><HeaderValue>0</HeaderValue></OriginCustomHeader>"
            );
            let changes = in_list(origin.element, "CustomHeaders", &header);
            all.push(Missing { what, changes: Some(changes) });
        }
    }
    all
}

/// The function sends one set of headers to whichever origin.
fn unlike_headers(distribution: &Distribution, origins: &[OriginConfig]) -> Option<Missing> {
    let there: Vec<_> = origins.iter().filter_map(|wanted| distribution.origin(&wanted.id)).collect();
    let first = distribution.other_headers(there.first()?);
    let unlike = there.iter().find(|origin| distribution.other_headers(origin) != first)?;
    let what = format!(
        "origin '{}' has other custom headers than '{}': the function sends the same ones to both, so make them alike",
        unlike.id,
        there.first()?.id
    );
    Some(Missing { what, changes: None })
}

/// An answer that says that a host does not serve must not be kept after another one does.
fn kept_errors(distribution: &Distribution, status: u16) -> Option<Missing> {
    let text = &distribution.text;
    let list = distribution.root().child("CustomErrorResponses");
    let is_it = |element: &&Element| {
        element.value_of("ErrorCode", text).is_some_and(|code| code.parse() == Ok(status))
    };
    let what = format!("CloudFront may keep an answer with status {status} for longer than a second");
    let Some(found) = list.map_or(&[][..], Element::items).iter().find(is_it) else {
        let item = format!(
            "<CustomErrorResponse><ErrorCode>{status}</ErrorCode><ErrorCachingMinTTL>0</ErrorCachingMinTTL></CustomErrorResponse>"
        );
        let changes = in_list(distribution.root(), "CustomErrorResponses", &item);
        return Some(Missing { what, changes: Some(changes) });
    };
    let change = match found.child("ErrorCachingMinTTL") {
        Some(seconds) => {
            let value = seconds.value(text).unwrap_or_default();
            let is_short = value.parse().is_ok_and(|seconds: u64| seconds <= KEPT_MAX_SECONDS);
            (!is_short).then(|| seconds.with_value("0"))
        }
        None => Some(found.with_child("<ErrorCachingMinTTL>0</ErrorCachingMinTTL>")),
    };
    change.map(|change| Missing { what, changes: Some(vec![change]) })
}

fn without_function(
    distribution: &Distribution,
    path: &str,
    behaviour: &Element,
    arn: &str,
) -> Option<Missing> {
    let text = &distribution.text;
    let list = behaviour.child("FunctionAssociations").map_or(&[][..], Element::items);
    let is_event =
        |element: &&Element| element.value_of("EventType", text).is_some_and(|e| e == function::EVENT);
    match list.iter().find(is_event).and_then(|found| found.value_of("FunctionARN", text)) {
        Some(found) if found == arn => None,
        Some(found) => {
            let what = format!(
                "behaviour '{path}' has another function at {} already ({found}): put the code of `understudy edge setup` into it, and name it as `function`",
                function::EVENT
            );
            Some(Missing { what, changes: None })
        }
        None => {
            let item = format!(
                "<FunctionAssociation><FunctionARN>{}</FunctionARN><EventType>{}</EventType></FunctionAssociation>",
                escape(arn),
                function::EVENT
            );
            let changes = in_list(behaviour, "FunctionAssociations", &item);
            Some(Missing {
                what: format!("behaviour '{path}' does not run the function"),
                changes: Some(changes),
            })
        }
    }
}

/// Returns the changes that append an item to a list of an element, which may not have that list.
fn in_list(element: &Element, list: &str, item: &str) -> Vec<Change> {
    match element.child(list) {
        Some(list) => list.with_item(item),
        None => {
            let list = format!("<{list}><Quantity>1</Quantity><Items>{item}</Items></{list}>");
            vec![element.with_child(&list)]
        }
    }
}
