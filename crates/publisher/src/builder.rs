//! The options of a publisher.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use fanfare_broker::{BrokerError, BrokerOptions, HistoryOptions, Retention, mask_url};
use fanfare_protocol::{Channel, Tenant, limits::PUBLICATION_BYTES};

use crate::{
    ConnectError, Publisher, RetryPolicy, limits,
    publisher::Settings,
    target::Target,
    transport::{BrokerTransport, HttpTransport, Transport},
};

/// The options of a [`Publisher`].
#[derive(Clone)]
pub struct Builder {
    tenant: String,
    prefix: Option<String>,
    api_key: Option<String>,
    credentials: Option<PathBuf>,
    nkey_seed: Option<String>,
    tls_ca_file: Option<PathBuf>,
    in_flight: usize,
    deadline: Duration,
    attempt: Duration,
    retry: RetryPolicy,
    max_publication_bytes: usize,
    history: Vec<(String, Retention)>,
}

impl Builder {
    /// Default options.
    pub fn new() -> Self {
        Self {
            tenant: Tenant::DEFAULT.into(),
            prefix: None,
            api_key: None,
            credentials: None,
            nkey_seed: None,
            tls_ca_file: None,
            in_flight: limits::IN_FLIGHT,
            deadline: limits::DEADLINE,
            attempt: limits::ATTEMPT,
            retry: RetryPolicy::default(),
            max_publication_bytes: PUBLICATION_BYTES,
            history: Vec::new(),
        }
    }

    /// The tenant of publications that name none. `default` unless set.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// The first word of all subjects, as the nodes are configured. `rt` unless set. NATS and Redis only.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// The key of the HTTP API. HTTP only.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// A credentials file (`.creds`). NATS only; users, passwords and tokens stand in the URL.
    #[must_use]
    pub fn credentials(mut self, file: impl Into<PathBuf>) -> Self {
        self.credentials = Some(file.into());
        self
    }

    /// The seed of a user's nkey (`SU…`). NATS only.
    #[must_use]
    pub fn nkey_seed(mut self, seed: impl Into<String>) -> Self {
        self.nkey_seed = Some(seed.into());
        self
    }

