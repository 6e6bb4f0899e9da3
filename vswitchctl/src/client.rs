//! The client of the control protocol: one HTTP/1.1 exchange over the daemon's unix socket.
//!
//! Each command is one or a few exchanges, so each exchange opens its own connection: there is
//! nothing to keep alive and nothing to reconnect. The socket is local and its owner is trusted, yet
//! every wait and every size has a limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use vswitch::api;

use crate::failure::Failure;

/// The longest wait for an answer. Removing a bridge with a thousand ports takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The largest answer read: 131,072 FDB entries are about 15 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What a path segment or a query value may hold unescaped (RFC 3986 section 2.3, `unreserved`).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the daemon listens.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon at `socket`; connects when asked something.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, timeout: ANSWER_TIMEOUT }
    }

    /// The same daemon, with a shorter wait for the answer.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { socket: self.socket.clone(), timeout: timeout.min(ANSWER_TIMEOUT) }
    }

    /// `GET path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &Target) -> Result<T, Failure> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with a body.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &Target, body: &impl Serialize) -> Result<T, Failure> {
        self.call(Method::POST, path, encode(body)?).await
    }

    /// `PATCH path` with a body.
    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &Target, body: &impl Serialize) -> Result<T, Failure> {
        self.call(Method::PATCH, path, encode(body)?).await
    }

    /// `DELETE path`.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &Target) -> Result<T, Failure> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &Target, body: Bytes) -> Result<T, Failure> {
        let exchange = self.exchange(method, path, body);
        let (status, answer) =
            tokio::time::timeout(self.timeout, exchange).await.map_err(|_| Failure::Unreachable {
                socket: self.socket.clone(),
                why: format!("no answer within {} s", self.timeout.as_secs_f64()),
                remedy: "look at the daemon's log".into(),
            })??;
        interpret(status, &answer)
    }

    async fn exchange(&self, method: Method, path: &Target, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| Failure::connect(&self.socket, &e))?;
        let broken = |e: hyper::Error| Failure::broken(&self.socket, &e);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);

        let mut request = Request::builder().method(method).uri(path.as_str()).header(HOST, "localhost");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|e| Failure::Usage(format!("cannot be asked: {e}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| Failure::broken(&self.socket, &e))?
            .to_bytes();
        driver.abort();
        Ok((status, answer))
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A path and query of the protocol; segments and values are escaped as they are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// The protocol's root.
    pub(crate) fn v1() -> Self {
        Self { text: "/v1".into(), has_query: false }
    }

    /// Adds a path segment. All segments come before the first query parameter.
    pub(crate) fn segment(mut self, segment: &str) -> Self {
        debug_assert!(!self.has_query, "a segment after the query");
        self.text.push('/');
        self.text.extend(utf8_percent_encode(segment, ESCAPED));
        self
    }

    /// Adds a query parameter where there is a value.
    pub(crate) fn query(mut self, key: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.has_query { '&' } else { '?' });
            self.has_query = true;
            self.text.push_str(key);
            self.text.push('=');
            self.text.extend(utf8_percent_encode(value, ESCAPED));
        }
        self
    }

    fn as_str(&self) -> &str {
        &self.text
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|e| Failure::Usage(format!("cannot be asked: {e}")))
}

/// An answer as a value, or as the refusal that it is.
fn interpret<T: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> Result<T, Failure> {
    if status.is_success() {
        // 204 has no body; `()` is written `null`.
        let answer = if answer.is_empty() { b"null" } else { answer };
        return serde_json::from_slice(answer).map_err(|e| Failure::Unreadable(e.to_string()));
    }
    match serde_json::from_slice::<api::Error>(answer) {
        Ok(error) => Err(Failure::Refused(error)),
        Err(_) => {
            let text: String = String::from_utf8_lossy(answer).trim().chars().take(200).collect();
            Err(Failure::Unreadable(format!("status {status}, `{text}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_cannot_leave_its_segment() {
        let target = Target::v1().segment("bridges").segment("../x?y=1#z").query("port", Some("a&b=c d"));
        assert_eq!(target.as_str(), "/v1/bridges/..%2Fx%3Fy%3D1%23z?port=a%26b%3Dc%20d");
        assert_eq!(Target::v1().segment("stats").query("bridge", None).as_str(), "/v1/stats");
    }

    #[test]
    fn answers_without_a_body_are_unit() {
        assert!(interpret::<()>(StatusCode::NO_CONTENT, b"").is_ok());
        assert!(matches!(interpret::<api::Pong>(StatusCode::OK, b""), Err(Failure::Unreadable(_))));
    }

    #[test]
    fn errors_that_are_not_ours_are_quoted() {
        let Err(failure) = interpret::<()>(StatusCode::BAD_GATEWAY, b"<html>no</html>\n") else { panic!("accepted") };
        assert_eq!(failure.status(), 1);
        assert!(failure.to_string().contains("502 Bad Gateway, `<html>no</html>`"), "{failure}");
    }
}
