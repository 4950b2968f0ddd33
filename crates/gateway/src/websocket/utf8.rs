//! Validation of a text message that arrives in pieces (RFC 6455 section 8.1).

use super::ProtocolError;

/// How far a growing text has been found to be UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    valid_up_to: usize,
}

impl Progress {
    /// Validates what was added to `text` since the last call. A character that is still
    /// incomplete at the end is left for the next call; one that can no longer become valid fails
    /// at once.
    pub(super) fn check(&mut self, text: &[u8]) -> Result<(), ProtocolError> {
        match simdutf8::compat::from_utf8(&text[self.valid_up_to..]) {
            Ok(_) => {
                self.valid_up_to = text.len();
                Ok(())
            }
            Err(error) if error.error_len().is_none() => {
                self.valid_up_to += error.valid_up_to();
                Ok(())
            }
            Err(_) => Err(ProtocolError::InvalidUtf8),
        }
    }
}

/// The text of a complete message.
#[inline]
pub(super) fn complete(text: &[u8]) -> Result<&str, ProtocolError> {
    simdutf8::basic::from_utf8(text).map_err(|_| ProtocolError::InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fails_at_the_first_byte_that_cannot_become_valid() {
        let text = b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80";
        let mut progress = Progress::default();
        for end in 0..=6 {
            assert_eq!(progress.check(&text[..end]), Ok(()), "first {end} bytes");
        }
        // f4 90 would be above U+10FFFF.
        assert_eq!(progress.check(&text[..7]), Err(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn an_incomplete_character_is_invalid_only_at_the_end() {
        let text = "\u{20ac}".as_bytes();
        assert_eq!(Progress::default().check(&text[..2]), Ok(()));
        assert_eq!(complete(&text[..2]), Err(ProtocolError::InvalidUtf8));
        assert_eq!(complete(text), Ok("\u{20ac}"));
    }
}
