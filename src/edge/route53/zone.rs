//! Records of a hosted zone: read, and changed together or not at all.

use crate::edge::aws::client::{AwsClient, Call, CallFailure, Scheme, Service};
use crate::edge::aws::xml::Element;
use crate::edge::context::Deadline;
use hyper::Method;
use quick_xml::escape::escape;
use serde::{Deserialize, Deserializer};
use std::fmt;
use url::Url;

const ENDPOINT: &str = "https://route53.amazonaws.com";
const VERSION: &str = "/2013-04-01";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
/// Number of records that are read at once: a name has fewer.
const PAGE: u32 = 20;
const NAME_MAX_BYTES: usize = 230;
const ID_MAX_BYTES: usize = 32;

/// The ID of a hosted zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneId(String);

impl ZoneId {
    /// Parses it. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        match !text.is_empty() && text.len() <= ID_MAX_BYTES && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no ID of a hosted zone: it has capital letters and digits")),
        }
    }
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ZoneId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The name of a record, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName(String);

impl RecordName {
    /// Parses it. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_label = |label: &str| {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            !label.is_empty() && label.len() <= 63 && label.bytes().all(is_plain)
        };
        match text.len() <= NAME_MAX_BYTES && text.contains('.') && text.split('.').all(is_label) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => {
                Err(format!("{text:?} is no name of a record: write NAME.ZONE, without a dot at its end"))
            }
        }
    }

    /// Returns the name of the record that keeps the mark.
    pub(crate) fn of_mark(&self) -> Self {
        Self(format!("_understudy.{}", self.0))
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RecordName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A record of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub name: RecordName,
    pub kind: String,
    pub ttl_seconds: u32,
    pub values: Vec<String>,
}

/// A part of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Refused if there is one.
    Create(Record),
    /// Refused unless it is exactly so.
    Delete(Record),
    /// Whatever is there.
    Upsert(Record),
}

impl Action {
    fn xml(&self) -> String {
        let (word, record) = match self {
            Self::Create(record) => ("CREATE", record),
            Self::Delete(record) => ("DELETE", record),
            Self::Upsert(record) => ("UPSERT", record),
        };
        let value =
            |value: &String| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escape(value));
        let values: String = record.values.iter().map(value).collect();
        format!(
            "<Change><Action>{word}</Action><ResourceRecordSet><Name>{}.</Name><Type>{}</Type><TTL>{}</TTL>\
             <ResourceRecords>{values}</ResourceRecords></ResourceRecordSet></Change>",
            record.name,
            escape(&record.kind),
            record.ttl_seconds
        )
    }
}

/// A hosted zone.
pub(crate) struct Zone {
    id: ZoneId,
    service: Service,
}

impl Zone {
    /// An error is a reason in words.
    pub fn new(id: ZoneId, endpoint: Option<&Url>) -> Result<Self, String> {
        let base = endpoint.cloned().map_or_else(|| Url::parse(ENDPOINT), Ok);
        let base = base.map_err(|error| error.to_string())?;
        Ok(Self { id, service: Service { name: "route53", scheme: Scheme::V4, base } })
    }

    /// Returns the records of a name.
    pub fn records(
        &self,
        client: &AwsClient,
        name: &RecordName,
        deadline: &Deadline,
    ) -> Result<Vec<Record>, CallFailure> {
        let query = Some(format!("maxitems={PAGE}&name={name}."));
        let call = Call { query, ..Call::get(format!("{VERSION}/hostedzone/{}/rrset", self.id)) };
        let body = client.call(&self.service, &call, deadline)?.body;
        records_in(&body, name).map_err(CallFailure::Wrong)
    }

