//! Who may not connect: each refused token is told why, in the same words wherever it was put, and the connection ends.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use toml::{Table, Value as Toml};

use super::scene::{Scene, error, error_push};
use crate::{
    client::Client,
    handshake::{Handshake, TokenPlace},
    node::{Node, NodeBuilder},
    token::{SECRET, claims, seconds_from_now, sign, token},
};

/// The public half of a key whose private half nobody has kept.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxnMNsQAJ93xAFOC3AmYX
9h406evAroARm4Sxv2rNpgFpGfwwa+5H935pOg3AcAZnUji9TSnjNh8FEb8Eq/di
iPMtab2I4mysEa9sA3egx2mjQGCHF0DCTjkbbBGzVGNlfdxEMBy0zochlw68XXNq
fYHiKI1g0x+jeaHWZAvSktoq46/3YjjuKT3WWc0gYWKkmLexUXX0GtpyMzLe/dV5
oLRr1aPyarOhkVGF9RDf7azSFrvhryWyDkXHZZaXaOOZuyUzuOcJaEd8p2cxEbKI
FpotQOeswbSGSOJ+KHGwi1P5U5i/wAv6OeM2rcAFJTmax1JtQsp3/EnBcju6dzpd
xQIDAQAB
-----END PUBLIC KEY-----
";

const NO_JWT: &str = "the token is no JWT: it must be three parts in base64url, joined by dots";
const WRONG_SIGNATURE: &str = "the token's signature is not right";
const TOKEN_REQUIRED: &str = "a token is required: anonymous clients are not allowed";

