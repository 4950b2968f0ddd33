//! The channel that a command names.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, Topic};

/// Reads the name of a channel. `why` says for what a pattern cannot stand: "history is read of a channel".
pub(crate) fn parse(name: &str, why: &str) -> Result<Channel, ErrorBody> {
    let bad_request = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
    match Topic::parse(name).map_err(|error| bad_request(error.to_string()))? {
        Topic::Channel(channel) => Ok(channel),
        Topic::Pattern(pattern) => Err(bad_request(format!("{pattern} is a pattern; {why}"))),
    }
}
