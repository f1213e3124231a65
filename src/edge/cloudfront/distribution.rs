//! A distribution's configuration: what is read from it, and the few places that are changed. Pure.
//!
//! An update replaces the whole configuration, so the text that came is the text that goes back: only the target
//! of a behaviour and the value of a header are other ones. What is not known here stays as it is.
//!
//! The epoch stands in a custom header of the origin that was given it, and the origin that is left keeps its
//! own, older one. So the origin with the highest epoch is the one that the mark names, and a point of presence
//! that still sends requests to the old host tells it the old epoch.

use super::names::OriginId;
use crate::edge::address::Address;
use crate::edge::ask::EPOCH_HEADER;
use crate::edge::aws::xml::{Change, Element, changed};
use crate::edge::config::OriginConfig;
use crate::edge::mark::{Mark, PlainHost, parse_epoch};
use crate::edge::switch::There;
use crate::model::id::{Epoch, WriterId};

/// A configuration as it came.
pub(crate) struct Distribution {
    pub text: String,
    root: Element,
}

/// An origin in it.
pub(crate) struct Origin<'a> {
    pub id: String,
    pub domain: String,
    pub element: &'a Element,
}

/// A cache behaviour in it.
pub(crate) struct Behaviour<'a> {
    /// Its path pattern.
    pub path: String,
    pub target: String,
    pub element: &'a Element,
}

impl Distribution {
    /// Parses a configuration. An error is a reason in words.
    pub fn parse(text: String) -> Result<Self, String> {
        let root = Element::parse(&text)?;
        match root.name == "DistributionConfig" {
            true => Ok(Self { text, root }),
            false => Err(format!("it is no configuration of a distribution but a '{}'", root.name)),
        }
    }

    pub fn root(&self) -> &Element {
        &self.root
    }

    fn value_of(&self, element: &Element, name: &str) -> String {
        element.value_of(name, &self.text).unwrap_or_default().into_owned()
    }

    pub fn origins(&self) -> Vec<Origin<'_>> {
        let elements = self.root.child("Origins").map_or(&[][..], Element::items);
        let origin = |element| {
            let (id, domain) = (self.value_of(element, "Id"), self.value_of(element, "DomainName"));
            Origin { id, domain, element }
        };
        elements.iter().map(origin).collect()
    }

    pub fn origin(&self, id: &OriginId) -> Option<Origin<'_>> {
        self.origins().into_iter().find(|origin| origin.id == id.as_str())
    }

    /// Returns the behaviours that send requests to one of these origins.
    pub fn behaviours(&self, origins: &[OriginConfig]) -> Vec<Behaviour<'_>> {
        let others = self.root.child("CacheBehaviors").map_or(&[][..], Element::items);
        let behaviour = |element| {
            let path = element_path(element, &self.text);
            Behaviour { path, target: self.value_of(element, "TargetOriginId"), element }
        };
        let all = self.root.child("DefaultCacheBehavior").into_iter().chain(others).map(behaviour);
        all.filter(|behaviour| origins.iter().any(|origin| origin.id.as_str() == behaviour.target)).collect()
    }

    /// Returns the value of an origin's epoch header; none where it has no such header.
    pub fn epoch_header<'a>(&self, origin: &Origin<'a>) -> Option<(&'a Element, String)> {
        let headers = origin.element.child("CustomHeaders").map_or(&[][..], Element::items);
        let is_epoch =
            |header: &&Element| self.value_of(header, "HeaderName").eq_ignore_ascii_case(EPOCH_HEADER);
        let value = headers.iter().find(is_epoch)?.child("HeaderValue")?;
        Some((value, value.value(&self.text)?.into_owned()))
    }

    /// Returns the names, in lower case, and values of an origin's custom headers without the epoch's.
    pub fn other_headers(&self, origin: &Origin<'_>) -> Vec<(String, String)> {
        let headers = origin.element.child("CustomHeaders").map_or(&[][..], Element::items).iter();
        let headers = headers.map(|header| {
            (self.value_of(header, "HeaderName").to_ascii_lowercase(), self.value_of(header, "HeaderValue"))
        });
        headers.filter(|(name, _)| !name.eq_ignore_ascii_case(EPOCH_HEADER)).collect()
    }

    /// Returns an origin's place for its epoch, and the epoch that it was given last.
    fn epoch_at(&self, id: &OriginId) -> Result<(&Element, Epoch), String> {
        let setup = "run `understudy edge setup`";
        let origin =
            self.origin(id).ok_or_else(|| format!("the distribution has no origin '{id}'; {setup}"))?;
        let missing = || format!("origin '{id}' has no custom header {EPOCH_HEADER}; {setup}");
        let (element, value) = self.epoch_header(&origin).ok_or_else(missing)?;
        let wrong = || format!("the {EPOCH_HEADER} of origin '{id}' is no number");
        Ok((element, parse_epoch(&value).ok_or_else(wrong)?))
    }

    /// Returns the mark that the distribution holds. An error is a reason in words.
    pub fn there(&self, origins: &[OriginConfig]) -> Result<There, String> {
        let behaviours = self.behaviours(origins);
        let first = behaviours.first().ok_or("no behaviour sends requests to any of the store's origins")?;
        let mut last: Option<(Epoch, &OriginConfig)> = None;
        for origin in origins {
            let (_, epoch) = self.epoch_at(&origin.id)?;
            let is_target = origin.id.as_str() == first.target;
            let is_newer =
                last.as_ref().is_none_or(|(other, _)| epoch > *other || epoch == *other && is_target);
            if is_newer {
                last = Some((epoch, origin));
            }
        }
        let Some((epoch, origin)) = last.filter(|(epoch, _)| epoch.0 > 0) else {
            return Ok(There { mark: None, is_whole: false });
        };
        let is_whole = behaviours.iter().all(|behaviour| behaviour.target == origin.id.as_str());
        Ok(There { mark: Some(mark_of(origin, epoch)?), is_whole })
    }

    /// Returns the configuration that sends the requests to this origin, with this epoch.
    pub fn switched(
        &self,
        origins: &[OriginConfig],
        to: &OriginConfig,
        epoch: Epoch,
    ) -> Result<String, String> {
        let (place, _) = self.epoch_at(&to.id)?;
        let mut changes = vec![place.with_value(&epoch.0.to_string())];
        for behaviour in self.behaviours(origins) {
            let target =
                behaviour.element.child("TargetOriginId").filter(|_| behaviour.target != to.id.as_str());
            changes.extend(target.map(|target| target.with_value(to.id.as_str())));
        }
        let text = changed(&self.text, changes);
        let there = Self::parse(text.clone())?.there(origins)?;
        match there == (There { mark: Some(mark_of(to, epoch)?), is_whole: true }) {
            true => Ok(text),
            false => Err("the changed configuration does not say what it should; nothing was sent".into()),
        }
    }

    /// Returns the configuration after changes.
    pub fn after(&self, changes: Vec<Change>) -> Result<Self, String> {
        Self::parse(changed(&self.text, changes))
    }
}