    /// A PEM file of the authorities that are trusted, instead of the system's.
    #[must_use]
    pub fn tls_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls_ca_file = Some(file.into());
        self
    }

    /// How many publications may be under way at a time: 1 to [`limits::IN_FLIGHT_MAX`], [`limits::IN_FLIGHT`] unless set.
    /// More wait for a place.
    #[must_use]
    pub fn in_flight(mut self, publications: usize) -> Self {
        self.in_flight = publications;
        self
    }

    /// How long a call may take in all, [`limits::DEADLINE`] unless set. Connecting has the same time.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt may take, [`limits::ATTEMPT`] unless set. What gets no answer in time is sent again.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt = timeout;
        self
    }

    /// How long to pause between attempts.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The most bytes of an envelope that the nodes take, [`PUBLICATION_BYTES`] unless set; more is refused before it is
    /// sent, because a node would drop it. NATS and Redis only: over HTTP the node answers itself.
    #[must_use]
    pub fn max_publication_bytes(mut self, bytes: usize) -> Self {
        self.max_publication_bytes = bytes;
        self
    }

    /// Says that the channels of a namespace keep history, and how much of it, as the nodes are configured
    /// (`[namespaces.NAME] history = { size = 1000, ttl = "10m" }`). On Redis each publication trims its channel by
    /// what its publisher says; on NATS the stream decides, which has to be there. What is published there is stored before the call
    /// returns, is published once however often it is sent, and has a [position](crate::Published::position). Without it
    /// NATS stores it too, but nobody waits for that; on Redis it is delivered live only. NATS and Redis only: over HTTP the node
    /// knows. A publisher never makes or changes a stream.
    #[must_use]
    pub fn history(mut self, namespace: impl Into<String>, retention: Retention) -> Self {
        self.history.push((namespace.into(), retention));
        self
    }

    /// Makes the publisher. `url` is one of
    /// - `nats://host:4222`, `tls://…`, several servers of one cluster with commas between them,
    /// - `redis://host:6379`, `rediss://…`, `redis-sentinel://host:26379,host/SERVICE`, `rediss-sentinel://…`,
    ///   `redis-cluster://host:6379,host`, `rediss-cluster://…`,
    /// - `http://host:9000`, `https://…`: the internal address of a node (or of a load balancer before several).
    ///
    /// To a broker it connects now, and again by itself whenever the connection is lost. Over HTTP nothing is sent yet.
    /// Where the process has no rustls crypto provider, aws-lc-rs is installed.
    ///
    /// # Errors
    /// [`ConnectError::Configuration`] for an option or URL that cannot be used; over NATS and Redis
    /// [`ConnectError::Unreachable`] where no server was reached by the deadline, [`ConnectError::Refused`] where one said
    /// no.
    pub async fn connect(self, url: &str) -> Result<Publisher, ConnectError> {
        let settings = self.settings()?;
        let transport = match Target::parse(url)? {
            Target::Http(url) => {
                self.refuse("prefix", self.prefix.as_deref(), "a broker's URL")?;
                self.refuse("credentials", self.credentials.as_ref().map(|_| "a file"), "a NATS URL")?;
                self.refuse("nkey_seed", self.nkey_seed.as_ref().map(|_| "***"), "a NATS URL")?;
                self.refuse("history", self.history.first().map(|(name, _)| name.as_str()), "a broker's URL")?;
                Box::new(HttpTransport::new(&url, self.api_key.as_deref(), self.tls_ca_file.as_deref())?)
                    as Box<dyn Transport>
            }
            Target::Broker => {
                self.refuse("api_key", self.api_key.as_ref().map(|_| "***"), "an HTTP URL")?;
                Box::new(self.open_broker(url).await?)
            }
        };
        Ok(Publisher::new(transport, settings))
    }

    fn settings(&self) -> Result<Settings, ConnectError> {
        let tenant = Tenant::parse(&self.tenant).map_err(|error| ConnectError::Configuration {
            option: "tenant",
            value: self.tenant.clone(),
            allowed: error.to_string(),
        })?;
        if !(1..=limits::IN_FLIGHT_MAX).contains(&self.in_flight) {
            return Err(ConnectError::Configuration {
                option: "in_flight",
                value: self.in_flight.to_string(),
                allowed: format!("1 to {} publications", limits::IN_FLIGHT_MAX),
            });
        }
        for (option, value) in [("deadline", self.deadline), ("attempt_timeout", self.attempt)] {
            if value.is_zero() || value > LONGEST {
                let allowed = format!("more than zero, and at most {LONGEST:?}");
                return Err(ConnectError::Configuration { option, value: format!("{value:?}"), allowed });
            }
        }
        Ok(Settings {
            tenant,
            in_flight: self.in_flight,
            deadline: self.deadline,
            attempt: self.attempt,
            retry: self.retry,
        })
    }

    fn history_options(&self) -> Result<HistoryOptions, ConnectError> {
        let mut options = HistoryOptions { manage_streams: false, publish_only: true, ..HistoryOptions::default() };
        for (name, retention) in &self.history {
            let refused = |allowed: &str| ConnectError::Configuration {
                option: "history",
                value: name.clone(),
                allowed: allowed.to_owned(),
            };
            if Channel::parse(name).is_err() || name.contains(':') {
                return Err(refused("a namespace is the first segment of a channel"));
            }
            if retention.size == 0 || retention.ttl.is_zero() {
                return Err(refused("at least one publication is kept, for longer than zero"));
            }
            if options.namespaces.insert(name.as_str().into(), *retention).is_some() {
                return Err(refused("a namespace is named once"));
            }
        }
        Ok(options)
    }

    async fn open_broker(&self, url: &str) -> Result<BrokerTransport, ConnectError> {
        let defaults = BrokerOptions::new(url);
        let options = BrokerOptions {
            prefix: self.prefix.clone().unwrap_or_else(|| defaults.prefix.clone()),
            credentials_file: self.credentials.clone(),
            nkey_seed: self.nkey_seed.clone(),
            tls_ca_file: self.tls_ca_file.clone(),
            connect_timeout: self.deadline,
            request_timeout: self.attempt,
            history: self.history_options()?,
            client_name: Some("fanfare-publisher".into()),
            ..defaults
        };
        let began = Instant::now();
        match fanfare_broker::open(&options).await {
            Ok((broker, events)) => Ok(BrokerTransport::new(broker, events, self.max_publication_bytes)),
            Err(error) => Err(connect_error(error, url, began.elapsed())),
        }
    }

    /// An option that means nothing with this URL is a mistake.
    fn refuse(&self, option: &'static str, value: Option<&str>, with: &str) -> Result<(), ConnectError> {
        match value {
            None => Ok(()),
            Some(value) => Err(ConnectError::Configuration {
                option,
                value: value.into(),
                allowed: format!("it is for {with} only"),
            }),
        }
    }
}

