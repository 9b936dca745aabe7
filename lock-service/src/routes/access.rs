//! Who sends a request, and whether they may.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lock_api::{ErrorCode, Problem};

use super::App;
use crate::auth::{Caller, Role};
use crate::problem::Failure;

/// Lets a request in whose bearer token this node knows, and remembers whose it is.
pub async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let caller = match &app.auth {
        None => Caller::Anyone,
        Some(auth) => {
            let known = bearer_token(&request).and_then(|token| auth.caller(token));
            match known {
                Some(caller) => caller,
                None => return unauthenticated().into_response(),
            }
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Lets in only who administers the whole cluster. Inside of [`authenticate`].
pub async fn admins_only(
    State(_): State<App>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match caller.check(Role::Admin, "") {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn bearer_token(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_ascii())
}

fn unauthenticated() -> Failure {
    Problem::new(
        ErrorCode::Unauthenticated,
        "this node lets in only whom it knows; send the header `authorization: Bearer TOKEN` with a \
         token of its --auth-file",
    )
    .into()
}

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Failure> {
        // Missing only where a route was left out of the layer: then nobody is let in.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(unauthenticated)
    }
}

impl Caller {
    /// Refuses a caller without `role` on the lock `name`; on every lock, where `name` is empty.
    pub(super) fn check(&self, role: Role, name: &str) -> Result<(), Failure> {
        match self.may(role, name) {
            true => Ok(()),
            false if name.is_empty() => Err(self.forbidden(role, "on every lock name")),
            false => Err(self.forbidden(role, &format!("on `{name}`"))),
        }
    }

    /// Refuses a caller without `role` on any lock.
    pub(super) fn check_somewhere(&self, role: Role) -> Result<(), Failure> {
        match self.may_somewhere(role) {
            true => Ok(()),
            false => Err(self.forbidden(role, "on some lock")),
        }
    }

    fn forbidden(&self, role: Role, reach: &str) -> Failure {
        Problem::new(
            ErrorCode::Forbidden,
            format!(
                "this takes the role `{}` {reach}, which the token of `{}` does not give; whoever \
                 runs this node can change that in its --auth-file",
                role.as_str(),
                self.name()
            ),
        )
        .into()
    }
}
