//! What an adapter is opened with.

use std::{collections::HashSet, fmt, path::PathBuf, time::Duration};

use crate::{BrokerError, HistoryOptions, address::Address};

/// Which broker, how to reach it, and as whom. The URL chooses the adapter.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerOptions {
    /// `memory:`, `nats://…`, `tls://…`, `redis://…`, `rediss://…`, `redis-sentinel://…/SERVICE` or `redis-cluster://…`; on NATS,
    /// for sentinels and for a cluster a list of servers, separated by commas.
    /// User and password (or, on NATS, a token) may stand in it, percent-encoded.
    pub url: String,
    /// First segment of all subjects.
    pub prefix: String,
    /// User, on both NATS and Redis.
    pub user: Option<String>,
    /// The user's password. On Redis it may stand alone, for the user `default`.
    pub password: Option<String>,
    /// NATS: a token.
    pub token: Option<String>,
    /// NATS: the seed of a user's nkey (`SU…`).
    pub nkey_seed: Option<String>,
    /// NATS: a credentials file (JWT and seed).
    pub credentials_file: Option<PathBuf>,
    /// PEM file of the authorities that are trusted, instead of the system's. Means TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of this node's certificate. Means TLS.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub tls_key_file: Option<PathBuf>,
    /// How long the first connection may take, all servers and attempts together.
    pub connect_timeout: Duration,
    /// How long the broker may take to confirm an interest or a publication.
    pub request_timeout: Duration,
    /// Redis: publications that may wait between the client library and the adapter; beyond it the oldest are overwritten,
    /// which is told as an interruption.
    pub broadcast_capacity: usize,
    /// Which namespaces keep history, and how.
    pub history: HistoryOptions,
    /// NATS: namespaces with signals, which are published live only. Where such a one keeps history, they come on a subject of
    /// their own, which interests in it need a second subscription for.
    pub signals: HashSet<Box<str>>,
    /// NATS: this connection [tells](crate::Broker::tell) services what happens, by a stream where there is JetStream.
    pub tells: bool,
    /// The name by which the broker's own tools show this connection.
    pub client_name: Option<String>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            url: "memory:".to_owned(),
            prefix: "rt".to_owned(),
            user: None,
            password: None,
            token: None,
            nkey_seed: None,
            credentials_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            broadcast_capacity: 16_384,
            history: HistoryOptions::default(),
            signals: HashSet::new(),
            tells: false,
            client_name: None,
        }
    }
}

impl BrokerOptions {
    /// All defaults but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

/// Secrets are masked.
impl fmt::Debug for BrokerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("BrokerOptions")
            .field("url", &mask_url(&self.url))
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .field("password", &masked(&self.password))
            .field("token", &masked(&self.token))
            .field("nkey_seed", &masked(&self.nkey_seed))
            .field("credentials_file", &self.credentials_file)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_cert_file", &self.tls_cert_file)
            .field("tls_key_file", &self.tls_key_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("broadcast_capacity", &self.broadcast_capacity)
            .field("history", &self.history)
            .field("signals", &self.signals)
            .field("tells", &self.tells)
            .field("client_name", &self.client_name)
            .finish()
    }
}

/// Whether [`open`](crate::open) can read a URL; nothing is connected to.
///
/// # Errors
/// [`BrokerError::Configuration`] says what is allowed.
pub fn check_url(url: &str) -> Result<(), BrokerError> {
    Address::parse(&BrokerOptions::new(url)).map(drop)
}

/// A URL, or a list of them, as it may be shown: what stands before an `@` or after a `?` is masked.
///
/// ```
/// assert_eq!(fanfare_broker::mask_url("nats://user:secret@a:4222,nats://b"), "nats://***@a:4222,nats://b");
/// ```
pub fn mask_url(url: &str) -> String {
    // Not by commas: a password may hold one where its owner forgot to encode it.
    let mask = |place: &str| {
        let place = place.rsplit_once('@').map_or_else(|| place.to_owned(), |(_, shown)| format!("***@{shown}"));
        place.split_once('?').map_or_else(|| place.clone(), |(shown, _)| format!("{shown}?***"))
    };
    url.split("://").map(mask).collect::<Vec<_>>().join("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (url, masked) in [
            ("memory:", "memory:"),
            ("redis://h/0", "redis://h/0"),
            ("redis://:p@h", "redis://***@h"),
            ("nats://u:p@ss@h:1, nats://t@g", "nats://***@h:1, nats://***@g"),
            ("u:p@h", "***@h"),
            ("nats://u:p,w@h,nats://g", "nats://***@h,nats://g"),
            ("redis://h?password=x@y", "redis://***@y"),
            ("redis://h?password=x", "redis://h?***"),
        ] {
            assert_eq!(mask_url(url), masked);
        }
        let options = BrokerOptions {
            password: Some("hidden".to_owned()),
            token: Some("hidden".to_owned()),
            nkey_seed: Some("hidden".to_owned()),
            ..BrokerOptions::new("nats://u:hidden@h")
        };
        assert!(!format!("{options:?}").contains("hidden"), "{options:?}");
    }
}
