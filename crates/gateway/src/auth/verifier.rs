//! The verifier: header, signature, claims, in this order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fanfare_protocol::{ErrorBody, ErrorCode, limits::TOKEN_BYTES};
use fanfare_session::{Grant, Refusal, Time};
use jsonwebtoken::{Algorithm, AlgorithmFamily, crypto};
use metrics::counter;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{
    AuthConfig, KeyError, TokenPolicy,
    claims::{Claims, unauthorized},
    jwks::{Jwks, State},
    keys::Key,
};
use crate::telemetry::metrics as names;

/// Keys that one token is tried with. More than one fits only where keys have no ids.
const KEYS_TRIED: usize = 8;

/// Verifies tokens. Shared by all shards.
#[derive(Debug)]
pub struct Verifier {
    policy: TokenPolicy,
    keys: Vec<Key>,
    jwks: Option<Jwks>,
}

/// The parts of a token (RFC 7515 section 7.1), the header read.
struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// What is signed: header and payload as they came.
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// The header (RFC 7515 section 4.1), as far as it matters here.
#[derive(Deserialize)]
struct Header<'a> {
    alg: String,
    kid: Option<String>,
    #[serde(borrow)]
    crit: Option<&'a RawValue>,
}

/// What was found without fetching keys.
enum Verdict {
    Known(Result<Box<Grant>, Refusal>),
    /// Another key set may have the key.
    NeedsKeys(Refusal),
}

impl Verifier {
    /// A verifier for what is configured. Nothing is fetched yet: see [`run`](Self::run).
    ///
    /// # Errors
    /// [`KeyError`] names the key that cannot be used.
    pub fn new(config: &AuthConfig) -> Result<Self, KeyError> {
        Ok(Self {
            policy: config.policy.clone(),
            keys: config.keys.iter().map(Key::new).collect::<Result<_, _>>()?,
            jwks: config.jwks.as_ref().map(Jwks::new).transpose()?,
        })
    }

    /// Verifies with the keys at hand. `None`: keys have to be fetched first, so [`verify`](Self::verify) must be awaited.
    /// Takes about as long as one signature takes to verify (tens of microseconds), so that a shard may call it.
    pub fn try_verify(&self, token: &str, now: Time) -> Option<Result<Box<Grant>, Refusal>> {
        match self.judge(token, now, self.jwks.as_ref().map(Jwks::state)) {
            Verdict::Known(result) => Some(count(result)),
            Verdict::NeedsKeys(refusal) => match &self.jwks {
                Some(jwks) if jwks.may_fetch(&jwks.state()) => None,
                _ => Some(count(Err(refusal))),
            },
        }
    }

    /// Verifies, and fetches keys where the token names one that is not known. Call it on the main runtime.
    ///
    /// # Errors
    /// `UNAUTHORIZED`, `TOKEN_EXPIRED`, or `UNAVAILABLE` where keys could not be fetched. The text never has the token in it.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Box<Grant>, Refusal> {
        let mut verdict = self.judge(token, now, self.jwks.as_ref().map(Jwks::state));
        if let (Verdict::NeedsKeys(_), Some(jwks)) = (&verdict, &self.jwks) {
            jwks.refresh().await;
            verdict = self.judge(token, now, Some(jwks.state()));
        }
        count(match verdict {
            Verdict::Known(result) => result,
            Verdict::NeedsKeys(refusal) => Err(refusal),
        })
    }

    /// Fetches keys and keeps them fresh until `stop` is cancelled. Returns at once where no URL is configured.
    pub async fn run(&self, stop: CancellationToken) {
        if let Some(jwks) = &self.jwks {
            jwks.run(stop).await;
        }
    }

    fn judge(&self, text: &str, now: Time, fetched: Option<State>) -> Verdict {
        let token = match Token::parse(text, &self.policy) {
            Ok(token) => token,
            Err(refusal) => return Verdict::Known(Err(refusal)),
        };
        let fetched_keys = fetched.as_ref().map_or(&[][..], |state| &state.keys);
        let (mut fitting, mut named_is_known) = (0, false);
        for key in self.keys.iter().chain(fetched_keys).filter(|key| key.fits(token.algorithm, token.kid.as_deref())) {
            fitting += 1;
            named_is_known |= key.kid.is_some() && key.kid == token.kid;
            if fitting > KEYS_TRIED {
                break;
            }
            if token.is_signed_by(key) {
                return Verdict::Known(
                    token.claims().and_then(|claims| claims.grant(&self.policy, since_epoch(), now)),
                );
            }
        }
        // A shared secret never comes from a set, and where the named key is known, a set has nothing to add.
        match fetched {
            Some(state) if token.algorithm.family() != AlgorithmFamily::Hmac && !named_is_known => {
                Verdict::NeedsKeys(token.without_key(fitting, &state))
            }
            _ => Verdict::Known(Err(self.unverified(&token, fitting))),
        }
    }

    fn unverified(&self, token: &Token<'_>, fitting: usize) -> Refusal {
        if self.keys.is_empty() && self.jwks.is_none() {
            unauthorized("this node has no key to verify tokens with; connect without one")
        } else {
            token.unverified(fitting)
        }
    }
}

