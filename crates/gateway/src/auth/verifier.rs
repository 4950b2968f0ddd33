//! The verifier.

use fanfare_session::{Grant, Refusal, Time};

use super::{AuthConfig, KeyError};

/// Verifies tokens. Shared by all shards.
#[derive(Debug)]
pub struct Verifier {}

impl Verifier {
    /// A verifier for what is configured. Nothing is fetched yet: see [`run`](Self::run).
    ///
    /// # Errors
    /// [`KeyError`] names the key that cannot be used.
    pub fn new(_config: &AuthConfig) -> Result<Self, KeyError> {
        unreachable!("until it is written")
    }

    /// Verifies with the keys at hand. `None`: keys have to be fetched first, so [`verify`](Self::verify) must be awaited.
    /// Takes up to about 100 µs for the slowest algorithm; call it on a shard.
    pub fn try_verify(&self, _token: &str, _now: Time) -> Option<Result<Box<Grant>, Refusal>> {
        None
    }

    /// Verifies, and fetches keys where the token names one that is not known. Call it on the main runtime.
    ///
    /// # Errors
    /// `UNAUTHORIZED`, `TOKEN_EXPIRED`, or `UNAVAILABLE` where keys could not be fetched. The text never has the token in it.
    pub async fn verify(&self, _token: &str, _now: Time) -> Result<Box<Grant>, Refusal> {
        unreachable!("until it is written")
    }

    /// Keeps the fetched keys fresh until it is dropped or `stop` is cancelled. Returns at once where no JWKS URL is configured.
    pub async fn run(&self, _stop: tokio_util::sync::CancellationToken) {}
}
