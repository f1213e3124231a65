//! CloudFront's control plane: the distribution's configuration and the function, each with its ETag.

use super::distribution::Distribution;
use super::function;
use super::names::{DistributionId, FunctionName, KeyValueStoreArn};
use crate::edge::aws::client::{AwsClient, Call, CallFailure, Scheme, Service};
use crate::edge::aws::xml::Element;
use crate::edge::context::Deadline;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use url::Url;

const XML: &str = "text/xml";
const ENDPOINT: &str = "https://cloudfront.amazonaws.com";
const VERSION: &str = "/2020-05-31";
const NAMESPACE: &str = "http://cloudfront.amazonaws.com/doc/2020-05-31/";

/// The control plane, for one distribution.
pub(crate) struct Control {
    id: DistributionId,
    service: Service,
}

/// A stage of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Development,
    Live,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Development => "DEVELOPMENT",
            Self::Live => "LIVE",
        }
    }
}

/// A function as it is there.
pub(crate) struct Function {
    pub arn: String,
    pub etag: String,
    /// The stores that are associated with it.
    pub stores: Vec<String>,
}

impl Control {
    /// An error is a reason in words.
    pub fn new(id: DistributionId, endpoint: Option<&Url>) -> Result<Self, String> {
        let base = endpoint.cloned().map_or_else(|| Url::parse(ENDPOINT), Ok);
        let base = base.map_err(|error| error.to_string())?;
        Ok(Self { id, service: Service { name: "cloudfront", scheme: Scheme::V4, base } })
    }

    /// Returns the distribution's configuration and its version.
    pub fn config(
        &self,
        client: &AwsClient,
        deadline: &Deadline,
    ) -> Result<(Distribution, String), CallFailure> {
        let call = Call::get(format!("{VERSION}/distribution/{}/config", self.id));
        let reply = client.call(&self.service, &call, deadline)?;
        let etag = reply.etag.ok_or_else(no_etag)?;
        Ok((Distribution::parse(reply.body).map_err(CallFailure::Wrong)?, etag))
    }

    /// Replaces the configuration, if it is still at this version.
    pub fn update(
        &self,
        client: &AwsClient,
        text: String,
        etag: &str,
        deadline: &Deadline,
    ) -> Result<(), CallFailure> {
        let path = format!("{VERSION}/distribution/{}/config", self.id);
        let call = Call::send(Method::PUT, path, XML, text).if_match(etag);
        client.call(&self.service, &call, deadline).map(drop)
    }

    /// Returns whether all points of presence have the last configuration.
    pub fn is_deployed(&self, client: &AwsClient, deadline: &Deadline) -> Result<bool, CallFailure> {
        let call = Call::get(format!("{VERSION}/distribution/{}", self.id));
        let body = client.call(&self.service, &call, deadline)?.body;
        let root = Element::parse(&body).map_err(CallFailure::Wrong)?;
        Ok(root.value_of("Status", &body).is_some_and(|status| status == "Deployed"))
    }

    /// Returns the ARN of the key value store of a name; none if there is none.
    pub fn store_arn(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        deadline: &Deadline,
    ) -> Result<Option<String>, CallFailure> {
        let call = Call::get(format!("{VERSION}/key-value-store/{name}"));
        match client.call(&self.service, &call, deadline) {
            Err(failure) if failure.is(404) => Ok(None),
            reply => arn_in(&reply?.body).map(Some),
        }
    }

    /// Makes a key value store, and returns its ARN.
    pub fn make_store(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        deadline: &Deadline,
    ) -> Result<String, CallFailure> {
        let body = format!(
            "<CreateKeyValueStoreRequest xmlns=\"{NAMESPACE}\"><Name>{name}</Name></CreateKeyValueStoreRequest>"
        );
        let call = Call::send(Method::POST, format!("{VERSION}/key-value-store"), XML, body);
        arn_in(&client.call(&self.service, &call, deadline)?.body)
    }