impl<'a> Token<'a> {
    fn parse(text: &'a str, policy: &TokenPolicy) -> Result<Self, Refusal> {
        if text.len() > TOKEN_BYTES {
            return Err(unauthorized(format!("the token has {} bytes; allowed are {TOKEN_BYTES}", text.len())));
        }
        let no_token = || unauthorized("the token is no JWT: it must be three parts in base64url, joined by dots");
        let (message, signature) = text.rsplit_once('.').ok_or_else(no_token)?;
        let (header, payload) = message.split_once('.').ok_or_else(no_token)?;
        if payload.contains('.') {
            return Err(no_token());
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| no_token())?;
        let header: Header<'_> = serde_json::from_slice(&header)
            .map_err(|_| unauthorized("the token's header is no JSON object with alg"))?;
        if header.crit.is_some() {
            return Err(unauthorized(
                "the token's header has crit, and no extension is known here (RFC 7515 section 4.1.11)",
            ));
        }
        let refused = || unauthorized(format!("the token's algorithm {:?} is not allowed", shorten(&header.alg)));
        // `none` is not among the names that can be read.
        let algorithm: Algorithm = header.alg.parse().map_err(|_| refused())?;
        if !policy.algorithms.is_empty() && !policy.algorithms.contains(&algorithm) {
            return Err(refused());
        }
        Ok(Self { algorithm, kid: header.kid, message, payload, signature })
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        // `fits` has checked that the algorithm is one of this key's; a malformed signature is an error, and no match.
        crypto::verify(self.signature, self.message.as_bytes(), &key.key, self.algorithm).unwrap_or(false)
    }

    fn claims(&self) -> Result<Claims, Refusal> {
        let payload = URL_SAFE_NO_PAD
            .decode(self.payload)
            .map_err(|_| unauthorized("the token's claims are not valid: they are not base64url"))?;
        Claims::parse(&payload)
    }

    fn unverified(&self, fitting: usize) -> Refusal {
        let algorithm = self.algorithm;
        match &self.kid {
            _ if fitting > 0 => unauthorized("the token's signature is not right"),
            Some(kid) => unauthorized(format!("no key {:?} for {algorithm:?} is known", shorten(kid))),
            None => unauthorized(format!("no key for {algorithm:?} is known")),
        }
    }

    /// Where the set could not be fetched, the key may well exist.
    fn without_key(&self, fitting: usize, state: &State) -> Refusal {
        match state.failure {
            Some(_) if fitting == 0 => {
                ErrorBody::new(ErrorCode::Unavailable, "the keys to verify the token with could not be fetched")
            }
            _ => self.unverified(fitting),
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn count(result: Result<Box<Grant>, Refusal>) -> Result<Box<Grant>, Refusal> {
    let word = match &result {
        Ok(_) => "ok",
        Err(refusal) if refusal.code == ErrorCode::TokenExpired => "expired",
        Err(refusal) if refusal.code == ErrorCode::Unavailable => "unavailable",
        Err(_) => "refused",
    };
    counter!(names::AUTH_TOTAL, "result" => word).increment(1);
    result
}

/// What a stranger wrote, short enough for a message.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
