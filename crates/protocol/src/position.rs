//! Where a publication stands on its channel.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The identity of a channel's numbering. Positions with different epochs cannot be compared: the numbering began anew.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(Arc<str>);

/// A place in the order of a channel with history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Increases with every publication on the channel; not always by one.
    pub offset: u64,
    /// Which numbering the offset belongs to.
    pub epoch: Epoch,
}

/// A text is no epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 1 to {max} of A-Z a-z 0-9 _ -", max = Epoch::BYTES)]
pub struct EpochError;

impl Epoch {
    /// Bytes of the longest epoch.
    pub const BYTES: usize = 64;

    /// Reads an epoch.
    ///
    /// # Errors
    /// Where it has other than 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub fn parse(text: &str) -> Result<Self, EpochError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > Self::BYTES || !text.bytes().all(allowed) {
            return Err(EpochError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Position {
    /// Whether the other position belongs to the same numbering and lies behind this one.
    pub fn is_before(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.offset < other.offset
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Epoch {
    type Error = EpochError;

    fn try_from(text: String) -> Result<Self, EpochError> {
        Self::parse(&text)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_short_word() {
        assert_eq!(Epoch::parse("aZ0_-").unwrap().as_str(), "aZ0_-");
        for text in ["", "a.b", "a,b", "a;b", "ä", &"x".repeat(65)] {
            assert_eq!(Epoch::parse(text), Err(EpochError), "{text:?}");
        }
    }

    #[test]
    fn only_positions_of_one_epoch_are_ordered() {
        let position = |offset, epoch| Position { offset, epoch: Epoch::parse(epoch).unwrap() };
        assert!(position(1, "a").is_before(&position(2, "a")));
        assert!(!position(2, "a").is_before(&position(2, "a")));
        assert!(!position(1, "a").is_before(&position(2, "b")));
        let text = r#"{"offset":41,"epoch":"a"}"#;
        assert_eq!(serde_json::from_str::<Position>(text).unwrap(), position(41, "a"));
        assert_eq!(serde_json::to_string(&position(41, "a")).unwrap(), text);
        assert!(serde_json::from_str::<Position>(r#"{"offset":41,"epoch":"a b"}"#).is_err());
    }
}
