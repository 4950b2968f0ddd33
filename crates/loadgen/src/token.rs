//! Tokens for sockets (RFC 7519), signed as applications sign them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// How long a token lasts: longer than any run.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// A token for `user` that may subscribe to `channel`, see its members and read its history.
pub(crate) fn signed(secret: &str, user: &str, channel: &str, now: SystemTime) -> String {
    let expires = now.duration_since(UNIX_EPOCH).unwrap_or_default() + LIFETIME;
    let claims = serde_json::json!({
        "sub": user,
        "exp": expires.as_secs(),
        "channels": [{ "match": channel, "allow": ["subscribe", "presence", "history"] }],
    });
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    let text = format!("{head}.{body}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_signed_over_its_head_and_claims() {
        let token = signed("secret", "user-1", "bench:2", UNIX_EPOCH + Duration::from_secs(1_000));
        let (text, signature) = token.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        hmac::verify(&key, text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(text.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["sub"], &claims["exp"]), (&"user-1".into(), &4_600.into()));
        assert_eq!(claims["channels"][0]["match"], "bench:2");
    }
}
