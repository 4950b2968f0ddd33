//! Patterns over channels: `project:*` is one segment, `project:**` the rest; the namespace is literal.

use std::{fmt, sync::Arc};

use crate::{
    Channel, NameError,
    channel::{namespace, validate_segment_characters, validate_segments},
};

/// A valid pattern with at least one wildcard, such as `project:*` or `project:**`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks and keeps a pattern. A name without a wildcard is a pattern that matches only itself.
    ///
    /// # Errors
    /// [`NameError`] says which rule the pattern breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let last = text.split(':').count() - 1;
        validate_segments(text, |index, segment| match segment {
            "*" | "**" if index == 0 => Err(NameError::Wildcard),
            "*" => Ok(()),
            "**" if index == last => Ok(()),
            _ => validate_segment_characters(segment),
        })?;
        Ok(Self(text.into()))
    }

    /// The whole pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment, always literal.
    pub fn namespace(&self) -> &str {
        namespace(&self.0)
    }

    /// The segments in order, wildcards included.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(':')
    }

    /// Whether the pattern matches a channel. `**` stands for one segment or more.
    pub fn matches(&self, channel: &str) -> bool {
        self.covers_segments(channel)
    }

    /// Whether every channel that `topic` can stand for is matched by this pattern.
    pub fn covers(&self, topic: &Topic) -> bool {
        self.covers_segments(topic.as_str())
    }

    /// A `*` of the other side is covered only by `*` or `**`, a `**` only by `**`: so the same walk serves both.
    fn covers_segments(&self, other: &str) -> bool {
        let mut mine = self.0.split(':');
        let mut theirs = other.split(':');
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some("**")) => return false,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }
}

/// What one subscribes to: a channel, or a pattern over channels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// One channel.
    Channel(Channel),
    /// All channels that a pattern matches.
    Pattern(Pattern),
}

impl Topic {
    /// Reads a name: with a `*` in it a pattern, else a channel.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.contains('*') {
            Pattern::parse(name).map(Self::Pattern)
        } else {
            Channel::parse(name).map(Self::Channel)
        }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Channel(channel) => channel.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }

    /// The first segment.
    pub fn namespace(&self) -> &str {
        namespace(self.as_str())
    }

    /// Whether this is a pattern.
    pub fn is_pattern(&self) -> bool {
        matches!(self, Self::Pattern(_))
    }

    /// Whether a publication on `channel` belongs to this topic.
    pub fn matches(&self, channel: &str) -> bool {
        match self {
            Self::Channel(own) => own.as_str() == channel,
            Self::Pattern(pattern) => pattern.matches(channel),
        }
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_the_rest() {
        assert!(pattern("project:*").matches("project:a"));
        assert!(!pattern("project:*").matches("project:a:b"));
        assert!(!pattern("project:*").matches("project"));
        assert!(pattern("project:**").matches("project:a:b"));
        assert!(!pattern("project:**").matches("project"));
        assert!(pattern("project:*:status").matches("project:a:status"));
        assert!(!pattern("project:*:status").matches("project:a:other"));
    }

    #[test]
    fn a_pattern_covers_only_what_it_matches_wholly() {
        let covers = |a: &str, b: &str| pattern(a).covers(&Topic::parse(b).unwrap());
        assert!(covers("project:*", "project:*"));
        assert!(covers("project:**", "project:*"));
        assert!(covers("project:**", "project:**"));
        assert!(covers("project:**", "project:*:status"));
        assert!(!covers("project:*", "project:**"));
        assert!(!covers("project:a", "project:*"));
        assert!(covers("project:a", "project:a"));
    }

    #[test]
    fn the_namespace_is_literal_and_the_rest_comes_last() {
        for text in ["*", "**", "*:a", "a:**:b", "a:b*", "a:***"] {
            assert_eq!(Pattern::parse(text), Err(NameError::Wildcard), "{text}");
        }
    }
}
