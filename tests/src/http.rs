//! The least of an HTTP/1.1 client over a unix socket: one request, one answer, connection closed.
//!
//! Deliberately not the client that `vswitchctl` uses: it can also send what a proper client never
//! would.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long one read or write may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON; `null` where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Sends one request; `body` is sent as JSON.
///
/// # Errors
/// The socket cannot be reached, or the answer is not HTTP.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&str>) -> io::Result<Answer> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if let Some(body) = body {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("\r\n");
    }
    send(socket, text.as_bytes())
}

/// Sends `bytes` as they are and reads the answer.
///
/// # Errors
/// The socket cannot be reached, or the answer is not HTTP.
pub fn send(socket: &Path, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(socket)?;
    // A server may answer and close before it has read everything; its answer is what counts.
    let written = stream.write_all(bytes);
    match read_answer(&mut stream) {
        Ok(answer) => Ok(answer),
        Err(error) => {
            written?;
            Err(error)
        }
    }
}

/// A connection to the socket with bounded reads and writes.
///
/// # Errors
/// The socket cannot be reached.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Reads until the server closes, and takes the answer apart.
///
/// # Errors
/// Reading fails before anything came, or it is not HTTP.
pub fn read_answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // The server closed with unread input: the answer came before the reset.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !bytes.is_empty() => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let text = String::from_utf8_lossy(&bytes);
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(not_http)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body).ok_or_else(not_http)? } else { body.to_owned() };
    Ok(Answer { status, body })
}

/// Undoes the chunked transfer coding (RFC 9112 section 7.1).
fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}
