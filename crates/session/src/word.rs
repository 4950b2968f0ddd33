//! What a member is doing.

use std::sync::Arc;

use fanfare_protocol::limits;

/// What a member is doing: `online`, `idle`, or an application's own word such as `editing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PresenceWord {
    /// There.
    #[default]
    Online,
    /// There, but without activity for a while.
    Idle,
    /// An application's own word: 1 to 32 of `a-z 0-9 _ -`, other than `offline`.
    Own(Arc<str>),
}

impl PresenceWord {
    /// Bytes of the longest word.
    pub const BYTES: usize = limits::STATE_BYTES;

    /// Reads a word.
    ///
    /// # Errors
    /// What it is, and what is allowed.
    pub fn parse(word: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let is_word = (1..=Self::BYTES).contains(&word.len()) && word.bytes().all(allowed);
        match word {
            "online" => Ok(Self::Online),
            "idle" => Ok(Self::Idle),
            _ if is_word && word != "offline" => Ok(Self::Own(word.into())),
            // Cut, since nobody knows how long it is.
            _ => Err(format!(
                "state {:?} is not allowed; allowed are 1 to {} of a-z 0-9 _ -, except \"offline\"",
                word.chars().take(Self::BYTES).collect::<String>(),
                Self::BYTES
            )),
        }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Online => "online",
            Self::Idle => "idle",
            Self::Own(word) => word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_short_and_plain() {
        for word in ["online", "idle", "editing", "on-call_2", "x", &"x".repeat(32)] {
            assert_eq!(PresenceWord::parse(word).unwrap().as_str(), word);
        }
        let refused = |word: &str| PresenceWord::parse(word).unwrap_err();
        for word in ["", "offline", "Editing", "in a call", "ö"] {
            let message =
                format!(r#"state {word:?} is not allowed; allowed are 1 to 32 of a-z 0-9 _ -, except "offline""#);
            assert_eq!(refused(word), message);
        }
        assert!(refused(&"x".repeat(1_000)).starts_with(&format!("state {:?} is", "x".repeat(32))));
    }
}
