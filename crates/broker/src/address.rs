//! Reading a broker's URL: which adapter, which servers, and as whom.

use url::Url;

use crate::{BrokerError, BrokerOptions, mask_url};

/// What is allowed, for errors.
const ALLOWED: &str = "allowed are memory:, nats://host[:4222], tls://host[:4222] (NATS, several separated by commas), \
     redis://host[:6379], rediss://host[:6379], redis-sentinel://host[:26379][,host…]/SERVICE, rediss-sentinel://…, \
     redis-cluster://host[:6379][,host…], rediss-cluster://…";

/// The schemes of Redis servers that sentinels watch over.
const SENTINEL: [&str; 2] = ["redis-sentinel", "rediss-sentinel"];

/// Which broker a URL means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Memory,
    Nats(Servers),
    Redis(Servers),
    RedisSentinel(Sentinels),
    /// Some nodes of a cluster; the others are found there.
    RedisCluster(Servers),
}

/// A Redis server that is asked for at sentinels.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sentinels {
    /// The sentinels; user and password are those of the server that they name.
    pub(crate) servers: Servers,
    /// The name by which they know it.
    pub(crate) service: String,
    /// At the sentinels.
    pub(crate) user: Option<String>,
    /// At the sentinels.
    pub(crate) password: Option<String>,
}

/// Where and as whom.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// At least one.
    pub(crate) servers: Vec<Server>,
    pub(crate) tls: bool,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Server {
    /// Without brackets where it is an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    pub(crate) fn parse(options: &BrokerOptions) -> Result<Self, BrokerError> {
        let list = options.url.trim();
        let scheme = list.split_once("://").map_or(list, |(scheme, _)| scheme);
        match scheme {
            "memory" | "memory:" if matches!(list, "memory:" | "memory://") => Ok(Self::Memory),
            "nats" | "tls" => Servers::parse(options, list, &["nats", "tls"], 4222).map(Self::Nats),
            "redis" | "rediss" => {
                let servers = Servers::parse(options, list, &["redis", "rediss"], 6379)?;
                if servers.servers.len() > 1 {
                    return Err(unusable(
                        options,
                        "one server; several with a master among them need redis-sentinel://",
                    ));
                }
                Ok(Self::Redis(servers))
            }
            "redis-sentinel" | "rediss-sentinel" => Sentinels::parse(options, list).map(Self::RedisSentinel),
            "redis-cluster" | "rediss-cluster" => {
                Servers::parse(options, list, &["redis-cluster", "rediss-cluster"], 6379).map(Self::RedisCluster)
            }
            _ => Err(unusable(options, ALLOWED)),
        }
    }
}

impl Servers {
    fn parse(options: &BrokerOptions, list: &str, schemes: &[&str], port: u16) -> Result<Self, BrokerError> {
        let first_scheme = list.split_once("://").map_or(schemes[0], |(scheme, _)| scheme);
        let mut found = Self {
            tls: options.tls_ca_file.is_some() || options.tls_cert_file.is_some(),
            user: options.user.clone(),
            password: options.password.clone(),
            ..Self::default()
        };
        for entry in list.split(',').map(str::trim) {
            let absolute = if entry.contains("://") { entry.to_owned() } else { format!("{first_scheme}://{entry}") };
            let url = Url::parse(&absolute).map_err(|reason| unusable(options, &format!("{reason}; {ALLOWED}")))?;
            if !schemes.contains(&url.scheme()) {
                return Err(unusable(options, &format!("a list holds servers of one kind; {ALLOWED}")));
            }
            // One plain server in a list with TLS would be a way around it, so TLS for one is TLS for all.
            found.tls |= url.scheme() == schemes[1];
            found.servers.push(server(options, &url, port)?);
            found.take_user(options, &url)?;
        }
        if options.tls_cert_file.is_some() != options.tls_key_file.is_some() {
            return Err(BrokerError::Configuration {
                what: "tls_cert_file and tls_key_file",
                value: "only one of them".to_owned(),
                allowed: "both or neither".to_owned(),
            });
        }
        Ok(found)
    }

