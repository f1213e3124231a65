//! Requests to AWS: credentials, signatures, bounded answers, patience.

pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod endpoint;
pub(crate) mod sigv4a;
pub(crate) mod xml;
