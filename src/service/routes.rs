//! The routes, each with what it needs: a route cannot be added without saying so.
//!
//! A guard in front of each route compares what it needs with who asks ([`may`]). A store that a caller may not
//! see is answered exactly as one that does not exist. What changes something or shows content is written to
//! the audit, whatever came of it.

use super::api_error::ApiError;
use super::audit::{Audit, AuditLine};
use super::caller::Caller;
use crate::model::access::{Action, Identity, may};
use crate::model::id::StoreName;
use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

/// What a request needs to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, metrics, the way in.
    Open,
    /// A member's signature, which the handler checks.
    Signed,
    /// Any identity.
    Known,
    /// An identity that may do this, with the route's store if it has one.
    Needs(Action),
}

/// A route: its method, its path, and what it needs.
#[derive(Clone, Copy, Debug)]
pub struct RouteRow {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
}

/// Why a request was refused.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// Nobody knows who asks.
    Unknown(ApiError),
    /// The caller may not do this.
    NotAllowed(Action),
    /// There is no such store, or the caller may not see it.
    NoStore(String),
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown(error) => error,
            Refused::NotAllowed(action) => {
                let text = format!("your role does not allow it: {}", action.name());
                ApiError::new(StatusCode::FORBIDDEN, text)
            }
            Refused::NoStore(name) => ApiError::unknown_store(&name),
        }
    }
}

/// What a handler adds to the audit's line.
#[derive(Clone)]
pub(crate) struct AuditDetail {
    pub text: String,
    /// What came of it, where the answer's own status does not say.
    pub status: Option<u16>,
}

/// What the guards share.
#[derive(Clone)]
pub(crate) struct Gate {
    pub audit: Audit,
    /// Answers a refused request: as JSON, or as a page.
    pub refuse: fn(Refused, &Parts) -> Response,
}

impl Gate {
    /// Returns a gate that answers with JSON.
    pub(crate) fn json(audit: Audit) -> Self {
        Self { audit, refuse: |refused, _| ApiError::from(refused).into_response() }
    }
}

/// Routes with what they need.
pub(crate) struct Routes<S> {
    router: Router<S>,
    gate: Gate,
    pub rows: Vec<RouteRow>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { router: Router::new(), gate, rows: Vec::new() }
    }

    pub(crate) fn get<T: 'static>(
        self,
        path: &'static str,
        access: Access,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add("GET", path, access, get(handler))
    }

    pub(crate) fn post<T: 'static>(
        self,
        path: &'static str,
        access: Access,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add("POST", path, access, post(handler))
    }

    fn add(
        mut self,
        method: &'static str,
        path: &'static str,
        access: Access,
        route: MethodRouter<S>,
    ) -> Self {
        let guard = Guard { gate: self.gate.clone(), access };
        self.router = self.router.route(path, route.route_layer(from_fn_with_state(guard, check)));
        self.rows.push(RouteRow { method, path, access });
        self
    }

    pub(crate) fn into_router(self) -> Router<S> {
        self.router
    }
}

#[derive(Clone)]
struct Guard {
    gate: Gate,
    access: Access,
}

/// Returns who asks, if that is enough for what is needed.
fn judge(access: Access, caller: &Caller, store: Option<&str>) -> Result<Option<Identity>, Refused> {
    let identity = || caller.identity.clone().map_err(Refused::Unknown);
    let action = match access {
        Access::Open | Access::Signed => return Ok(caller.identity.clone().ok()),
        Access::Known => return identity().map(Some),
        Access::Needs(action) => action,
    };
    let identity = identity()?;
    let name = store.map(StoreName::parse);
    let is_visible = match &name {
        None => true,
        Some(Ok(name)) => identity.scope.has(name),
        // It is no name, so there is no such store; the handler says so.
        Some(Err(_)) => identity.scope == crate::model::access::Scope::All,
    };
    if !is_visible {
        return Err(Refused::NoStore(store.unwrap_or_default().to_owned()));
    }
    match may(&identity, action, name.and_then(Result::ok).as_ref()) {
        true => Ok(Some(identity)),
        false => Err(Refused::NotAllowed(action)),
    }
}

async fn check(
    State(guard): State<Guard>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return ApiError::internal("a request without a caller").into_response();
    };
    let store = parameters.ok().and_then(|parameters| {
        parameters.iter().find(|(key, _)| *key == "store").map(|(_, value)| value.to_owned())
    });
    let asked = match request.uri().query() {
        Some(query) => format!("{} {}?{query}", request.method(), request.uri().path()),
        None => format!("{} {}", request.method(), request.uri().path()),
    };
    let (mut parts, body) = request.into_parts();
    let response = match judge(guard.access, &caller, store.as_deref()) {
        Err(refused) => (guard.gate.refuse)(refused, &parts),
        Ok(identity) => {
            if let Some(identity) = identity {
                parts.extensions.insert(identity);
            }
            next.run(Request::from_parts(parts, body)).await
        }
    };
    if let (Access::Needs(action), Ok(identity)) = (guard.access, &caller.identity)
        && action.is_audited()
    {
        let told = response.extensions().get::<AuditDetail>();
        let status = told.and_then(|told| told.status).unwrap_or(response.status().as_u16());
        let line = AuditLine::of(identity, &caller.from, action.name(), status);
        let detail = told.map_or(asked.clone(), |told| format!("{asked}: {}", told.text));
        guard.gate.audit.write(AuditLine { store: store.as_deref(), detail, ..line });
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{Scope, UserRole};

    #[test]
    fn another_s_store_is_answered_as_one_that_is_not_there() {
        let identity = Identity {
            who: "a".into(),
            role: UserRole::Customer,
            scope: Scope::Only([StoreName::parse("mine").unwrap()].into()),
        };
        let caller = Caller { identity: Ok(identity), from: "x".into() };
        for action in Action::ALL {
            for name in ["other", "none-of-that-name", "NO NAME", "../mine"] {
                match judge(Access::Needs(action), &caller, Some(name)) {
                    Err(Refused::NoStore(told)) => assert_eq!(told, name),
                    answer => panic!("{action:?} {name}: {answer:?}"),
                }
            }
        }
        assert!(judge(Access::Needs(Action::SeeStore), &caller, Some("mine")).is_ok());
        assert!(matches!(
            judge(Access::Needs(Action::Hold), &caller, Some("mine")),
            Err(Refused::NotAllowed(Action::Hold))
        ));
    }

    #[test]
    fn who_is_not_known_gets_only_what_is_open() {
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "who are you");
        let caller = Caller { identity: Err(error), from: "x".into() };
        for access in [Access::Open, Access::Signed] {
            assert!(judge(access, &caller, None).unwrap().is_none());
        }
        for access in [Access::Known].into_iter().chain(Action::ALL.map(Access::Needs)) {
            assert!(matches!(judge(access, &caller, Some("mine")), Err(Refused::Unknown(_))), "{access:?}");
        }
    }
}