    /// Makes all of these changes, or none. Returns the change's ID.
    pub fn change(
        &self,
        client: &AwsClient,
        actions: &[Action],
        deadline: &Deadline,
    ) -> Result<String, CallFailure> {
        let changes: String = actions.iter().map(Action::xml).collect();
        let body = format!(
            "<ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\"><ChangeBatch><Comment>understudy</Comment>\
             <Changes>{changes}</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
        );
        let path = format!("{VERSION}/hostedzone/{}/rrset/", self.id);
        let body =
            client.call(&self.service, &Call::send(Method::POST, path, "text/xml", body), deadline)?.body;
        let root = Element::parse(&body).map_err(CallFailure::Wrong)?;
        let id = root.child("ChangeInfo").and_then(|info| info.value_of("Id", &body));
        let id = id.and_then(|id| Some(id.strip_prefix("/change/")?.to_owned()));
        let is_plain = |id: &String| id.bytes().all(|b| b.is_ascii_alphanumeric());
        id.filter(is_plain).ok_or_else(|| CallFailure::Wrong("its answer names no change".into()))
    }

    /// Returns whether all of Route 53's servers have a change.
    pub fn is_in_sync(&self, client: &AwsClient, id: &str, deadline: &Deadline) -> Result<bool, CallFailure> {
        let body = client.call(&self.service, &Call::get(format!("{VERSION}/change/{id}")), deadline)?.body;
        let root = Element::parse(&body).map_err(CallFailure::Wrong)?;
        let status = root.child("ChangeInfo").and_then(|info| info.value_of("Status", &body));
        Ok(status.is_some_and(|status| status == "INSYNC"))
    }
}

/// Returns the records of a name in an answer, which goes on with those after it.
fn records_in(body: &str, name: &RecordName) -> Result<Vec<Record>, String> {
    let root = Element::parse(body)?;
    let all = root.child("ResourceRecordSets").ok_or("its answer has no records")?;
    let mut found = Vec::new();
    for set in &all.children {
        let value = |name: &str| set.value_of(name, body).unwrap_or_default().into_owned();
        if !value("Name").trim_end_matches('.').eq_ignore_ascii_case(&name.0) {
            continue;
        }
        let kind = value("Type");
        if set.child("SetIdentifier").is_some() || set.child("AliasTarget").is_some() {
            return Err(format!(
                "record {name} {kind} is an alias, or one of several: give the store a plain one"
            ));
        }
        let ttl_seconds = value("TTL").parse().map_err(|_| format!("record {name} {kind} has no TTL"))?;
        let list = set.child("ResourceRecords").map_or(&[][..], |list| &list.children);
        let values = list.iter().filter_map(|record| Some(record.value_of("Value", body)?.into_owned()));
        found.push(Record { name: name.clone(), kind, ttl_seconds, values: values.collect() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_names_records_are_found_among_others_and_no_alias_is_taken_for_one() {
        let name = RecordName::parse("Origin.shop.example").unwrap();
        let set = |name: &str, more: &str| {
            format!(
                "<ResourceRecordSet><Name>{name}</Name><Type>A</Type>{more}<TTL>30</TTL><ResourceRecords>\
                 <ResourceRecord><Value>10.0.0.1</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>"
            )
        };
        let answer = |sets: &str| format!("<R><ResourceRecordSets>{sets}</ResourceRecordSets></R>");
        let both = answer(&(set("origin.shop.example.", "") + &set("x.origin.shop.example.", "")));
        let values = vec!["10.0.0.1".to_owned()];
        let wanted = Record { name: name.clone(), kind: "A".into(), ttl_seconds: 30, values };
        assert_eq!(records_in(&both, &name).unwrap(), [wanted]);
        assert_eq!(records_in(&answer(""), &name).unwrap(), []);
        let weighted = answer(&set("origin.shop.example.", "<SetIdentifier>a</SetIdentifier>"));
        assert!(records_in(&weighted, &name).unwrap_err().contains("one of several"));
        assert!(records_in("<R/>", &name).is_err());
    }

    #[test]
    fn a_name_or_a_zone_is_one_plain_word() {
        for bad in ["", "a", "a.b.", ".a", "a..b", "a b.c", "a/b.c", "a?b.c", "a&b.c", "*.a", "a<b.c", "é.c"]
        {
            assert!(RecordName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(RecordName::parse("Web_1.shop.example").unwrap().to_string(), "web_1.shop.example");
        assert!(
            ZoneId::parse("Z0123ABC").is_ok() && ZoneId::parse("../Z").is_err() && ZoneId::parse("").is_err()
        );
    }
}
