//! Who may ask, and how much: the key, browsers, the body's size and time.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use tokio_stream::StreamExt;

use super::{ApiError, Origin};
use crate::app::App;
use crate::page;

/// Bytes of a body that is too large which are read and thrown away.
const DISCARDED_BYTES: usize = 16 << 20;

/// In whose words errors are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Dialect {
    /// The one of a path.
    pub fn of(uri: &Uri) -> Dialect {
        match uri.path().starts_with("/v1/messages") {
            true => Dialect::Anthropic,
            false => Dialect::OpenAi,
        }
    }

    /// The response to an error.
    pub fn refuse(self, error: &ApiError) -> Response {
        match self {
            Dialect::OpenAi => error.response(&error.openai()),
            Dialect::Anthropic => error.response(&error.anthropic()),
        }
    }
}

/// Lets a request through that may be answered.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.metrics.http_requests.add(1);
    let dialect = Dialect::of(request.uri());
    let origin = match Origin::of(&app, request.headers()) {
        Ok(origin) => origin,
        Err(error) => return dialect.refuse(&error),
    };
    if let Some(response) = origin.preflight(request.method(), request.headers()) {
        return response;
    }
    let response = match check(&app, request.uri(), request.headers()) {
        Ok(()) => answered(next.run(request)).await.unwrap_or_else(|| {
            let message = "this request met a defect of the server; please report it";
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            dialect.refuse(&ApiError::new(status, "defect", message))
        }),
        Err(error) => dialect.refuse(&error),
    };
    origin.told(response)
}

/// What a handler answers; `None` if it panics, which must not take the connection with it.
async fn answered<T>(handling: impl Future<Output = T>) -> Option<T> {
    let mut handling = pin!(handling);
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

fn check(app: &App, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if app.options.api_key.is_none() && app.options.address.ip().is_loopback() && !is_local(host) {
        // A page elsewhere may have its own name lead to this machine.
        let message = format!(
            "this server is for this machine only, and `{host}` is not its name; ask localhost, or \
             start it with --api-key"
        );
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            message,
        ));
    }
    let Some(key) = app
        .options
        .api_key
        .as_deref()
        .filter(|_| uri.path() != "/health" && !page::is_file(uri.path()))
    else {
        return Ok(());
    };
    let bearer = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
    let given = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok());
    match given {
        Some(given) if is_same(given.trim().as_bytes(), key.as_bytes()) => Ok(()),
        given => {
            let message = match given {
                Some(_) => "the API key is not the one that this server was started with",
                None => {
                    "this server needs an API key: send it as `Authorization: Bearer KEY` or \
                         `x-api-key: KEY`"
                }
            };
            Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "invalid_api_key",
                message,
            ))
        }
    }
}

/// Whether a `Host` names this machine to itself.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = |ip: std::net::IpAddr| ip.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(loopback)
}

/// Compares in a time that depends on the lengths alone.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let mut difference = usize::from(given.len() != key.len());
    for (index, byte) in given.iter().enumerate() {
        let other = key.get(index % key.len().max(1)).copied().unwrap_or(0);
        difference |= usize::from(std::hint::black_box(byte ^ other));
    }
    std::hint::black_box(difference) == 0
}

/// Reads a JSON body within the limits of size and time.
///
/// # Errors
/// It is declared as something else, too large or too slow.
pub async fn read_body(app: &App, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    // Pages of other origins cannot send this type unasked.
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        let message = "send the header `Content-Type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::new(status, "unsupported_media_type", message));
    }
    let limit = app.options.body_bytes;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    // Who waits for a word before sending gets the refusal at once.
    let waits = headers.contains_key(header::EXPECT);
    if waits && length.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let all = collect(body.into_data_stream(), limit);
    match tokio::time::timeout(app.options.read_timeout, all).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow_body",
            "the body took too long to arrive",
        )),
    }
}

/// A whole body; one above `limit` bytes is refused when it is over, or far above them: a client
/// that is still sending would see a broken connection instead of the answer.
async fn collect(mut pieces: BodyDataStream, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "incomplete_body",
                "the body ended before it was complete",
            )
        })?;
        bytes = bytes.saturating_add(piece.len());
        if bytes <= limit {
            all.extend_from_slice(&piece);
        } else {
            all = Vec::new();
        }
        if bytes > limit.saturating_add(DISCARDED_BYTES) {
            break;
        }
    }
    match bytes > limit {
        true => Err(too_large(limit)),
        false => Ok(all),
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes; see --max-body");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

#[cfg(test)]
mod tests {
    use super::{answered, is_local, is_same};

    #[tokio::test]
    async fn a_defect_is_not_the_connections_end() {
        assert_eq!(answered(async { 7 }).await, Some(7));
        assert_eq!(answered(async { panic!("a defect") }).await, None::<u8>);
    }

    #[test]
    fn keys_are_the_same_or_not() {
        assert!(is_same(b"secret", b"secret"));
        for other in ["", "secreT", "secre", "secretsecret", "Secret"] {
            assert!(!is_same(other.as_bytes(), b"secret"), "{other}");
        }
        assert!(!is_same(b"x", b""));
    }

    #[test]
    fn this_machine_has_its_names() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:80",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[fe80::1]:80",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
