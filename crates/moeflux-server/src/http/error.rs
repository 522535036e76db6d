//! What a client is told when a request cannot be answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::scheduler::{JobError, Refused};

/// An error with its status. [`ApiError::openai`] and [`ApiError::anthropic`] give the object that
/// each protocol's clients expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub message: String,
    /// The parameter that is to blame.
    pub param: Option<String>,
    /// A name of the problem for programs.
    pub code: Option<&'static str>,
    /// Seconds after which to try again.
    pub retry_after_seconds: Option<u64>,
}

impl ApiError {
    /// An error without parameter.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: Some(code),
            retry_after_seconds: None,
        }
    }

    /// A parameter that cannot be used.
    pub fn param(param: &str, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            param: Some(param.to_owned()),
            ..ApiError::new(StatusCode::BAD_REQUEST, code, message)
        }
    }

    /// A parameter with a value that cannot be used.
    pub fn value(param: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::param(param, "invalid_value", format!("`{param}`: {problem}"))
    }

    /// As OpenAI's clients expect it.
    pub fn openai(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            408 | 504 => "timeout_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }

    /// As Anthropic's clients expect it.
    pub fn anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            408 | 504 => "timeout_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }

    /// The response with a body in one of the two forms.
    pub fn response(&self, body: &Value) -> Response {
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response(&self.openai())
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> ApiError {
        let (status, code) = match &error {
            JobError::Deadline => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            JobError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "server_stopping"),
            JobError::Memory(_) | JobError::Prompt(_) => {
                (StatusCode::BAD_REQUEST, "context_length_exceeded")
            }
            JobError::Engine(_) => (StatusCode::INTERNAL_SERVER_ERROR, "engine_error"),
        };
        ApiError::new(status, code, error.to_string())
    }
}

impl ApiError {
    /// A job that was not taken; try again after `seconds`.
    pub fn refused(refused: Refused, seconds: u64) -> ApiError {
        let (status, code) = match refused {
            Refused::Full(_) => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            Refused::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "server_stopping"),
        };
        ApiError {
            retry_after_seconds: Some(seconds),
            ..ApiError::new(status, code, refused.to_string())
        }
    }
}

impl From<moeflux::text::TextError> for ApiError {
    fn from(error: moeflux::text::TextError) -> ApiError {
        use moeflux::text::TextError::{NoTemplate, TemplateRender};
        match error {
            NoTemplate { .. } => {
                let message = "this model has no chat template; use /v1/completions";
                ApiError::new(StatusCode::BAD_REQUEST, "no_chat_template", message)
            }
            // Templates refuse conversations in their own words; paths are not for clients.
            TemplateRender { message, .. } => {
                let message = format!("the model's chat template refuses this: {message}");
                ApiError::param("messages", "invalid_messages", message)
            }
            _ => {
                let message = "the tokenizer refuses this text; send other text";
                ApiError::new(StatusCode::BAD_REQUEST, "invalid_text", message)
            }
        }
    }
}
