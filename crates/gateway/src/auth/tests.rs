//! Tokens of every algorithm, right and wrong, and key sets that change, on a real HTTP server.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    },
};
use axum::{Router, http::StatusCode, routing::get};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fanfare_protocol::ErrorCode;
use fanfare_session::{Grant, Refusal, Time};
use jsonwebtoken::{EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Secret;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: Time = Time::from_millis(1_000);

/// A private key with its public half.
struct Pair {
    algorithms: &'static [Algorithm],
    signing: EncodingKey,
    /// The public key in PEM.
    public: String,
}

fn pem(name: &str, der: &[u8]) -> String {
    let lines: Vec<_> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
}

fn rsa() -> Pair {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    Pair {
        algorithms: &[RS256, RS384, RS512, PS256, PS384, PS512],
        signing: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap(),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
}

fn ec(p384: bool) -> Pair {
    let kind = if p384 { &ECDSA_P384_SHA384_FIXED_SIGNING } else { &ECDSA_P256_SHA256_FIXED_SIGNING };
    let private = EcdsaKeyPair::generate_pkcs8(kind, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(kind, private.as_ref()).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Pair {
        algorithms: if p384 { &[Algorithm::ES384] } else { &[Algorithm::ES256] },
        signing: EncodingKey::from_ec_der(private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
}

fn ed() -> Pair {
    let pair = Ed25519KeyPair::generate().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    Pair {
        algorithms: &[Algorithm::EdDSA],
        signing: EncodingKey::from_ed_der(private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
}

impl Pair {
    fn token(&self, algorithm: Algorithm, kid: Option<&str>) -> String {
        sign(algorithm, kid, &self.signing, &claims())
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signing, self.algorithms[0]).unwrap();
        jwk.common.key_id = Some(kid.into());
        // Most sets name no algorithm, so that RS* and PS* go with one key.
        jwk.common.key_algorithm = None;
        serde_json::to_value(jwk).unwrap()
    }
}

fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "sub": "alice", "tenant": "acme", "exp": epoch() + 60 })
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn hmac(claims: &Value) -> String {
    sign(Algorithm::HS256, None, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn key(kid: Option<&str>, algorithms: &[Algorithm], material: KeyMaterial) -> KeyConfig {
    KeyConfig { origin: "auth.keys[0]".into(), kid: kid.map(str::to_owned), algorithms: algorithms.into(), material }
}

fn secret_key() -> KeyConfig {
    key(None, &[], KeyMaterial::Secret(Secret::new(SECRET)))
}

fn public_key(pair: &Pair) -> KeyConfig {
    key(None, &[], KeyMaterial::Pem(pair.public.clone()))
}

fn verifier(keys: Vec<KeyConfig>) -> Verifier {
    Verifier::new(&AuthConfig { keys, ..AuthConfig::default() }).unwrap()
}

fn verdict(verifier: &Verifier, token: &str) -> Result<Box<Grant>, Refusal> {
    verifier.try_verify(token, NOW).expect("nothing has to be fetched")
}

/// The refusal of a token, which is checked to hold no part of it.
fn refusal(verifier: &Verifier, token: &str) -> (ErrorCode, String) {
    let refusal = verdict(verifier, token).unwrap_err();
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!refusal.message.contains(part), "{}", refusal.message);
    }
    (refusal.code, refusal.message)
}

fn unauthorized(message: &str) -> (ErrorCode, String) {
    (ErrorCode::Unauthorized, message.to_owned())
}

#[test]
fn every_algorithm_is_verified_with_its_own_key() {
    let (rsa, p256, p384, ed) = (rsa(), ec(false), ec(true), ed());
    let pairs = [&rsa, &p256, &p384, &ed];
    let mut keys: Vec<_> = pairs.iter().map(|pair| public_key(pair)).collect();
    keys.push(secret_key());
    let verifier = verifier(keys);
    let mut seen = 0;
    for pair in pairs {
        for algorithm in pair.algorithms {
            let grant = verdict(&verifier, &pair.token(*algorithm, None)).unwrap();
            assert_eq!((grant.user.as_deref(), grant.tenant.as_str()), (Some("alice"), "acme"), "{algorithm:?}");
            seen += 1;
        }
    }
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign(algorithm, None, &EncodingKey::from_secret(SECRET.as_bytes()), &claims());
        assert!(verdict(&verifier, &token).is_ok(), "{algorithm:?}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[test]
fn another_key_of_the_same_kind_is_refused() {
    let not_right = unauthorized("the token's signature is not right");
    for (own, other) in [(rsa(), rsa()), (ec(false), ec(false)), (ec(true), ec(true)), (ed(), ed())] {
        let verifier = verifier(vec![public_key(&own)]);
        for algorithm in own.algorithms {
            assert_eq!(refusal(&verifier, &other.token(*algorithm, None)), not_right, "{algorithm:?}");
        }
    }
    let other = EncodingKey::from_secret(b"another secret of 32 bytes or so");
    let verifier = verifier(vec![secret_key()]);
    assert_eq!(refusal(&verifier, &sign(Algorithm::HS256, None, &other, &claims())), not_right);
}

#[test]
fn a_changed_token_is_refused() {
    let pair = ed();
    let verifier = verifier(vec![public_key(&pair)]);
    let token = pair.token(Algorithm::EdDSA, None);
    let parts: Vec<_> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(json!({ "sub": "mallory", "exp": epoch() + 60 }).to_string());
    let changed = format!("{}.{other}.{}", parts[0], parts[2]);
    assert_eq!(refusal(&verifier, &changed), unauthorized("the token's signature is not right"));
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(refusal(&verifier, &unsigned), unauthorized("the token's signature is not right"));
}

#[test]
fn no_algorithm_is_no_way_in() {
    let verifier = verifier(vec![secret_key()]);
    let claims = URL_SAFE_NO_PAD.encode(claims().to_string());
    for name in ["none", "None", "NONE", "nOnE", "", "HS1", "ES256K"] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": name }).to_string());
        let expected = unauthorized(&format!("the token's algorithm {name:?} is not allowed"));
        for signature in ["", "AAAA"] {
            assert_eq!(refusal(&verifier, &format!("{header}.{claims}.{signature}")), expected);
        }
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let rsa = rsa();
    let token = sign(Algorithm::HS256, None, &EncodingKey::from_secret(rsa.public.as_bytes()), &claims());
    let only_rsa = verifier(vec![public_key(&rsa)]);
    assert_eq!(refusal(&only_rsa, &token), unauthorized("no key for HS256 is known"));
    let both = verifier(vec![public_key(&rsa), secret_key()]);
    assert_eq!(refusal(&both, &token), unauthorized("the token's signature is not right"));
}

#[test]
fn a_key_verifies_only_its_own_algorithms() {
    let rsa = rsa();
    let only_256 = verifier(vec![key(None, &[Algorithm::RS256], KeyMaterial::Pem(rsa.public.clone()))]);
    assert!(verdict(&only_256, &rsa.token(Algorithm::RS256, None)).is_ok());
    assert_eq!(refusal(&only_256, &rsa.token(Algorithm::PS256, None)), unauthorized("no key for PS256 is known"));
    let policy = TokenPolicy { algorithms: vec![Algorithm::PS256], ..TokenPolicy::default() };
    let listed = Verifier::new(&AuthConfig { keys: vec![public_key(&rsa)], policy, ..AuthConfig::default() }).unwrap();
    assert!(verdict(&listed, &rsa.token(Algorithm::PS256, None)).is_ok());
    let expected = unauthorized("the token's algorithm \"RS256\" is not allowed");
    assert_eq!(refusal(&listed, &rsa.token(Algorithm::RS256, None)), expected);
}

#[test]
fn a_kid_chooses_the_key() {
    let (a, b) = (ed(), ed());
    let verifier = verifier(vec![
        key(Some("a"), &[], KeyMaterial::Pem(a.public.clone())),
        key(Some("b"), &[], KeyMaterial::Pem(b.public.clone())),
    ]);
    assert!(verdict(&verifier, &a.token(Algorithm::EdDSA, Some("a"))).is_ok());
    assert!(verdict(&verifier, &b.token(Algorithm::EdDSA, Some("b"))).is_ok());
    assert!(verdict(&verifier, &b.token(Algorithm::EdDSA, None)).is_ok(), "without kid all are tried");
    let wrong = refusal(&verifier, &a.token(Algorithm::EdDSA, Some("b")));
    assert_eq!(wrong, unauthorized("the token's signature is not right"));
    let unknown = refusal(&verifier, &a.token(Algorithm::EdDSA, Some("c")));
    assert_eq!(unknown, unauthorized("no key \"c\" for EdDSA is known"));
}

#[test]
fn what_is_no_token_is_refused() {
    let verifier = verifier(vec![secret_key()]);
    let none = unauthorized("the token is no JWT: it must be three parts in base64url, joined by dots");
    for text in ["", "x", "a.b", "a.b.c.d", "!.b.c", "...."] {
        assert_eq!(refusal(&verifier, text), none, "{text}");
    }
    assert_eq!(refusal(&verifier, "AAAA.b.c"), unauthorized("the token's header is no JSON object with alg"));
    let long = "x".repeat(16 * 1024 + 1);
    assert_eq!(refusal(&verifier, &long), unauthorized("the token has 16385 bytes; allowed are 16384"));
    let critical = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","crit":["exp"]}"#);
    let (code, message) = refusal(&verifier, &format!("{critical}.e30.AAAA"));
    assert_eq!(code, ErrorCode::Unauthorized);
    assert!(message.contains("crit"), "{message}");
}

#[test]
fn claims_are_checked_after_the_signature() {
    let policy = TokenPolicy { issuers: vec!["https://id.example".into()], ..TokenPolicy::default() };
    let config = AuthConfig { keys: vec![secret_key()], policy, ..AuthConfig::default() };
    let verifier = Verifier::new(&config).unwrap();
    let token = |changes: Value| {
        let mut claims = json!({ "sub": "alice", "exp": epoch() + 60, "iss": "https://id.example" });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        hmac(&claims)
    };
    let grant = verdict(&verifier, &token(json!({}))).unwrap();
    let end = grant.expires_at.unwrap().since(NOW);
    assert!((Duration::from_secs(63)..=Duration::from_secs(65)).contains(&end), "{end:?}: 60 s and the leeway");
    let (code, message) = refusal(&verifier, &token(json!({ "exp": epoch() - 100 })));
    assert_eq!(code, ErrorCode::TokenExpired);
    assert!(message == "the token expired 100 s ago" || message == "the token expired 101 s ago", "{message}");
    let (code, message) = refusal(&verifier, &token(json!({ "nbf": epoch() + 100 })));
    assert_eq!(code, ErrorCode::Unauthorized);
    assert!(message.starts_with("the token is not valid yet: nbf is "), "{message}");
    let wrong = refusal(&verifier, &token(json!({ "iss": "https://evil.example" })));
    assert_eq!(wrong, unauthorized("the token's iss is not accepted here"));
    let (_, message) = refusal(&verifier, &token(json!({ "tenant": "a.b" })));
    assert!(message.starts_with("the token's tenant is not valid: "), "{message}");
}

#[test]
fn without_any_key_a_token_is_refused() {
    let expected = unauthorized("this node has no key to verify tokens with; connect without one");
    assert_eq!(refusal(&verifier(Vec::new()), &hmac(&claims())), expected);
}

#[test]
fn keys_that_cannot_be_used_are_told() {
    let text = |material| check_key(&key(None, &[], material)).unwrap();
    let no_key =
        "this is no public key in PEM; allowed are RSA, EC (P-256, P-384) and Ed25519 keys: -----BEGIN PUBLIC KEY-----";
    assert_eq!(text(KeyMaterial::Pem("hello".into())), no_key);
    let short = key(None, &[], KeyMaterial::Secret(Secret::new("short")));
    assert_eq!(check_key(&short), None);
    let weak = "the secret has 5 bytes; at least 32 are needed (RFC 7518 section 3.2)";
    assert_eq!(weakness(&short).as_deref(), Some(weak));
    let error = Verifier::new(&AuthConfig {
        keys: vec![key(None, &[Algorithm::ES256], KeyMaterial::Pem(ed().public))],
        ..AuthConfig::default()
    });
    assert_eq!(error.unwrap_err().to_string(), "auth.keys[0]: ES256 does not fit the key; allowed are EdDSA");
}

/// A server of key sets that counts its fetches.
struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    fetches: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        let answer = Arc::new(Mutex::new((StatusCode::OK, json!({ "keys": keys }).to_string())));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (answer.clone(), fetches.clone());
        let respond = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let (status, body) = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { (status, [("location", "http://127.0.0.1:1/")], body) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/jwks", get(respond));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, answer, fetches, task }
    }

    fn answer(&self, status: u16, body: impl Into<String>) {
        *self.answer.lock().unwrap() = (StatusCode::from_u16(status).unwrap(), body.into());
    }

    fn hold(&self, keys: &[Value]) {
        self.answer(200, json!({ "keys": keys }).to_string());
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn config(&self, refresh_min_interval: Duration, max_age: Duration) -> AuthConfig {
        let url = format!("http://{}/jwks", self.address).parse().unwrap();
        AuthConfig { jwks: Some(JwksConfig { url, refresh_min_interval, max_age }), ..AuthConfig::default() }
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn keys_are_fetched_once_for_many_tokens() {
    let pair = rsa();
    let server = KeyServer::start(&[pair.jwk("one")]).await;
    let verifier = Verifier::new(&server.config(HOUR, HOUR)).unwrap();
    let token = pair.token(Algorithm::RS256, Some("one"));
    assert!(verifier.try_verify(&token, NOW).is_none(), "the keys are not there yet");
    let all = futures_util::future::join_all((0..100).map(|_| verifier.verify(&token, NOW))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(server.fetches(), 1);
    assert!(verdict(&verifier, &token).is_ok());
    assert!(verdict(&verifier, &pair.token(Algorithm::PS512, None)).is_ok(), "without kid too");
}

#[tokio::test]
async fn a_new_key_is_fetched_but_not_more_than_once_per_interval() {
    let (old, new, other) = (ed(), ed(), ed());
    let server = KeyServer::start(&[old.jwk("old")]).await;
    let interval = Duration::from_millis(300);
    let verifier = Verifier::new(&server.config(interval, HOUR)).unwrap();
    assert!(verifier.verify(&old.token(Algorithm::EdDSA, Some("old")), NOW).await.is_ok());

    // Rotated: within the interval the new key is not known, however often it is named.
    server.hold(&[old.jwk("old"), new.jwk("new")]);
    let token = new.token(Algorithm::EdDSA, Some("new"));
    if server.fetches() == 1 {
        for _ in 0..50 {
            let _ = verifier.verify(&token, NOW).await;
        }
        assert!(server.fetches() <= 2, "{}", server.fetches());
    }
    let begun = std::time::Instant::now();
    while verifier.verify(&token, NOW).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the new key is never fetched");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(verdict(&verifier, &old.token(Algorithm::EdDSA, Some("old"))).is_ok());

    // Strangers with keys that do not exist cause one fetch per interval at most.
    let (before, begun) = (server.fetches(), std::time::Instant::now());
    let forged = other.token(Algorithm::EdDSA, Some("forged"));
    let mut asked = 0;
    while begun.elapsed() < interval * 3 {
        let refusal = verifier.verify(&forged, NOW).await.unwrap_err();
        assert_eq!(refusal.message, "no key \"forged\" for EdDSA is known");
        asked += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (fetched, allowed) = (server.fetches() - before, begun.elapsed().as_millis() / interval.as_millis() + 1);
    assert!(fetched as u128 <= allowed && fetched >= 1 && asked > 20, "{fetched} fetches, {asked} tokens");
}

#[tokio::test]
async fn a_known_key_with_a_wrong_signature_fetches_nothing() {
    let (pair, other) = (ed(), ed());
    let server = KeyServer::start(&[pair.jwk("one")]).await;
    let verifier = Verifier::new(&server.config(Duration::from_millis(1), HOUR)).unwrap();
    assert!(verifier.verify(&pair.token(Algorithm::EdDSA, Some("one")), NOW).await.is_ok());
    let wrong = refusal(&verifier, &other.token(Algorithm::EdDSA, Some("one")));
    assert_eq!(wrong, unauthorized("the token's signature is not right"));
    let symmetric = refusal(&verifier, &hmac(&claims()));
    assert_eq!(symmetric, unauthorized("no key for HS256 is known"));
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn old_keys_stay_while_fetching_fails() {
    let (pair, other) = (ec(false), ec(false));
    let server = KeyServer::start(&[pair.jwk("one")]).await;
    let verifier = Verifier::new(&server.config(Duration::from_millis(1), HOUR)).unwrap();
    let token = pair.token(Algorithm::ES256, Some("one"));
    assert!(verifier.verify(&token, NOW).await.is_ok());
    for (status, body) in [
        (500, String::new()),
        (302, String::new()),
        (200, "no JSON".into()),
        (200, r#"{"keys":[]}"#.into()),
        (200, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#.into()),
        (200, format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(1024 * 1024))),
    ] {
        server.answer(status, body);
        tokio::time::sleep(Duration::from_millis(2)).await;
        let before = server.fetches();
        let refusal = verifier.verify(&other.token(Algorithm::ES256, Some("two")), NOW).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Unavailable, "{status}");
        assert_eq!(refusal.message, "the keys to verify the token with could not be fetched");
        assert!(refusal.retryable);
        assert_eq!(server.fetches(), before + 1, "a redirect is not followed");
        assert!(verdict(&verifier, &token).is_ok(), "the old key stays");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable_and_not_asked_at_once_again() {
    let pair = ed();
    let server = KeyServer::start(&[]).await;
    let mut config = server.config(HOUR, HOUR);
    // A port that was just given back: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.jwks.as_mut().unwrap().url = format!("http://{closed}/jwks").parse().unwrap();
    let verifier = Verifier::new(&config).unwrap();
    let token = pair.token(Algorithm::EdDSA, Some("one"));
    assert_eq!(verifier.verify(&token, NOW).await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(verdict(&verifier, &token).unwrap_err().code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_set_may_hold_keys_for_other_purposes() {
    let (pair, encryption) = (rsa(), rsa());
    let mut other = encryption.jwk("enc");
    other["use"] = "enc".into();
    let mut bound = pair.jwk("sig");
    bound["alg"] = "PS256".into();
    let set = [json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }), json!(5), other, bound];
    let server = KeyServer::start(&set).await;
    let verifier = Verifier::new(&server.config(Duration::from_millis(1), HOUR)).unwrap();
    assert!(verifier.verify(&pair.token(Algorithm::PS256, Some("sig")), NOW).await.is_ok());
    let message = |token: String| async { verifier.verify(&{ token }, NOW).await.unwrap_err().message };
    assert_eq!(message(encryption.token(Algorithm::RS256, Some("enc"))).await, "no key \"enc\" for RS256 is known");
    assert_eq!(message(pair.token(Algorithm::RS256, Some("sig"))).await, "no key \"sig\" for RS256 is known");
}

#[tokio::test]
async fn keys_are_fetched_at_start_and_again_when_they_are_old() {
    let (old, new) = (ed(), ed());
    let server = KeyServer::start(&[old.jwk("old")]).await;
    let verifier =
        Arc::new(Verifier::new(&server.config(Duration::from_millis(10), Duration::from_millis(50))).unwrap());
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (verifier, stop) = (verifier.clone(), stop.clone());
        async move { verifier.run(stop).await }
    });
    let known = async |token: &str| {
        let begun = std::time::Instant::now();
        while !matches!(verifier.try_verify(token, NOW), Some(Ok(_))) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the key is never fetched");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    known(&old.token(Algorithm::EdDSA, Some("old"))).await;
    server.hold(&[new.jwk("new")]);
    known(&new.token(Algorithm::EdDSA, Some("new"))).await;
    stop.cancel();
    running.await.unwrap();
}
