//! Problem documents (RFC 9457).

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::stores::StoreError;

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<ParameterError>,
}

/// What went wrong with a request (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What was expected, what came, and what to do.
    detail: &'a str,
    /// The path that was asked for.
    instance: &'a str,
    /// The parameter at fault; the first one where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    /// Each parameter at fault.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ParameterError],
}

/// What is wrong with a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ParameterError {
    /// Its name.
    pub parameter: String,
    /// What was expected, and what came.
    pub detail: String,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new() }
    }

    /// Status 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Status 503.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// Status 400 for mistakes in parameters, of which there is at least one.
    pub fn bad_parameters(errors: Vec<ParameterError>) -> Self {
        let detail: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.parameter, e.detail)).collect();
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, detail.join("; ")) }
    }

    /// The document for a request of this path.
    pub fn document<'a>(&'a self, path: &'a str) -> ProblemDocument<'a> {
        ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: path,
            parameter: self.errors.first().map(|error| &*error.parameter),
            errors: &self.errors,
        }
    }

    /// The response to a request of this path.
    pub fn respond(&self, path: &str) -> Response<Body> {
        let body = serde_json::to_vec(&self.document(path)).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The problem travels as an extension; the guard around all routes knows the path and makes the body.
impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::BadQuery(_) | StoreError::BadCursor => StatusCode::BAD_REQUEST,
            StoreError::NotSearchable(_) => StatusCode::NOT_IMPLEMENTED,
            StoreError::Unavailable(_) | StoreError::Fatal(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
