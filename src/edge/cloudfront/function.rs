//! The CloudFront Function that sends each request to the host that the key value store names. Pure.
//!
//! It runs at a viewer's request, before the cache, and adds the epoch as a header of the request to the origin.
//! Where the key cannot be read, the distribution's own target and header stay, which follow each switch.
//!
//! The headers that it gives take the place of all custom headers of the origin, so it gives the others as well.

use super::names::StoreKey;

/// The event at which it runs.
pub(crate) const EVENT: &str = "viewer-request";
/// The runtime that can choose an origin.
pub(crate) const RUNTIME: &str = "cloudfront-js-2.0";

/// Returns its code. `headers` are the further custom headers of the store's origins.
pub(crate) fn code(key: &StoreKey, headers: &[(String, String)]) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let header = |(name, value): &(String, String)| format!(", {}: {}", text(name), text(value));
    let others: String = headers.iter().map(header).collect();
    format!(
        "// Written by understudy for the key {key}.\n\
         import cf from 'cloudfront';\n\n\
         async function handler(event) {{\n\
         \x20   try {{\n\
         \x20       const at = await cf.kvs().get('{key}', {{ format: 'json' }});\n\
         \x20       cf.updateRequestOrigin({{\n\
         \x20           domainName: at.o,\n\
         \x20           customHeaders: {{ 'x-understudy-epoch': String(at.e){others} }},\n\
         \x20       }});\n\
         \x20   }} catch (error) {{\n\
         \x20       console.log('the origin of the distribution stays: ' + error);\n\
         \x20   }}\n\
         \x20   return event.request;\n\
         }}\n"
    )
}
