//! Keys from a URL (RFC 7517 section 5): fetched at start, again when they are old, and again when a token names one that
//! is not there, but never more often than configured. While fetching fails, the keys at hand stay.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::jwk::Jwk;
use metrics::counter;
use reqwest::{Client, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{JwksConfig, KeyError, keys::Key};
use crate::telemetry::metrics as names;

/// How long one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a key set.
const SET_BYTES: usize = 1024 * 1024;
/// Keys that are taken from a set.
const SET_KEYS: usize = 100;

/// The keys of a URL.
#[derive(Debug)]
pub(super) struct Jwks {
    config: JwksConfig,
    client: Client,
    state: RwLock<State>,
    /// Held while fetching, so that a thousand tokens with a new key cause one fetch.
    fetching: Mutex<()>,
}

/// What is known of the set.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The keys at hand.
    pub(super) keys: Arc<[Key]>,
    /// When a fetch was last begun.
    attempted: Option<Instant>,
    /// Why the last fetch failed.
    pub(super) failure: Option<String>,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", innermost(.0))]
    Http(#[from] reqwest::Error),
    #[error("the answer is {0}; 200 is needed, and redirects are not followed")]
    Status(reqwest::StatusCode),
    #[error("the answer has more than {SET_BYTES} bytes")]
    TooLarge,
    #[error("the answer is no JWK set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("none of the {0} keys can verify a signature")]
    NoKey(usize),
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl Jwks {
    pub(super) fn new(config: &JwksConfig) -> Result<Self, KeyError> {
        // reqwest panics without one. Where main has installed it, this changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("fanfare-gateway/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(FETCH_TIMEOUT)
            .build()
            .map_err(|error| KeyError { origin: "auth.jwks_url".into(), text: error.to_string() })?;
        Ok(Self { config: config.clone(), client, state: RwLock::default(), fetching: Mutex::new(()) })
    }

    /// What is known now.
    pub(super) fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the interval allows another fetch.
    pub(super) fn may_fetch(&self, state: &State) -> bool {
        state.attempted.is_none_or(|attempted| attempted.elapsed() >= self.config.refresh_min_interval)
    }

    /// Fetches, unless the interval forbids it; waits for a fetch that is under way instead of beginning another.
    pub(super) async fn refresh(&self) {
        let _fetching = self.fetching.lock().await;
        if !self.may_fetch(&self.state()) {
            return;
        }
        self.write(|state| state.attempted = Some(Instant::now()));
        match self.fetch().await {
            Ok(keys) => {
                counter!(names::JWKS_FETCHES_TOTAL, "result" => "ok").increment(1);
                info!(keys = keys.len(), "the key set was fetched");
                self.write(|state| (state.keys, state.failure) = (keys.into(), None));
            }
            Err(error) => {
                counter!(names::JWKS_FETCHES_TOTAL, "result" => "error").increment(1);
                warn!(%error, "the key set could not be fetched; the keys at hand stay");
                self.write(|state| state.failure = Some(error.to_string()));
            }
        }
    }

    /// Keeps the keys fresh until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.refresh() => {}
            }
            let wait = match self.state().failure {
                None => self.config.max_age,
                Some(_) => self.config.refresh_min_interval,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let mut answer = self.client.get(self.config.url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > SET_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }
}

/// A key that cannot be used does not spoil the others: sets hold keys for other purposes too.
fn parse(body: &[u8]) -> Result<Vec<Key>, FetchError> {
    let set: KeySet = serde_json::from_slice(body)?;
    let count = set.keys.len();
    if count > SET_KEYS {
        warn!(count, taken = SET_KEYS, "the key set has too many keys");
    }
    let mut keys = Vec::new();
    for (index, value) in set.keys.into_iter().take(SET_KEYS).enumerate() {
        match serde_json::from_value::<Jwk>(value).ok().and_then(|jwk| Key::from_jwk(&jwk)) {
            Some(key) => keys.push(key),
            None => debug!(index, "a key of the set cannot verify signatures here and is passed over"),
        }
    }
    if keys.is_empty() { Err(FetchError::NoKey(count)) } else { Ok(keys) }
}

/// reqwest's own text only says that something failed; the last cause says what.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() { format!("no answer within {FETCH_TIMEOUT:?}") } else { cause.to_string() }
}
