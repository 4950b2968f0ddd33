//! Tokens, signed as whoever signs users in would.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The secret that [`Node`](crate::node::Node)s verify tokens with.
pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";

/// The claims of a user who may subscribe to everything and publish on `board:*`, for an hour.
pub(crate) fn claims(tenant: &str, user: &str) -> Value {
    json!({
        "sub": user,
        "tenant": tenant,
        "exp": seconds_from_now(3600.0),
        "channels": [
            { "match": "project:**", "allow": ["subscribe"] },
            { "match": "board:*", "allow": ["subscribe", "publish"] },
        ],
    })
}

/// A token with [`claims`].
pub(crate) fn token(tenant: &str, user: &str) -> String {
    sign(&claims(tenant, user))
}

/// A token with any claims, in HS256 by [`SECRET`].
pub(crate) fn sign(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("claims are JSON")
}

/// A time for `exp` (RFC 7519 section 2: seconds, which may have a fraction).
pub(crate) fn seconds_from_now(seconds: f64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    now.as_secs_f64() + seconds
}