/// How a message is compared: what follows may be a number that depends on the clock, or a parser's words.
enum Message {
    Exactly(String),
    Begins(&'static str),
}

/// A token that is refused.
struct Refused {
    name: &'static str,
    token: String,
    code: &'static str,
    message: Message,
}

/// Takes HS256 by the secret and RS256 by the public key, of two tenants.
fn node() -> NodeBuilder {
    let key = Table::from_iter([("public_key".to_owned(), Toml::from(PUBLIC_KEY))]);
    Node::builder("memory:")
        .set("auth.keys", vec![Toml::Table(key)])
        .set("auth.algorithms", vec!["HS256", "RS256"])
        .set("auth.tenants", vec!["acme", "globex"])
        .set("log.level", "debug")
}

fn refused_tokens() -> Vec<Refused> {
    let unauthorized = |name, token: String, message: &str| Refused {
        name,
        token,
        code: "UNAUTHORIZED",
        message: Message::Exactly(message.to_owned()),
    };
    let begins = |name, token, code, message| Refused { name, token, code, message: Message::Begins(message) };
    let good = claims("acme", "mallory");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign(&claims)
    };
    let without_exp = json!({ "sub": "mallory", "tenant": "acme" });
    let none = |alg: &str| forged(&json!({ "alg": alg }), &good, "");
    let (message, signature) = token("acme", "mallory").rsplit_once('.').map(own).expect("three parts");
    let (other, _) = token("acme", "root").rsplit_once('.').map(own).expect("three parts");
    let hmac_under = |header: Value| {
        let message = forged(&header, &good, "");
        let signature = hmac(message.trim_end_matches('.'), SECRET);
        forged(&header, &good, &signature)
    };
    vec![
        begins("expired", with("exp", json!(seconds_from_now(-60.0))), "TOKEN_EXPIRED", "the token expired 6"),
        unauthorized(
            "wrong key",
            signed_by("another secret of at least thirty-two bytes", Algorithm::HS256),
            WRONG_SIGNATURE,
        ),
        unauthorized("empty signature", format!("{message}."), WRONG_SIGNATURE),
        unauthorized("a signature of another token", format!("{}.{signature}", other), WRONG_SIGNATURE),
        unauthorized(
            "HS512, right secret",
            signed_by(SECRET, Algorithm::HS512),
            r#"the token's algorithm "HS512" is not allowed"#,
        ),
        unauthorized(
            "HS384, right secret",
            signed_by(SECRET, Algorithm::HS384),
            r#"the token's algorithm "HS384" is not allowed"#,
        ),
        unauthorized("RS256 signed with the secret", hmac_under(json!({ "alg": "RS256" })), WRONG_SIGNATURE),
        unauthorized("HS256 signed with the public key", signed_by(PUBLIC_KEY, Algorithm::HS256), WRONG_SIGNATURE),
        unauthorized("none", none("none"), r#"the token's algorithm "none" is not allowed"#),
        unauthorized("None", none("None"), r#"the token's algorithm "None" is not allowed"#),
        unauthorized(
            "no algorithm",
            forged(&json!({ "typ": "JWT" }), &good, ""),
            "the token's header is no JSON object with alg",
        ),
        unauthorized(
            "an extension that must be known",
            hmac_under(json!({ "alg": "HS256", "crit": ["exp"] })),
            "the token's header has crit, and no extension is known here (RFC 7515 section 4.1.11)",
        ),
        unauthorized("no dots", "nonsense".into(), NO_JWT),
        unauthorized("two parts", message, NO_JWT),
        unauthorized("five parts", "a.b.c.d.e".into(), NO_JWT),
        unauthorized("no expiry", sign(&without_exp), "the token has no exp; tokens must expire"),
        begins(
            "not yet",
            with("nbf", json!(seconds_from_now(60.0))),
            "UNAUTHORIZED",
            "the token is not valid yet: nbf is ",
        ),
        unauthorized(
            "a tenant that is no name",
            sign(&claims("acme.project", "mallory")),
            "the token's tenant is not valid: '.' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,",
        ),
        unauthorized(
            "a tenant that is a wildcard",
            sign(&claims("*", "mallory")),
            "the token's tenant is not valid: a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace",
        ),
        begins(
            "a tenant that is no string",
            with("tenant", json!(["acme"])),
            "UNAUTHORIZED",
            "the token's claims are not valid: ",
        ),
        unauthorized(
            "a tenant that is not served",
            sign(&claims("initech", "mallory")),
            r#"the token's tenant "initech" is not served here"#,
        ),
        unauthorized("no user", sign(&claims("acme", "")), "the token's sub has 0 bytes; allowed are 1 to 255"),
        begins(
            "claims that are no list",
            with("channels", json!("all")),
            "UNAUTHORIZED",
            "the token's claims are not valid: ",
        ),
        unauthorized(
            "a claim that is not known",
            with("channels", json!([{ "match": "project:*", "allow": ["everything"] }])),
            r#"the token's channels[0].allow: "everything" is not known; allowed are subscribe, publish, presence, history"#,
        ),
        begins(
            "a claim on every namespace",
            with("channels", json!([{ "match": "**", "allow": ["subscribe"] }])),
            "UNAUTHORIZED",
            r#"the token's channels[0].match "**": "#,
        ),
    ]
}

#[tokio::test]
async fn a_refused_token_is_told_why_wherever_it_was_put() {
    let mut scene = Scene::start(node()).await;
    let refused = refused_tokens();
    for Refused { name, token, code, message } in &refused {
        let (result, disconnection) = match *code {
            "TOKEN_EXPIRED" => ("expired", ("token_expired", 4003)),
            _ => ("refused", ("unauthorized", 4500)),
        };
        let (auth, errors, disconnections) = (
            format!("fanfare_auth_total{{result=\"{result}\"}}"),
            format!("fanfare_errors_total{{code=\"{code}\"}}"),
            format!("fanfare_disconnections_total{{code=\"{}\"}}", disconnection.0),
        );
        let counts = [
            (auth.as_str(), 4),
            (errors.as_str(), 4),
            (disconnections.as_str(), 4),
            ("fanfare_connections", 0),
            ("fanfare_sessions", 0),
        ];
        let act = async |node: &Node| {
            for place in TokenPlace::ALL {
                let messages = refuse(node, token, place).closed(disconnection.1).await;
                assert_eq!(messages.len(), 1, "{place:?}: {messages:?}");
                check_refusal(&messages[0], place, code, message);
            }
        };
        scene.case(name, &counts, act).await;
    }
    // It logs all it can, and no token.
    let log = scene.node().process().stderr();
    for Refused { name, token, .. } in &refused {
        let tail = token.get(token.len().saturating_sub(40)..).expect("ASCII");
        assert!(tail.len() < 20 || !log.contains(tail), "{name} is in the log");
    }
    assert!(!log.contains(SECRET));
}

/// A client that says hello with a token, and nothing after it.
fn refuse<'a>(node: &'a Node, token: &'a str, place: TokenPlace) -> Refusing<'a> {
    Refusing { handshake: node.client(), token, place }
}

struct Refusing<'a> {
    handshake: Handshake,
    token: &'a str,
    place: TokenPlace,
}

impl Refusing<'_> {
    async fn closed(self, code: u16) -> Vec<Value> {
        let mut client = self.open().await;
        client.closed(code).await
    }

    async fn open(self) -> Client {
        let token = self.token;
        match self.place {
            TokenPlace::Command => {
                let mut client = self.handshake.open().await;
                client.begin(json!({ "type": "connect", "token": token })).await;
                client
            }
            TokenPlace::Subprotocol => {
                self.handshake.subprotocols(&format!("fanfare.v1.json, bearer, {token}")).open().await
            }
            TokenPlace::Header => self.handshake.header("authorization", &format!("Bearer {token}")).open().await,
            TokenPlace::Query => self.handshake.query(&format!("token={token}")).open().await,
        }
    }
}

