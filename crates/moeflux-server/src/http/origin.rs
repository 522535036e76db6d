//! Which pages may ask: those of the server itself, and of origins that it was told of.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::ApiError;
use crate::app::App;

/// How long a browser may remember that an origin is allowed, in seconds.
const REMEMBER_SECONDS: u64 = 600;

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No page, or the server's own.
    Own,
    /// A page of this origin, which is allowed.
    Allowed(HeaderValue),
}

impl Origin {
    /// That of a request.
    ///
    /// # Errors
    /// It is a page that may not ask.
    pub fn of(app: &App, headers: &HeaderMap) -> Result<Origin, ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(Origin::Own);
        };
        let text = origin.to_str().unwrap_or_default();
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let site = text.split_once("://").map(|(_, site)| site);
        if site.is_some() && site == host {
            return Ok(Origin::Own);
        }
        let allowed = &app.options.allowed_origins;
        if allowed.iter().any(|one| one == "*" || one == text) {
            return Ok(Origin::Allowed(origin.clone()));
        }
        let message = format!("pages of `{text}` may not use this server; see --allow-origin");
        let status = StatusCode::FORBIDDEN;
        Err(ApiError::new(status, "foreign_origin", message))
    }

    /// The answer to a browser that asks beforehand whether it may ask.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if *self == Origin::Own || *method != Method::OPTIONS || !asks {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let known = response.headers_mut();
        let mut set = |name: HeaderName, value: HeaderValue| known.insert(name, value);
        let methods = HeaderValue::from_static("GET, POST");
        set(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(names) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        set(header::ACCESS_CONTROL_MAX_AGE, REMEMBER_SECONDS.into());
        Some(self.told(response))
    }

    /// A response that the page may read.
    pub fn told(&self, mut response: Response) -> Response {
        if let Origin::Allowed(origin) = self {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        response
    }
}