/// Returns a behaviour's path pattern.
fn element_path(element: &Element, text: &str) -> String {
    element.value_of("PathPattern", text).map_or_else(|| "default".to_owned(), |path| path.into_owned())
}

/// Returns the mark of an origin's host at an epoch.
pub(crate) fn mark_of(origin: &OriginConfig, epoch: Epoch) -> Result<Mark, String> {
    let host = PlainHost::of(&WriterId(origin.host.clone())).map_err(|error| error.to_string())?;
    Ok(Mark { epoch, host, address: origin.address.clone() })
}

/// Returns the name or address of an origin as CloudFront writes it: without the port.
pub(crate) fn domain_of(address: &Address) -> String {
    let text = address.to_string();
    text.rsplit_once(':').map_or(text.clone(), |(domain, _)| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::switch::{Verdict, judge};
    use proptest::prelude::*;
    use std::fmt::Write;

    const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];

    fn configured() -> Vec<OriginConfig> {
        let origin = |host: &&str| OriginConfig {
            host: (*host).to_owned(),
            id: OriginId::parse(&format!("{host}-origin")).unwrap(),
            address: format!("{host}.example:443").parse().unwrap(),
        };
        HOSTS.iter().map(origin).collect()
    }

    /// What stands before a configuration.
    const BEFORE: [&str; 2] = ["\n", "<!-- first -->"];

    /// Parts of a configuration that nobody here knows.
    const ODD: [&str; 5] =
        ["", "\n  ", "<Later a='&gt;'>  x &amp; y </Later>", "<!-- TargetOriginId -->", "<Empty/>"];

    fn odd() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(&ODD[..])
    }

    prop_compose! {
        /// A configuration: the epochs of the origins, other origins between them, and behaviours' targets.
        fn configurations()(
            epochs in proptest::collection::vec(0..5_u64, 3),
            odds in proptest::collection::vec(odd(), 8),
            // 3 is an origin of somebody else.
            targets in proptest::collection::vec(0..4_usize, 1..5),
            order in Just(vec![0_usize, 1, 2, 3]).prop_shuffle(),
        ) -> (String, Vec<u64>, Vec<usize>) {
            let id = |at: usize| HOSTS.get(at).map_or("media".to_owned(), |host| format!("{host}-origin"));
            let mut text = format!("<?xml version='1.0'?>{}<DistributionConfig xmlns='u'><Origins><Items>", BEFORE[usize::from(odds[0].is_empty())]);
            for at in order {
                let header = epochs.get(at).map_or(String::new(), |epoch| format!(
                    "<OriginCustomHeader><HeaderName>x-understudy-EPOCH</HeaderName>{}<HeaderValue>{epoch}</HeaderValue></OriginCustomHeader>",
                    odds[1]
                ));
                let _ = write!(
                    text,
                    "{}<Origin>{}<Id>{}</Id><CustomHeaders>{}<Items>{header}</Items></CustomHeaders></Origin>",
                    odds[2], odds[4], id(at), odds[3]
                );
            }
            let _ = write!(text, "</Items></Origins>{}", odds[5]);
            for (at, target) in targets.iter().enumerate() {
                let (open, close) = match at {
                    0 => ("<DefaultCacheBehavior>", "</DefaultCacheBehavior>"),
                    1 => ("<CacheBehaviors><Items><CacheBehavior>", "</CacheBehavior>"),
                    _ => ("<CacheBehavior>", "</CacheBehavior>"),
                };
                let _ = write!(text, "{open}{}<TargetOriginId>{}</TargetOriginId>{}{close}", odds[6], id(*target), odds[7]);
            }
            text += if targets.len() > 1 { "</Items></CacheBehaviors></DistributionConfig>" } else { "</DistributionConfig>" };
            (text, epochs, targets)
        }
    }

    /// Returns a text without the values that a switch may change.
    fn masked(text: &str) -> String {
        let mut kept = String::new();
        let mut rest = text;
        while let Some(at) = ["<TargetOriginId>", "<HeaderValue>"]
            .iter()
            .filter_map(|tag| Some(rest.find(tag)? + tag.len()))
            .min()
        {
            let (before, after) = rest.split_at(at);
            kept += before;
            rest = &after[after.find('<').unwrap()..];
        }
        kept + rest
    }

    proptest! {
        #[test]
        fn a_switch_moves_the_stores_behaviours_and_one_header_and_nothing_else((text, epochs, targets) in configurations(), to in 0..3_usize, epoch in 1..9_u64) {
            let (origins, before) = (configured(), Distribution::parse(text.clone()).unwrap());
            let there = before.there(&origins);
            if targets.iter().all(|target| *target == 3) {
                prop_assert!(there.is_err());
                return Ok(());
            }
            let there = there.unwrap();
            let highest = epochs.iter().max().filter(|highest| **highest > 0);
            prop_assert_eq!(there.mark.as_ref().map(|mark| mark.epoch.0), highest.copied());
            let wanted = mark_of(&origins[to], Epoch(epoch)).unwrap();
            // What a host may change at all is judged before.
            if judge(&there, &wanted) != Verdict::Change {
                return Ok(());
            }
            let after = Distribution::parse(before.switched(&origins, &origins[to], Epoch(epoch)).unwrap()).unwrap();
            prop_assert_eq!(after.there(&origins).unwrap(), There { mark: Some(wanted), is_whole: true });
            prop_assert_eq!(masked(&after.text), masked(&text));
            for (at, host) in origins.iter().enumerate() {
                let (_, now) = after.epoch_at(&host.id).unwrap();
                prop_assert_eq!(now.0, if at == to { epoch } else { epochs[at] });
            }
            let left = |distribution: &Distribution| distribution.text.matches("<TargetOriginId>media<").count();
            prop_assert_eq!(left(&after), left(&before));
        }
    }

    #[test]
    fn a_configuration_that_is_not_set_up_says_what_is_missing() {
        let of =
            |text: &str| Distribution::parse(text.to_owned()).and_then(|found| found.there(&configured()));
        assert!(of("<Distribution/>").unwrap_err().contains("no configuration of a distribution"));
        assert!(of("<DistributionConfig/>").unwrap_err().contains("no behaviour"));
        let target =
            "<DefaultCacheBehavior><TargetOriginId>web-1-origin</TargetOriginId></DefaultCacheBehavior>";
        let with = |origin: &str| {
            format!(
                "<DistributionConfig><Origins><Items>{origin}</Items></Origins>{target}</DistributionConfig>"
            )
        };
        assert!(of(&with("")).unwrap_err().contains("no origin 'web-1-origin'"));
        assert!(
            of(&with("<Origin><Id>web-1-origin</Id></Origin>")).unwrap_err().contains("no custom header")
        );
        let header = "<CustomHeaders><Items><OriginCustomHeader><HeaderName>X-Understudy-Epoch</HeaderName>\
                      <HeaderValue>07</HeaderValue></OriginCustomHeader></Items></CustomHeaders>";
        let wrong = with(&format!("<Origin><Id>web-1-origin</Id>{header}</Origin>"));
        assert!(of(&wrong).unwrap_err().contains("is no number"));
    }
}