fn check_refusal(answer: &Value, place: TokenPlace, code: &str, message: &Message) {
    let told = match place {
        TokenPlace::Command => &answer["message"],
        _ => &answer["data"]["message"],
    };
    let told = told.as_str().unwrap_or_else(|| panic!("no message in {answer}"));
    match message {
        Message::Exactly(message) => assert_eq!(told, message),
        Message::Begins(begin) => assert!(told.starts_with(begin), "{told}"),
    }
    let whole = match place {
        TokenPlace::Command => error(1, code, told),
        _ => error_push(code, told),
    };
    assert_eq!(*answer, whole, "{place:?}");
}

#[tokio::test]
async fn without_a_token_nothing_is_done() {
    let mut scene = Scene::start(node()).await;
    let unauthorized = |count| (r#"fanfare_errors_total{code="UNAUTHORIZED"}"#, count);
    let ended = (r#"fanfare_disconnections_total{code="unauthorized"}"#, 1);

    let connect = async |node: &Node| {
        let mut client = node.client().open().await;
        client.begin(json!({ "type": "connect" })).await;
        client.closed(4500).await
    };
    let told = scene.case("connect without a token", &[unauthorized(1), ended], connect).await;
    assert_eq!(told, [error(1, "UNAUTHORIZED", TOKEN_REQUIRED)]);

    let channels = async |node: &Node| {
        let mut client = node.client().query("channels=project:calm").open().await;
        client.closed(4500).await
    };
    let told = scene.case("channels without a token", &[unauthorized(1), ended], channels).await;
    assert_eq!(told, [error_push("UNAUTHORIZED", TOKEN_REQUIRED)]);

    let commands = async |node: &Node| {
        let mut client = node.client().open().await;
        for (id, command) in (1..).zip([
            json!({ "type": "subscribe", "channel": "project:calm" }),
            json!({ "type": "subscribe", "channels": ["project:calm"] }),
            json!({ "type": "publish", "channel": "board:calm", "event": "intrusion" }),
            json!({ "type": "unsubscribe", "channel": "project:calm" }),
            json!({ "type": "refresh", "token": token("acme", "alice") }),
            json!({ "type": "ping" }),
        ]) {
            let refused = error(id, "UNAUTHORIZED", "not connected: send connect with a token first");
            assert_eq!(client.command(command).await, refused);
        }
        // It stays, so that connect may follow.
        let reply = client.command(json!({ "type": "connect", "token": token("acme", "alice") })).await;
        assert_eq!(reply["result"]["tenant"], "acme", "{reply}");
    };
    scene.case("commands before connect", &[unauthorized(6)], commands).await;
}

#[tokio::test]
async fn a_token_that_is_too_long_or_in_the_wrong_place() {
    let mut scene = Scene::start(node().set("auth.cookie", "session")).await;
    let refused = [
        (r#"fanfare_auth_total{result="refused"}"#, 1),
        (r#"fanfare_errors_total{code="UNAUTHORIZED"}"#, 1),
        (r#"fanfare_disconnections_total{code="unauthorized"}"#, 1),
    ];
    let long = async |node: &Node| {
        let mut client = node.client().open().await;
        client.begin(json!({ "type": "connect", "token": "x".repeat(16_385) })).await;
        client.closed(4500).await
    };
    let told = scene.case("16,385 bytes", &refused, long).await;
    assert_eq!(told, [error(1, "UNAUTHORIZED", "the token has 16385 bytes; allowed are 16384")]);

    // A good token does not make up for a bad one in a place that counts more.
    let both = async |node: &Node| {
        let good = token("acme", "alice");
        let handshake = node.client().header("authorization", "Bearer nonsense").query(&format!("token={good}"));
        let mut client = handshake.header("cookie", &format!("session={good}")).open().await;
        client.closed(4500).await
    };
    let told = scene.case("a bad header before a good query", &refused, both).await;
    assert_eq!(told, [error_push("UNAUTHORIZED", NO_JWT)]);

    // What waits behind a connect that fails is not carried out.
    let pipelined = async |node: &Node| {
        let mut client = node.client().open().await;
        let publish = r#"{"id":2,"type":"publish","channel":"board:calm","event":"intrusion"}"#;
        client.send(format!(r#"[{{"id":1,"type":"connect","token":"nonsense"}},{publish}]"#)).await;
        client.closed(4500).await
    };
    let told = scene.case("commands behind a bad connect", &refused, pipelined).await;
    assert_eq!(told, [error(1, "UNAUTHORIZED", NO_JWT)]);
}

fn own((first, second): (&str, &str)) -> (String, String) {
    (first.to_owned(), second.to_owned())
}

/// A token of good claims, signed by any secret with any HMAC.
fn signed_by(secret: &str, algorithm: Algorithm) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), &claims("acme", "mallory"), &key).expect("claims are JSON")
}

/// A token put together by hand.
fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// HMAC with SHA-256 of what a token signs, in base64url.
fn hmac(message: &str, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("HS256 is there")
}
