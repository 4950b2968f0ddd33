//! The keys of the API, compared in constant time.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::Secret;

/// The keys that are accepted. Only their hashes are kept: they have one length, and so the comparison tells nothing of a
/// key's length either.
#[derive(Debug)]
pub(super) struct ApiKeys(Option<Vec<[u8; SHA256_OUTPUT_LEN]>>);

impl ApiKeys {
    /// These keys, any of them. Where there are none, nothing is accepted.
    pub(super) fn new(keys: &[Secret]) -> Self {
        Self(Some(keys.iter().map(|key| hash(key.expose().as_bytes())).collect()))
    }

    /// Everyone is accepted: development mode.
    pub(super) fn not_needed() -> Self {
        Self(None)
    }

    /// Whether no key at all is configured that could be accepted.
    pub(super) fn is_closed(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether a request with this key, or without one, is accepted. Takes the same time whichever key it is.
    pub(super) fn accept(&self, key: Option<&[u8]>) -> bool {
        let Some(keys) = &self.0 else { return true };
        let Some(key) = key else { return false };
        let given = hash(key);
        let any = keys.iter().fold(Choice::from(0), |any, known| any | known[..].ct_eq(&given[..]));
        any.into()
    }
}

fn hash(key: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    digest(&SHA256, key).as_ref().try_into().expect("SHA-256 gives this many bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_keys_is_accepted_and_nothing_else() {
        let keys = ApiKeys::new(&["first-key-of-two-00", "second-key-of-two-0"].map(Secret::new));
        assert!(keys.accept(Some(b"first-key-of-two-00")) && keys.accept(Some(b"second-key-of-two-0")));
        for key in [&b""[..], b"first-key-of-two-0", b"first-key-of-two-000", b"First-key-of-two-00", b"\xff"] {
            assert!(!keys.accept(Some(key)), "{key:?}");
        }
        assert!(!keys.accept(None));
    }

    #[test]
    fn without_keys_the_api_is_closed_but_in_development_mode() {
        let closed = ApiKeys::new(&[]);
        assert!(closed.is_closed() && !closed.accept(Some(b"")) && !closed.accept(None));
        assert!(!ApiKeys::not_needed().is_closed() && ApiKeys::not_needed().accept(None));
    }

    #[test]
    fn keys_are_not_shown() {
        assert!(!format!("{:?}", ApiKeys::new(&[Secret::new("first-key-of-two-00")])).contains("first"));
    }
}
