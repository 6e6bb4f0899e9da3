//! ICMP (RFC 792): the numbers. ICMPv6 has its own in [`super::icmpv6`]; the fixed part has the same shape.

/// Type, code, checksum, and four bytes whose meaning depends on the type.
pub const HEADER_BYTES: usize = 8;
/// Where the checksum is, in bytes from the start of the message.
pub const CHECKSUM_OFFSET: u16 = 2;
/// Where the identifier of an echo is, in bytes from the start of the message.
pub const IDENTIFIER_OFFSET: usize = 4;

/// The type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// The type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// The type of "source quench" (deprecated by RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// The type of "redirect".
pub const REDIRECT: u8 = 5;
/// The type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// The type of "time exceeded".
pub const TIME_EXCEEDED: u8 = 11;
/// The type of "parameter problem".
pub const PARAMETER_PROBLEM: u8 = 12;

/// Whether a type is one of an error (RFC 1122 section 3.2.2): never answered by another error.
#[inline]
#[must_use]
pub const fn is_error(message_type: u8) -> bool {
    matches!(message_type, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}
