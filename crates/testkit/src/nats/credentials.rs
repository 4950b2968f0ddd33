//! NATS' decentralised authentication: an operator vouches for an account, and the account for a user, by JWTs that are
//! signed with nkeys (NATS ADR-14).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

const LIMITS: [&str; 7] = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"];

/// A server refuses a system account that may use JetStream.
const JETSTREAM_LIMITS: [&str; 4] = ["mem_storage", "disk_storage", "streams", "consumer"];

/// One chain from an operator to a user.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    /// The operator's JWT, self-signed.
    operator: String,
    /// The system account, without which JetStream does not start.
    system: Account,
    /// The user's account.
    account: Account,
    /// The text of the user's credentials file: JWT and seed.
    pub(super) file: String,
}

#[derive(Debug, Clone)]
struct Account {
    /// The public key (`A…`).
    key: String,
    jwt: String,
}

impl Credentials {
    pub(super) fn generate() -> Self {
        let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let user = KeyPair::new_user();
        let seed = user.seed().expect("a new pair has its seed");
        let user_jwt = sign(&account, &user, json!({ "type": "user", "subs": -1, "data": -1, "payload": -1 }));
        Self {
            operator: sign(&operator, &operator, json!({ "type": "operator" })),
            system: Account::new(&operator, &system, &[]),
            account: Account::new(&operator, &account, &JETSTREAM_LIMITS),
            file: format!(
                "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            ),
        }
    }

    /// What makes a server trust the operator, as lines of its configuration.
    pub(super) fn configuration(&self) -> String {
        let Self { operator, system, account, .. } = self;
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
            system.key, system.key, system.jwt, account.key, account.jwt
        )
    }
}

impl Account {
    /// An account without limits but those that stay at 0 because they are not named: JetStream's, where it may not use it.
    fn new(operator: &KeyPair, account: &KeyPair, jetstream_limits: &[&str]) -> Self {
        let mut limits = json!({ "wildcards": true });
        for name in LIMITS.iter().chain(jetstream_limits) {
            limits[name] = json!(-1);
        }
        Self { key: account.public_key(), jwt: sign(operator, account, json!({ "type": "account", "limits": limits })) }
    }
}

/// A JWT of version 2 in which `issuer` says `claims` about `subject`.
fn sign(issuer: &KeyPair, subject: &KeyPair, mut claims: Value) -> String {
    claims["version"] = json!(2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    let body = json!({
        "jti": format!("{:032X}", fastrand::u128(..)),
        "iat": now,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": "test",
        "nats": claims,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(body));
    let signature = issuer.sign(signed.as_bytes()).expect("a new pair has its seed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
