//! What a store is opened with.

use std::{fmt, path::PathBuf, time::Duration};

/// Which store, how to reach it, and as whom. The URL chooses the store. The words are those of
/// [`BrokerOptions`](fanfare_broker::BrokerOptions).
#[derive(Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// `memory:`, `redis://…`, `rediss://…`, `redis-sentinel://…/SERVICE` or `redis-cluster://…`; for sentinels and for a cluster a
    /// list of servers, separated by commas. User and password may stand in it, percent-encoded.
    pub url: String,
    /// First segment of all keys.
    pub prefix: String,
    /// User.
    pub user: Option<String>,
    /// The user's password. It may stand alone, for the user `default`.
    pub password: Option<String>,
    /// PEM file of the authorities that are trusted, instead of the system's. Means TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of this node's certificate. Means TLS.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub tls_key_file: Option<PathBuf>,
    /// How long the first connection may take, all servers and attempts together.
    pub connect_timeout: Duration,
    /// How long a call may take.
    pub request_timeout: Duration,
    /// The name by which the store's own tools show this connection.
    pub client_name: Option<String>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            url: "memory:".to_owned(),
            prefix: "rt".to_owned(),
            user: None,
            password: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            client_name: None,
        }
    }
}

impl StoreOptions {
    /// All defaults but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

/// Secrets are masked.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("url", &fanfare_broker::mask_url(&self.url))
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_cert_file", &self.tls_cert_file)
            .field("tls_key_file", &self.tls_key_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("client_name", &self.client_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let password = Some("hidden".to_owned());
        let options = StoreOptions { password, ..StoreOptions::new("redis://u:hidden@h") };
        let shown = format!("{options:?}");
        assert!(shown.contains("redis://***@h") && !shown.contains("hidden"), "{shown}");
    }
}
