//! `fanfare token`, verified with the library that nodes verify with.

use std::{
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use fanfare_testkit::tls::Authority;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::command::{end, fanfare, run};

const SECRET: &str = "correct horse battery staple";

fn claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Value {
    // Without a provider of the process the library has none to verify with; another test may have installed it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut validation = Validation::new(algorithm);
    validation.validate_aud = false;
    decode::<Value>(token.trim_end(), key, &validation).unwrap().claims
}

#[tokio::test]
async fn a_token_is_verified_by_others_and_has_the_claims() {
    let words = ["token", "--sub", "alice", "--tenant", "acme", "--channel", "project:*", "--channel", "user:alice"];
    let words =
        [&words[..], &["--allow", "subscribe", "--allow", "publish", "--expires", "90s", "--kid", "k1"]].concat();
    let mut command = fanfare(&words);
    let ended = end(command.env("FANFARE_AUTH__HMAC_SECRET", SECRET).spawn().unwrap()).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1);
    let claims = claims(&ended.stdout, &DecodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256);
    assert_eq!((&claims["sub"], &claims["tenant"]), (&json!("alice"), &json!("acme")));
    let allow = json!(["subscribe", "publish"]);
    let channels = json!([{ "match": "project:*", "allow": allow }, { "match": "user:alice", "allow": allow }]);
    assert_eq!(claims["channels"], channels);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let issued = claims["iat"].as_u64().unwrap();
    assert!(now - 30 <= issued && issued <= now, "{issued} {now}");
    assert_eq!(claims["exp"].as_u64().unwrap(), issued + 90);
    assert_eq!(decode_header(ended.stdout.trim_end()).unwrap().kid.as_deref(), Some("k1"));
}

#[tokio::test]
async fn a_secret_comes_from_a_file_without_its_last_line_end() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{SECRET}").unwrap();
    let path = file.path().to_str().unwrap();
    let ended = run(&["token", "--sub", "alice", "--algorithm", "hs512", "--secret-file", path]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let claims = claims(&ended.stdout, &DecodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS512);
    assert_eq!(claims.get("channels"), None);
}

#[tokio::test]
async fn a_private_key_signs_too() {
    let certificate = Authority::generate().issue(&["localhost"]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.key.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let ended = run(&["token", "--sub", "alice", "--algorithm", "ES256", "--secret-file", path]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let key = DecodingKey::from_ec_pem(certificate.certificate.as_bytes()).unwrap();
    assert_eq!(claims(&ended.stdout, &key, Algorithm::ES256)["sub"], "alice");
    let ended = run(&["token", "--sub", "alice", "--algorithm", "RS256", "--secret-file", path]).await;
    assert!(ended.code == 2 && ended.stderr.contains("RS256"), "{ended:?}");
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_prints_no_token() {
    for (words, says) in [
        (&["--sub", "a"][..], "a secret to sign with is missing"),
        (&["--sub", "a", "--secret", ""], "the secret is empty"),
        (&["--sub", "a", "--secret", "s", "--secret-file", "f"], "not both"),
        (&["--sub", "a", "--secret", "s", "--channel", "a.b", "--allow", "subscribe"], "--channel"),
        (&["--sub", "a", "--algorithm", "ES256", "--secret", "s"], "--secret-file"),
    ] {
        let ended = run(&[&["token"], words].concat()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{words:?}: {ended:?}");
    }
    let ended = run(&["token", "--sub", "a", "--secret-file", "/nowhere/at/all"]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
}
