//! What a publisher's URL names.

use fanfare_broker::mask_url;
use url::Url;

use crate::ConnectError;

/// The schemes, for error texts.
const SCHEMES: &str = "nats://, tls://, redis[s]://, redis[s]-sentinel://, redis[s]-cluster://, http:// or https://";

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A broker; its adapter reads the rest of the URL, which may name several servers.
    Broker,
    /// The HTTP API of a node.
    Http(Url),
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let refused = |allowed: String| ConnectError::Configuration { option: "url", value: mask_url(url), allowed };
        match url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            Some(
                "nats" | "tls" | "redis" | "rediss" | "redis-sentinel" | "rediss-sentinel" | "redis-cluster"
                | "rediss-cluster",
            ) => Ok(Self::Broker),
            Some("http" | "https") => {
                Url::parse(url).map(Self::Http).map_err(|error| refused(format!("it is no URL: {error}")))
            }
            _ => Err(refused(format!("allowed are {SCHEMES}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides() {
        for url in [
            "nats://h:4222",
            "tls://h",
            "redis://h",
            "rediss://h",
            "redis-sentinel://h/main",
            "redis-cluster://h",
            "NATS://a,nats://b",
        ] {
            assert_eq!(Target::parse(url).unwrap(), Target::Broker, "{url}");
        }
        assert!(matches!(Target::parse("http://h:9000").unwrap(), Target::Http(_)));
        for url in ["h:4222", "memory:", "ws://h", "http://", ""] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.starts_with("url: "), "{error}");
        }
    }
}
