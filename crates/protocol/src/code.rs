//! Error codes of replies, and close codes of sockets. docs/protocol.md says what a client does with each.

use serde::{Deserialize, Serialize};

/// Why a command was refused. On the wire an upper-case word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// No token, or one that is not valid.
    Unauthorized,
    /// A token whose time is over: get a new one.
    TokenExpired,
    /// A valid token that does not allow this.
    Forbidden,
    /// Too many in too short a time: wait and try again.
    RateLimit,
    /// A named limit is reached: this many are not allowed.
    LimitExceeded,
    /// The request is malformed, or asks for what cannot be.
    BadRequest,
    /// What is asked for does not exist.
    NotFound,
    /// Something the node needs is away: try again.
    Unavailable,
    /// No answer in time: it may or may not have happened.
    Timeout,
    /// A fault of the node.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of docs/protocol.md.
    pub const ALL: [Self; 10] = [
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Forbidden,
        Self::RateLimit,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotFound,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "UNAUTHORIZED",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::Forbidden => "FORBIDDEN",
            Self::RateLimit => "RATE_LIMIT",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::BadRequest => "BAD_REQUEST",
            Self::NotFound => "NOT_FOUND",
            Self::Unavailable => "UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
            Self::Internal => "INTERNAL",
        }
    }

    /// Whether the same request may succeed later without being changed.
    pub const fn retryable(self) -> bool {
        matches!(self, Self::RateLimit | Self::Unavailable | Self::Timeout | Self::Internal)
    }

    /// The HTTP status that carries the code on the internal API.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::TokenExpired => 401,
            Self::Forbidden => 403,
            Self::RateLimit => 429,
            Self::LimitExceeded => 413,
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the node closed a socket. 4000–4499: reconnect; 4500–4999: do not (RFC 6455 section 7.4.2: private use);
/// below 4000 the codes of RFC 6455 section 7.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client closed; its closing handshake is answered.
    Normal = 1000,
    /// A violation of RFC 6455.
    ProtocolError = 1002,
    /// A kind of frame that this dialect does not have.
    UnsupportedData = 1003,
    /// Text that is not UTF-8.
    InvalidPayload = 1007,
    /// A message over the limit.
    MessageTooBig = 1009,
    /// The node is going away; reconnect elsewhere.
    Draining = 4000,
    /// The client did not read, and its outbox reached its limit.
    SlowConsumer = 4001,
    /// The client did not answer a ping in time.
    PingTimeout = 4002,
    /// The token expired and was not refreshed: reconnect with a new one.
    TokenExpired = 4003,
    /// The client did not authenticate in time.
    ConnectTimeout = 4004,
    /// A fault of the node.
    Internal = 4005,
    /// The node cannot take the connection now.
    Unavailable = 4006,
    /// No token, or one that is not valid.
    Unauthorized = 4500,
    /// A valid token that does not allow connecting.
    Forbidden = 4501,
    /// A limit on what one client may do is reached for good.
    LimitExceeded = 4502,
    /// The client keeps sending what the protocol does not allow.
    BadRequest = 4503,
}

impl CloseCode {
    /// Every code, in the order of docs/protocol.md.
    pub const ALL: [Self; 16] = [
        Self::Normal,
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidPayload,
        Self::MessageTooBig,
        Self::Draining,
        Self::SlowConsumer,
        Self::PingTimeout,
        Self::TokenExpired,
        Self::ConnectTimeout,
        Self::Internal,
        Self::Unavailable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::LimitExceeded,
        Self::BadRequest,
    ];

    /// The number on the wire.
    pub const fn as_u16(self) -> u16 {
        self as u16
    }

    /// A word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ProtocolError => "protocol_error",
            Self::UnsupportedData => "unsupported_data",
            Self::InvalidPayload => "invalid_payload",
            Self::MessageTooBig => "message_too_big",
            Self::Draining => "draining",
            Self::SlowConsumer => "slow_consumer",
            Self::PingTimeout => "ping_timeout",
            Self::TokenExpired => "token_expired",
            Self::ConnectTimeout => "connect_timeout",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::LimitExceeded => "limit_exceeded",
            Self::BadRequest => "bad_request",
        }
    }

    /// Whether a client reconnects after it.
    pub const fn reconnect(self) -> bool {
        let code = self.as_u16();
        code >= 4000 && code < 4500
    }
}
