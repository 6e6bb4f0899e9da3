//! Refusals: what the daemon answers when it does not do what it was asked.
//!
//! Every refusal names what was refused and why, and what to do about it. The constructors keep
//! the call sites to one line and make a refusal without a remedy a visible decision (`""`).

use crate::api::{Error, ErrorCode};

/// The answer of an operation that may be refused.
pub type Result<T> = std::result::Result<T, Error>;

fn refusal(code: ErrorCode, message: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error { code, message: message.into(), remedy: remedy.into() }
}

/// The request could not be understood, or a value is out of its range.
pub fn invalid(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::Invalid, message, remedy)
}

/// The named object does not exist.
pub fn not_found(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::NotFound, message, remedy)
}

/// The name, the address or the interface is taken, or the object is in use.
pub fn conflict(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::Conflict, message, remedy)
}

/// A limit was reached.
pub fn limit(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::Limit, message, remedy)
}

/// The kernel refused something, or the daemon failed.
pub fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::Failed, message, remedy)
}

/// The caller may not use the socket.
pub fn forbidden(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::Forbidden, message, remedy)
}

/// The request body is too large.
pub fn too_large(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    refusal(ErrorCode::TooLarge, message, remedy)
}

/// The daemon is stopping.
pub fn stopping() -> Error {
    refusal(ErrorCode::Stopping, "the daemon is stopping", "start it again and repeat the command")
}

/// A refusal from a sentence that carries its remedy behind a semicolon, as the errors of the
/// layers below do.
pub fn from_sentence(code: ErrorCode, sentence: &impl ToString) -> Error {
    let sentence = sentence.to_string();
    let (message, remedy) = sentence.split_once("; ").unwrap_or((&sentence, ""));
    refusal(code, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_cut_where_its_remedy_begins() {
        let error = from_sentence(ErrorCode::Invalid, &"it is bad; do better; or else");
        assert_eq!((error.message.as_str(), error.remedy.as_str()), ("it is bad", "do better; or else"));
        assert_eq!(from_sentence(ErrorCode::Invalid, &"it is bad").remedy, "");
    }
}