    /// Returns a function; none if there is none of this name in this stage.
    pub fn function(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        stage: Stage,
        deadline: &Deadline,
    ) -> Result<Option<Function>, CallFailure> {
        let query = Some(format!("Stage={}", stage.name()));
        let call = Call { query, ..Call::get(format!("{VERSION}/function/{name}/describe")) };
        let reply = match client.call(&self.service, &call, deadline) {
            Err(failure) if failure.is(404) => return Ok(None),
            reply => reply?,
        };
        let (etag, body) = (reply.etag.ok_or_else(no_etag)?, reply.body);
        let root = Element::parse(&body).map_err(CallFailure::Wrong)?;
        let value = |element: Option<&Element>, name: &str| {
            element.and_then(|element| Some(element.value_of(name, &body)?.into_owned()))
        };
        let arn = value(root.child("FunctionMetadata"), "FunctionARN").unwrap_or_default();
        let config = root.child("FunctionConfig");
        let stores = config.and_then(|config| config.child("KeyValueStoreAssociations"));
        let stores = stores.map_or(&[][..], Element::items).iter();
        let stores = stores.filter_map(|store| value(Some(store), "KeyValueStoreARN")).collect();
        Ok(Some(Function { arn, etag, stores }))
    }

    /// Returns a function's code in a stage; none if there is none.
    pub fn code(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        stage: Stage,
        deadline: &Deadline,
    ) -> Result<Option<String>, CallFailure> {
        let query = Some(format!("Stage={}", stage.name()));
        let call = Call { query, ..Call::get(format!("{VERSION}/function/{name}")) };
        match client.call(&self.service, &call, deadline) {
            Err(failure) if failure.is(404) => Ok(None),
            reply => Ok(Some(reply?.body)),
        }
    }

    /// Writes a function: a new one, or over the one at this version. It is not yet the one that runs.
    pub fn write_function(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        (code, store): (&str, &KeyValueStoreArn),
        etag: Option<&str>,
        deadline: &Deadline,
    ) -> Result<(), CallFailure> {
        let code = STANDARD.encode(code);
        let config = format!(
            "<FunctionConfig><Comment>understudy</Comment><Runtime>{}</Runtime><KeyValueStoreAssociations>\
             <Quantity>1</Quantity><Items><KeyValueStoreAssociation><KeyValueStoreARN>{store}</KeyValueStoreARN>\
             </KeyValueStoreAssociation></Items></KeyValueStoreAssociations></FunctionConfig>\
             <FunctionCode>{code}</FunctionCode>",
            function::RUNTIME
        );
        let call = match etag {
            None => {
                let body = format!(
                    "<CreateFunctionRequest xmlns=\"{NAMESPACE}\"><Name>{name}</Name>{config}</CreateFunctionRequest>"
                );
                Call::send(Method::POST, format!("{VERSION}/function"), XML, body)
            }
            Some(etag) => {
                let body =
                    format!("<UpdateFunctionRequest xmlns=\"{NAMESPACE}\">{config}</UpdateFunctionRequest>");
                Call::send(Method::PUT, format!("{VERSION}/function/{name}"), XML, body).if_match(etag)
            }
        };
        client.call(&self.service, &call, deadline).map(drop)
    }

    /// Makes the function at this version the one that runs.
    pub fn publish(
        &self,
        client: &AwsClient,
        name: &FunctionName,
        etag: &str,
        deadline: &Deadline,
    ) -> Result<(), CallFailure> {
        let path = format!("{VERSION}/function/{name}/publish");
        let call = Call::send(Method::POST, path, XML, String::new()).if_match(etag);
        client.call(&self.service, &call, deadline).map(drop)
    }
}

/// Returns the ARN in an answer about a key value store.
fn arn_in(body: &str) -> Result<String, CallFailure> {
    let root = Element::parse(body).map_err(CallFailure::Wrong)?;
    let arn = root.value_of("ARN", body).and_then(|arn| KeyValueStoreArn::parse(&arn).ok());
    arn.map(|arn| arn.to_string())
        .ok_or_else(|| CallFailure::Wrong("its answer names no key value store".into()))
}

fn no_etag() -> CallFailure {
    CallFailure::Wrong("its answer has no ETag".into())
}