    /// The first user named in the list serves for all servers, as in other NATS clients.
    fn take_user(&mut self, options: &BrokerOptions, url: &Url) -> Result<(), BrokerError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(());
        }
        if options.user.is_some() || options.password.is_some() {
            return Err(unusable(options, "a user in the URL or as an option, not both"));
        }
        if self.user.is_none() && self.password.is_none() {
            let decode =
                |text: &str| percent_decode(text).ok_or_else(|| unusable(options, "user and password as UTF-8"));
            self.user = Some(url.username()).filter(|user| !user.is_empty()).map(decode).transpose()?;
            self.password = url.password().map(decode).transpose()?;
        }
        Ok(())
    }
}

impl Sentinels {
    /// `redis-sentinel://[user:password@]host[:port][,host[:port]…]/SERVICE[?sentinel_user=…&sentinel_password=…]`
    fn parse(options: &BrokerOptions, list: &str) -> Result<Self, BrokerError> {
        let incomplete =
            || unusable(options, &format!("sentinels and /SERVICE, the name of what they watch; {ALLOWED}"));
        let (list, query) = list.split_once('?').map_or((list, None), |(list, query)| (list, Some(query)));
        let (scheme, rest) = list.split_once("://").ok_or_else(incomplete)?;
        let (hosts, service) = rest.split_once('/').ok_or_else(incomplete)?;
        let service = percent_decode(service).filter(|name| is_service(name)).ok_or_else(incomplete)?;
        let servers = Servers::parse(options, &format!("{scheme}://{hosts}"), &SENTINEL, 26379)?;
        let mut sentinels = Self { servers, service, user: None, password: None };
        for (name, value) in query.map(|query| url::form_urlencoded::parse(query.as_bytes())).into_iter().flatten() {
            match &*name {
                "sentinel_user" => sentinels.user = Some(value.into_owned()),
                "sentinel_password" => sentinels.password = Some(value.into_owned()),
                _ => return Err(unusable(options, "after the ? only sentinel_user and sentinel_password")),
            }
        }
        if sentinels.user.is_some() && sentinels.password.is_none() {
            return Err(unusable(options, "sentinel_user and sentinel_password, or sentinel_password alone"));
        }
        Ok(sentinels)
    }
}

/// What Sentinel takes as a name.
fn is_service(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// Secrets are masked.
impl std::fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { servers, service, .. } = self;
        f.debug_struct("Sentinels").field("servers", servers).field("service", service).finish_non_exhaustive()
    }
}

/// Secrets are masked.
impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("servers", &self.servers).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn server(options: &BrokerOptions, url: &Url, default_port: u16) -> Result<Server, BrokerError> {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || url.port() == Some(0) {
        return Err(unusable(options, ALLOWED));
    }
    // Pub/sub does not know Redis' numbered databases; a number is taken because URLs have it so often.
    let path = url.path().trim_start_matches('/');
    let numbered = url.scheme().starts_with("redis") && path.bytes().all(|byte| byte.is_ascii_digit());
    if !(path.is_empty() || numbered) || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable(options, &format!("no path, query or fragment; {ALLOWED}")));
    }
    Ok(Server { host: host.to_owned(), port: url.port().unwrap_or(default_port) })
}

fn unusable(options: &BrokerOptions, allowed: &str) -> BrokerError {
    BrokerError::Configuration { what: "broker", value: mask_url(&options.url), allowed: allowed.to_owned() }
}

