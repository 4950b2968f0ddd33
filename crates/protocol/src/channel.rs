//! Channel names: 1 to 8 segments joined by `:`.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::limits;

/// A valid channel name such as `project:clx123`. Cheap to clone; shared between sessions, hub and broker.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks and what is allowed.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        validate_channel(name)?;
        Ok(Self(name.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first segment, which carries the channel's options.
    pub fn namespace(&self) -> &str {
        namespace(&self.0)
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split(':')
    }
}

/// Why a name of a channel, pattern, tenant or segment is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty; allowed are 1 to {max} segments joined by ':'", max = limits::CHANNEL_SEGMENTS)]
    Empty,
    /// The name has too many bytes.
    #[error("the name has {0} bytes; allowed are {max}", max = limits::CHANNEL_BYTES)]
    TooLong(usize),
    /// The name has too many segments.
    #[error("the name has {0} segments; allowed are 1 to {max}", max = limits::CHANNEL_SEGMENTS)]
    TooManySegments(usize),
    /// A segment is empty or too long.
    #[error("segment {index} has {bytes} bytes; allowed are 1 to {max}", max = limits::SEGMENT_BYTES)]
    SegmentLength {
        /// Position of the segment, from 0.
        index: usize,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character that no segment may have.
    #[error("{character:?} is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,")]
    Character {
        /// The first such character.
        character: char,
    },
    /// A wildcard where none may stand.
    #[error(
        "a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace"
    )]
    Wildcard,
}

/// Checks a channel name without keeping it.
///
/// # Errors
/// [`NameError`] says which rule the name breaks.
pub fn validate_channel(name: &str) -> Result<(), NameError> {
    validate_segments(name, |_, segment| validate_segment_characters(segment))
}

/// Writes any text as one segment: what a segment may not hold, and `=` itself, becomes `=XX` per byte (upper-case hex).
/// This is how `user:{sub}` is built from a token's subject. Different texts give different segments. The result is a
/// valid segment unless it is empty or longer than [`limits::SEGMENT_BYTES`]: no channel is called after such a subject.
pub fn escape_segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_segment_byte(byte) && byte != b'=' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("={byte:02X}"));
        }
    }
    escaped
}

pub(crate) fn namespace(name: &str) -> &str {
    // It is short, and looked at for each publication: a plain loop is through before a search has begun.
    &name[..name.bytes().position(|byte| byte == b':').unwrap_or(name.len())]
}

/// The rules that channels and patterns share; `check` judges what a segment holds.
pub(crate) fn validate_segments(
    name: &str,
    check: impl Fn(usize, &str) -> Result<(), NameError>,
) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > limits::CHANNEL_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    let mut count = 0;
    for (index, segment) in name.split(':').enumerate() {
        if segment.is_empty() || segment.len() > limits::SEGMENT_BYTES {
            return Err(NameError::SegmentLength { index, bytes: segment.len() });
        }
        check(index, segment)?;
        count = index + 1;
    }
    if count > limits::CHANNEL_SEGMENTS {
        return Err(NameError::TooManySegments(count));
    }
    Ok(())
}

pub(crate) fn validate_segment_characters(segment: &str) -> Result<(), NameError> {
    match segment.chars().find(|c| !c.is_ascii() || !is_segment_byte(*c as u8)) {
        Some('*') => Err(NameError::Wildcard),
        Some(character) => Err(NameError::Character { character }),
        None => Ok(()),
    }
}

fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'=' | b'@' | b'+' | b'~' | b',')
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_allowed() {
        for name in ["a", "project:clx123", "user:a=40b", "a:b:c:d:e:f:g:h", "x:_-=@+~,"] {
            assert_eq!(Channel::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(Channel::parse("project:a:b").unwrap().namespace(), "project");
    }

    #[test]
    fn names_that_are_refused_say_why() {
        let long = "a".repeat(65);
        assert_eq!(Channel::parse(""), Err(NameError::Empty));
        assert_eq!(Channel::parse("a::b"), Err(NameError::SegmentLength { index: 1, bytes: 0 }));
        assert_eq!(Channel::parse(&long), Err(NameError::SegmentLength { index: 0, bytes: 65 }));
        assert_eq!(Channel::parse("a:b:c:d:e:f:g:h:i"), Err(NameError::TooManySegments(9)));
        assert_eq!(Channel::parse("a.b"), Err(NameError::Character { character: '.' }));
        assert_eq!(Channel::parse("a:ü"), Err(NameError::Character { character: 'ü' }));
        assert_eq!(Channel::parse("a:*"), Err(NameError::Wildcard));
        let wide = vec!["a".repeat(60); 5].join(":");
        assert_eq!(Channel::parse(&wide), Err(NameError::TooLong(304)));
    }

    #[test]
    fn any_subject_of_a_token_becomes_a_segment() {
        assert_eq!(escape_segment("alice"), "alice");
        assert_eq!(escape_segment("a=b.c|ü"), "a=3Db=2Ec=7C=C3=BC");
    }
}