fn connect_error(error: BrokerError, url: &str, waited: Duration) -> ConnectError {
    let url = mask_url(url);
    match error {
        BrokerError::Configuration { what, value, allowed } => {
            // The adapter's word for the URL is that of a node's configuration.
            let option = if what == "broker" { "url" } else { what };
            ConnectError::Configuration { option, value, allowed }
        }
        BrokerError::Refused { reason, .. } => ConnectError::Refused { url, reason },
        error @ (BrokerError::NoHistory { .. } | BrokerError::NoPatterns { .. }) => {
            ConnectError::Refused { url, reason: error.to_string() }
        }
        BrokerError::Unreachable { reason, .. } => ConnectError::Unreachable { url, waited, reason },
        error @ (BrokerError::Unavailable { .. } | BrokerError::Timeout { .. } | BrokerError::TooLarge { .. }) => {
            ConnectError::Unreachable { url, waited, reason: error.to_string() }
        }
    }
}

/// The longest time that can be set. Instants that lie further ahead may not exist on every system.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("tenant", &self.tenant)
            .field("prefix", &self.prefix)
            .field("api_key", &self.api_key.as_ref().map(|_| "***"))
            .field("credentials", &self.credentials)
            .field("nkey_seed", &self.nkey_seed.as_ref().map(|_| "***"))
            .field("tls_ca_file", &self.tls_ca_file)
            .field("in_flight", &self.in_flight)
            .field("deadline", &self.deadline)
            .field("attempt", &self.attempt)
            .field("retry", &self.retry)
            .field("max_publication_bytes", &self.max_publication_bytes)
            .field("history", &self.history)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Retention = Retention { size: 10, ttl: Duration::from_secs(60) };

    async fn refused(builder: Builder, url: &str) -> String {
        match builder.connect(url).await {
            Err(error @ ConnectError::Configuration { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_with_what_is_allowed() {
        let new = Builder::new;
        let http = "http://127.0.0.1:1";
        let nats = "nats://127.0.0.1:1";
        for (builder, url, words) in [
            (new().tenant("a:b"), http, ["tenant", "a:b", "not allowed in a segment"]),
            (new().in_flight(0), http, ["in_flight", "\"0\"", "1 to 65536"]),
            (new().in_flight(limits::IN_FLIGHT_MAX + 1), http, ["in_flight", "65537", "1 to 65536"]),
            (new().deadline(Duration::ZERO), http, ["deadline", "0ns", "more than zero"]),
            (new().attempt_timeout(Duration::MAX), http, ["attempt_timeout", "s\"", "at most 86400s"]),
            (new().prefix("rt"), http, ["prefix", "rt", "a broker's URL only"]),
            (new().credentials("x.creds"), http, ["credentials", "a file", "a NATS URL only"]),
            (new().nkey_seed("SUSECRET"), http, ["nkey_seed", "***", "a NATS URL only"]),
            (new().tls_ca_file("/nowhere.pem"), http, ["tls_ca_file", "/nowhere.pem", "No such file"]),
            (new().api_key("SECRET"), nats, ["api_key", "***", "an HTTP URL only"]),
            (new().api_key("a\nb"), http, ["api_key", "***", "visible ASCII"]),
            (new().history("project", MINUTE), http, ["history", "project", "a broker's URL only"]),
            (new().history("a:b", MINUTE), nats, ["history", "a:b", "first segment"]),
            (new().history("a", Retention { size: 0, ..MINUTE }), nats, ["history", "\"a\"", "at least one"]),
            (new().history("a", MINUTE).history("a", MINUTE), nats, ["history", "\"a\"", "once"]),
            (new().prefix("a.b"), nats, ["prefix", "a.b", "not allowed"]),
            (new(), "memory:", ["url", "memory:", "nats://"]),
            (new(), "nats://u:SECRET@h/path", ["url", "***@h", "no path"]),
        ] {
            let error = refused(builder, url).await;
            assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let builder = Builder::new().api_key("hunter2").nkey_seed("hunter2");
        assert!(!format!("{builder:?}").contains("hunter2"), "{builder:?}");
    }
}
