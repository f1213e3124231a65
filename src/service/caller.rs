//! Who sent a request, and from where, as far as it is known before a route decides.

use super::api_error::ApiError;
use crate::model::access::Identity;
use std::net::IpAddr;

/// The address at the other end of a connection to a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

/// The sender of a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Who it is, or why that is not known.
    pub identity: Result<Identity, ApiError>,
    /// Where it came from, for the audit.
    pub from: String,
}
