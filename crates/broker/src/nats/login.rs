//! Who this node is to the server.

use async_nats::ConnectOptions;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;

use crate::{BrokerError, BrokerOptions, address::Servers};

/// How the node says who it is.
#[derive(Clone)]
pub(super) enum Login {
    Nobody,
    Password(String, String),
    Token(String),
    Nkey(String),
    /// The text of a credentials file.
    Credentials(String),
}

/// The same as fields of CONNECT, for one greeting of a server.
#[derive(Default, serde::Serialize)]
pub(super) struct Identity {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// Why a nonce cannot be signed. It says nothing of the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication: the seed of the user's nkey cannot be used")]
pub(super) struct UnusableSeed;

impl Login {
    /// One way, since a server looks at one only.
    pub(super) async fn choose(options: &BrokerOptions, servers: &Servers) -> Result<Self, BrokerError> {
        let mut ways = Vec::new();
        match (&servers.user, &servers.password) {
            (Some(user), Some(password)) => ways.push(Self::Password(user.clone(), password.clone())),
            // A user alone in a URL is a token, as in other NATS clients.
            (Some(token), None) if options.user.is_none() => ways.push(Self::Token(token.clone())),
            (None, None) => {}
            _ => return Err(login_error("both user and password, or neither")),
        }
        ways.extend(options.token.clone().map(Self::Token));
        ways.extend(options.nkey_seed.clone().map(Self::Nkey));
        if let Some(path) = &options.credentials_file {
            let text = tokio::fs::read_to_string(path).await.map_err(|error| BrokerError::Configuration {
                what: "credentials_file",
                value: path.display().to_string(),
                allowed: format!("a readable file ({error})"),
            })?;
            // As the library reads it, and as it is read here.
            if ConnectOptions::with_credentials(&text).is_err() || credentials(&text).is_none() {
                return Err(BrokerError::Configuration {
                    what: "credentials_file",
                    value: path.display().to_string(),
                    allowed: "a file with a user's JWT and seed, as `nsc generate creds` writes it".to_owned(),
                });
            }
            ways.push(Self::Credentials(text));
        }
        let way = ways.pop().unwrap_or(Self::Nobody);
        if ways.is_empty() { Ok(way) } else { Err(login_error("one of them")) }
    }

    /// For the client library.
    pub(super) fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        match self.clone() {
            Self::Nobody => options,
            Self::Password(user, password) => options.user_and_password(user, password),
            Self::Token(token) => options.token(token),
            Self::Nkey(seed) => options.nkey(seed),
            Self::Credentials(text) => {
                options.credentials(&text).expect("the text was read the same way when it was chosen")
            }
        }
    }

    /// For a connection of our own, to a server that greeted with this nonce.
    pub(super) fn identity(&self, nonce: &str) -> Result<Identity, UnusableSeed> {
        let identity = Identity::default();
        Ok(match self {
            Self::Nobody => identity,
            Self::Password(user, password) => {
                Identity { user: Some(user.clone()), pass: Some(password.clone()), ..identity }
            }
            Self::Token(token) => Identity { auth_token: Some(token.clone()), ..identity },
            Self::Nkey(seed) => {
                let (key, sig) = sign(seed, nonce)?;
                Identity { nkey: Some(key), sig: Some(sig), ..identity }
            }
            Self::Credentials(text) => {
                let (jwt, seed) = credentials(text).ok_or(UnusableSeed)?;
                let (_, sig) = sign(seed, nonce)?;
                Identity { jwt: Some(jwt.to_owned()), sig: Some(sig), ..identity }
            }
        })
    }
}

fn sign(seed: &str, nonce: &str) -> Result<(String, String), UnusableSeed> {
    let pair = KeyPair::from_seed(seed).map_err(|_| UnusableSeed)?;
    let signature = pair.sign(nonce.as_bytes()).map_err(|_| UnusableSeed)?;
    Ok((pair.public_key(), BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// The JWT and the seed in a credentials file: each a line between two that begin with dashes.
fn credentials(text: &str) -> Option<(&str, &str)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_dashed = |line: &str| line.starts_with("---");
    let mut secrets = lines.windows(3).filter_map(|lines| match lines {
        [before, secret, after]
            if is_dashed(before) && is_dashed(after) && !secret.is_empty() && !is_dashed(secret) =>
        {
            Some(*secret)
        }
        _ => None,
    });
    Some((secrets.next()?, secrets.next()?))
}

fn login_error(allowed: &str) -> BrokerError {
    BrokerError::Configuration {
        what: "user and password, token, nkey_seed, credentials_file",
        value: "***".to_owned(),
        allowed: allowed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    async fn choose(options: BrokerOptions) -> Result<Login, String> {
        let Ok(Address::Nats(servers)) = Address::parse(&options) else { panic!("{options:?}") };
        Login::choose(&options, &servers).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn one_way_to_log_in() {
        let options = |url: &str| BrokerOptions::new(url);
        let secret = Some("secret".to_owned());
        assert!(matches!(choose(options("nats://a")).await, Ok(Login::Nobody)));
        assert!(matches!(choose(options("nats://t@a")).await, Ok(Login::Token(t)) if t == "t"));
        assert!(matches!(choose(options("nats://u:p@a")).await, Ok(Login::Password(u, p)) if u == "u" && p == "p"));
        let alone = BrokerOptions { user: Some("u".to_owned()), ..options("nats://a") };
        assert!(choose(alone).await.is_err_and(|error| error.contains("both user and password")));
        let two = BrokerOptions { token: secret.clone(), nkey_seed: secret, ..options("nats://a") };
        assert!(choose(two).await.is_err_and(|error| error.contains("one of them") && !error.contains("secret")));
        let missing = BrokerOptions { credentials_file: Some("/no/such".into()), ..options("nats://a") };
        assert!(choose(missing).await.is_err_and(|error| error.contains("/no/such")));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wrong.creds");
        std::fs::write(&path, "secret").unwrap();
        let wrong = BrokerOptions { credentials_file: Some(path), ..options("nats://a") };
        assert!(choose(wrong).await.is_err_and(|error| error.contains("nsc") && !error.contains("secret")));
    }

    #[test]
    fn only_what_was_chosen_is_said() {
        let said = |login: Login| serde_json::to_value(login.identity("nonce").unwrap()).unwrap();
        assert_eq!(said(Login::Nobody), serde_json::json!({}));
        assert_eq!(said(Login::Password("u".into(), "p".into())), serde_json::json!({ "user": "u", "pass": "p" }));
        assert_eq!(said(Login::Token("t".into())), serde_json::json!({ "auth_token": "t" }));
        assert!(matches!(Login::Nkey("SUhidden".into()).identity("nonce"), Err(UnusableSeed)));
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        for (login, key, jwt) in [
            (Login::Nkey(seed.clone()), Some(pair.public_key()), None),
            (
                Login::Credentials(format!(
                    "-----BEGIN NATS USER JWT-----\r\na.b.c\r\n------END NATS USER JWT------\r\n\r\n*** x ***\r\n\r\n\
                     -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
                )),
                None,
                Some("a.b.c".to_owned()),
            ),
        ] {
            let identity = login.identity("nonce").unwrap();
            assert_eq!((&identity.nkey, &identity.jwt), (&key, &jwt));
            let signature = BASE64_URL_SAFE_NO_PAD.decode(identity.sig.unwrap()).unwrap();
            pair.verify(b"nonce", &signature).unwrap();
        }
    }
}
