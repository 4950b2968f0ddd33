//! What is configured about tokens.

use std::{collections::BTreeSet, time::Duration};

use fanfare_protocol::Tenant;
use jsonwebtoken::Algorithm;

use crate::config::Secret;

/// `[auth]` of the configuration, checked.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// The keys that are given, each with its algorithms.
    pub keys: Vec<KeyConfig>,
    /// Where to fetch keys.
    pub jwks: Option<JwksConfig>,
    /// What a token must claim.
    pub policy: TokenPolicy,
    /// Whether clients without a token may connect, to the tenant `default`.
    pub anonymous: bool,
    /// The cookie that may carry the token.
    pub cookie: Option<String>,
}

/// One key, with the only algorithms that it verifies.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// The configuration key that it came from, for error texts: `auth.keys[0]`.
    pub origin: String,
    /// The key's id, where it has one.
    pub kid: Option<String>,
    /// Algorithms of one family; empty: all that fit the key.
    pub algorithms: Vec<Algorithm>,
    /// A secret (HS*) or a public key in PEM (all others).
    pub material: KeyMaterial,
}

/// What a key is made of.
#[derive(Clone, Debug)]
pub enum KeyMaterial {
    /// A shared secret, its bytes as they are.
    Secret(Secret),
    /// A public key or certificate in PEM.
    Pem(String),
}

/// Where to fetch keys (RFC 7517 section 5).
#[derive(Clone, Debug)]
pub struct JwksConfig {
    /// The URL of the key set.
    pub url: url::Url,
    /// The least time between two fetches.
    pub refresh_min_interval: Duration,
    /// After this long the set is fetched again even if no key was missed.
    pub max_age: Duration,
}

/// What a token must claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPolicy {
    /// Algorithms that may be used at all; empty: every one that a key allows.
    pub algorithms: Vec<Algorithm>,
    /// Accepted values of `iss`; empty: any, or none.
    pub issuers: Vec<String>,
    /// Accepted values of `aud`, one of which the token must name; empty: any, or none.
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Whether a token must expire.
    pub require_exp: bool,
    /// Tenants that a token may name; empty: any.
    pub tenants: BTreeSet<Tenant>,
}

impl Default for TokenPolicy {
    fn default() -> Self {
        Self {
            algorithms: Vec::new(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(5),
            require_exp: true,
            tenants: BTreeSet::new(),
        }
    }
}

impl AuthConfig {
    /// Whether any token can be verified.
    pub fn verifies_tokens(&self) -> bool {
        !self.keys.is_empty() || self.jwks.is_some()
    }
}