/// RFC 3986 section 2.1. `None` where the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let hex = |byte: Option<&u8>| {
        byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high * 16 + low);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, BrokerError> {
        Address::parse(&BrokerOptions::new(url))
    }

    fn nats(url: &str) -> Servers {
        match parse(url) {
            Ok(Address::Nats(servers)) => servers,
            other => panic!("{url}: {other:?}"),
        }
    }

    fn redis(url: &str) -> Servers {
        match parse(url) {
            Ok(Address::Redis(servers)) => servers,
            other => panic!("{url}: {other:?}"),
        }
    }

    fn names(servers: &Servers) -> Vec<String> {
        servers.servers.iter().map(Server::to_string).collect()
    }

    #[test]
    fn the_scheme_chooses_the_adapter() {
        assert_eq!(parse("memory:").unwrap(), Address::Memory);
        assert_eq!(names(&nats("nats://a")), ["a:4222"]);
        assert_eq!(names(&redis("redis://a")), ["a:6379"]);
        assert!(!nats("nats://a").tls && nats("tls://a").tls && !redis("redis://a").tls && redis("rediss://a").tls);
    }

    #[test]
    fn a_list_of_servers() {
        let servers = nats("nats://a:1, nats://b:2,c,[::1]:5,nats://[::2]");
        assert_eq!(names(&servers), ["a:1", "b:2", "c:4222", "[::1]:5", "[::2]:4222"]);
        assert!(nats("nats://a,tls://b").tls, "TLS for one is TLS for all");
        assert!(matches!(parse("redis://a,redis://b"), Err(BrokerError::Configuration { .. })));
        assert!(matches!(parse("nats://a,redis://b"), Err(BrokerError::Configuration { .. })));
    }

    #[test]
    fn users_in_the_url() {
        let servers = nats("nats://a,nats://gate%20way:p%40ss%25:x@b");
        assert_eq!((servers.user.as_deref(), servers.password.as_deref()), (Some("gate way"), Some("p@ss%:x")));
        let servers = nats("nats://token@a");
        assert_eq!((servers.user.as_deref(), servers.password.as_deref()), (Some("token"), None));
        let servers = redis("redis://:secret@a/0");
        assert_eq!((servers.user.as_deref(), servers.password.as_deref()), (None, Some("secret")));
        let both = BrokerOptions { user: Some("u".to_owned()), ..BrokerOptions::new("nats://v:secret@a") };
        let error = Address::parse(&both).unwrap_err().to_string();
        assert!(error.contains("not both") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn what_is_refused_says_what_is_allowed() {
        for url in [
            "",
            "memory",
            "memory:x",
            "kafka://a",
            "nats:",
            "nats://",
            "nats://a:0",
            "nats://a:x",
            "nats://a/b",
            "nats://a?tls=1",
            "nats://a,,b",
            "redis://a/x",
            "http://a",
            "a:4222",
            "redis-sentinel://a",
            "redis-sentinel://a/",
            "redis-sentinel:///main",
            "redis-sentinel://a/not a name",
            "redis-sentinel://a/main/0",
            "redis-sentinel://a,,b/main",
            "redis-sentinel://a,redis://b/main",
            "redis-cluster://",
            "redis-cluster://a,,b",
            "redis-cluster://a/main",
            "redis-cluster://a,redis://b",
            "redis-cluster://a?password=x",
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains("redis://host[:6379]"), "{url}: {error}");
        }
    }

    #[test]
    fn some_nodes_of_a_cluster() {
        let cluster = |url: &str| match parse(url) {
            Ok(Address::RedisCluster(servers)) => servers,
            other => panic!("{url}: {other:?}"),
        };
        let found = cluster("redis-cluster://gate:p%2Fw@a,b:1, redis-cluster://[::1]");
        assert_eq!(names(&found), ["a:6379", "b:1", "[::1]:6379"]);
        assert_eq!((found.user.as_deref(), found.password.as_deref()), (Some("gate"), Some("p/w")));
        assert!(!found.tls && cluster("rediss-cluster://a").tls);
    }

    #[test]
    fn sentinels_their_service_and_their_own_user() {
        let sentinels = |url: &str| match parse(url) {
            Ok(Address::RedisSentinel(sentinels)) => sentinels,
            other => panic!("{url}: {other:?}"),
        };
        let found = sentinels("redis-sentinel://gate:p%2Fw@a,b:1, [::1]/main-1");
        assert_eq!(names(&found.servers), ["a:26379", "b:1", "[::1]:26379"]);
        assert_eq!((found.servers.user.as_deref(), found.servers.password.as_deref()), (Some("gate"), Some("p/w")));
        assert_eq!((&*found.service, found.user, found.servers.tls), ("main-1", None, false));
        let found = sentinels("rediss-sentinel://a/main?sentinel_user=s&sentinel_password=p%26w");
        assert_eq!((found.user.as_deref(), found.password.as_deref()), (Some("s"), Some("p&w")));
        assert!(found.servers.tls && found.servers.user.is_none() && !format!("{found:?}").contains("p&w"));
        for url in ["redis-sentinel://a/main?db=1", "redis-sentinel://a/main?sentinel_user=hidden"] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains("sentinel_password") && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn files_for_tls_mean_tls_and_a_certificate_has_a_key() {
        let mut options = BrokerOptions { tls_ca_file: Some("ca.pem".into()), ..BrokerOptions::new("nats://a") };
        assert!(matches!(Address::parse(&options), Ok(Address::Nats(Servers { tls: true, .. }))));
        options.tls_cert_file = Some("cert.pem".into());
        assert!(Address::parse(&options).unwrap_err().to_string().contains("both or neither"));
    }
}
