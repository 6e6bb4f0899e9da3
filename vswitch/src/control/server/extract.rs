//! What comes in and goes out over HTTP: bodies, queries and errors, all of them JSON.
//!
//! axum's own extractors answer in plain text; these answer every refusal as [`api::Error`].

use std::error::Error as _;
use std::time::Duration;

use axum::Json;
use axum::body::{HttpBody as _, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::api::{self, ErrorCode, REQUEST_BYTES_MAX};
use crate::control::refusal::{invalid, too_large};
use crate::control::service::Encoded;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A refusal on its way to the client.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: api::Error,
}

impl From<api::Error> for Refused {
    fn from(error: api::Error) -> Self {
        let status = match error.code {
            ErrorCode::Invalid => StatusCode::BAD_REQUEST,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::Limit => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, error }
    }
}

impl Refused {
    /// A refusal with an HTTP status that tells more than the error's code.
    pub(super) fn with_status(status: StatusCode, error: api::Error) -> Self {
        Self { status, error }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

impl IntoResponse for Encoded {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

/// A request body in JSON.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
            let kind = kind.to_str().unwrap_or_default();
            let essence = kind.split(';').next().unwrap_or_default().trim();
            if !essence.eq_ignore_ascii_case("application/json") {
                return Err(Refused::with_status(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    invalid(
                        format!("the body is {kind:?}, not JSON"),
                        "send JSON with the header 'Content-Type: application/json'",
                    ),
                ));
            }
        }
        let body = request.into_body();
        // A length that was announced is judged before a byte of it has come.
        if body.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
            return Err(body_too_large());
        }
        let body = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, REQUEST_BYTES_MAX));
        let bytes = match body.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error))
                if error.source().is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) =>
            {
                return Err(body_too_large());
            }
            Ok(Err(error)) => return Err(invalid(format!("the body cannot be read: {error}"), "send it again").into()),
            Err(_) => {
                return Err(Refused::with_status(
                    StatusCode::REQUEST_TIMEOUT,
                    invalid("the body did not come within 10 seconds", "send it at once"),
                ));
            }
        };
        let value = serde_json::from_slice(&bytes).map_err(|why| {
            invalid(
                format!("the body is not what was expected: {why}"),
                "GET /v1/openapi.json describes what each request takes",
            )
        })?;
        Ok(Self(value))
    }
}

fn body_too_large() -> Refused {
    too_large(
        format!("the request's body is larger than {REQUEST_BYTES_MAX} bytes"),
        "send less; no request needs that much",
    )
    .into()
}

/// The query of a request, unknown parameters refused by `T`.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(why) => Err(invalid(
                format!("the query is not what was expected: {}", why.body_text()),
                "GET /v1/openapi.json describes what each request takes",
            )
            .into()),
        }
    }
}

/// The named parts of a request's path.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(why) => Err(invalid(format!("the path cannot be understood: {}", why.body_text()), "").into()),
        }
    }
}
