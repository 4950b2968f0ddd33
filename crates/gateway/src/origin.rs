//! Which web pages may connect: the check of `Origin` (RFC 6454), and of `Host` in development mode.
//!
//! A browser sends `Origin` with every WebSocket handshake and every request across origins, and a page cannot forge it.
//! Other programs send none; they are let through, because they could send anything.

use axum::http::{HeaderMap, header};
use url::{Host, Url};

/// Which web pages may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPolicy {
    allowed: AllowedOrigins,
    development: bool,
}

/// What `Origin` may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// The host that the request itself went to.
    SameHost,
    /// One of these.
    Listed(Vec<Origin>),
    /// Any.
    Any,
}

/// Scheme, host and port of a web page, in the form that browsers send: `https://app.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a request is refused. Answered with 403.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The page's origin is not allowed.
    #[error("origin {origin:?} is not allowed here; allowed is {allowed}")]
    Origin {
        /// What the request says.
        origin: String,
        /// What may stand there.
        allowed: String,
    },
    /// A cookie is only taken from a page whose origin is known.
    #[error("the request has no Origin; a token in a cookie is only taken with one that is allowed")]
    Missing,
    /// In development mode only this machine is served.
    #[error("host {host:?} is not this machine's; in development mode only loopback is served")]
    Host {
        /// What the request says.
        host: String,
    },
    /// In development mode nothing may come through a proxy.
    #[error("the request was forwarded ({header}); in development mode only direct requests are served")]
    Forwarded {
        /// The header that says so.
        header: String,
    },
}

impl OriginError {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Origin { .. } => "origin",
            Self::Missing => "origin_missing",
            Self::Host { .. } => "host",
            Self::Forwarded { .. } => "forwarded",
        }
    }
}

impl Origin {
    /// Reads an origin as it is configured or sent.
    ///
    /// # Errors
    /// Says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "an origin is scheme://host or scheme://host:port, without a path";
        let url = Url::parse(text).map_err(|_| ALLOWED)?;
        let bare = url.path().trim_matches('/').is_empty() && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() || text.ends_with('/') {
            return Err(ALLOWED);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(ALLOWED)?;
        // `url` drops default ports only for the schemes that it knows, which are those of web pages.
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self(format!("{}://{}{port}", url.scheme(), host.to_ascii_lowercase())))
    }

    /// The origin as browsers send it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the page comes from this machine.
    pub fn is_loopback(&self) -> bool {
        Url::parse(&self.0).is_ok_and(|url| is_loopback(url.host()))
    }

    /// Whether a `Host` header names the same host and port.
    fn is_host(&self, host: &str) -> bool {
        // The scheme is the page's: behind a proxy that ends TLS the request itself no longer shows it.
        let scheme = self.0.split("://").next().unwrap_or_default();
        Self::parse(&format!("{scheme}://{host}")).is_ok_and(|same| same == *self)
    }
}

impl OriginPolicy {
    /// A policy; in development mode `Host` and `Origin` must be loopback too, and nothing may be forwarded.
    pub fn new(allowed: AllowedOrigins, development: bool) -> Self {
        Self { allowed, development }
    }

    /// Whether it is the policy of development mode.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// What `Origin` may be.
    pub fn allowed(&self) -> &AllowedOrigins {
        &self.allowed
    }

    /// Checks a request by its headers.
    ///
    /// # Errors
    /// [`OriginError`] says what is allowed.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), OriginError> {
        if self.development {
            check_development(headers)?;
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) => self.check_origin(text(origin), host(headers)),
            (Some(_), Some(_)) => Err(self.refuse("(several)")),
        }
    }

    /// Checks a request whose token comes in a cookie, which a browser sends along whatever page asks: `Origin` must be there.
    ///
    /// # Errors
    /// [`OriginError`] says what is allowed.
    pub fn check_with_cookie(&self, headers: &HeaderMap) -> Result<(), OriginError> {
        if headers.contains_key(header::ORIGIN) { self.check(headers) } else { Err(OriginError::Missing) }
    }

    /// The same for a GET, with which a browser sends no `Origin` where the page comes from the very origin that it asks.
    /// `Sec-Fetch-Site` says so then (W3C Fetch Metadata section 2.4), and a page cannot forge that either.
    ///
    /// # Errors
    /// [`OriginError`] says what is allowed.
    pub fn check_get_with_cookie(&self, headers: &HeaderMap) -> Result<(), OriginError> {
        let same_origin = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
        if same_origin && !headers.contains_key(header::ORIGIN) {
            self.check(headers)
        } else {
            self.check_with_cookie(headers)
        }
    }

    fn check_origin(&self, text: &str, host: &str) -> Result<(), OriginError> {
        // `null` (a sandboxed frame, a file) is no origin, and so never allowed but by `*`.
        let origin = Origin::parse(text).ok();
        let allowed = match &self.allowed {
            AllowedOrigins::Any => true,
            AllowedOrigins::Listed(listed) => origin.as_ref().is_some_and(|origin| listed.contains(origin)),
            AllowedOrigins::SameHost if self.development => origin.as_ref().is_some_and(Origin::is_loopback),
            AllowedOrigins::SameHost => origin.as_ref().is_some_and(|origin| origin.is_host(host)),
        };
        let local = !self.development || origin.as_ref().is_some_and(Origin::is_loopback);
        if allowed && local { Ok(()) } else { Err(self.refuse(text)) }
    }

    fn refuse(&self, origin: &str) -> OriginError {
        let allowed = match &self.allowed {
            _ if self.development => "loopback only, in development mode".into(),
            AllowedOrigins::SameHost => "the host that is asked (see allowed_origins)".into(),
            // The list is the operator's business, not a stranger's.
            AllowedOrigins::Listed(_) | AllowedOrigins::Any => "what allowed_origins lists".into(),
        };
        OriginError::Origin { origin: origin.chars().take(100).collect(), allowed }
    }
}

/// In development mode there is no authentication, so nothing but this machine may ask: a page elsewhere could otherwise
/// reach it through the browser, by a name that it lets point here.
fn check_development(headers: &HeaderMap) -> Result<(), OriginError> {
    let forwarded = |name: &str| name == "forwarded" || name == "via" || name.starts_with("x-forwarded-");
    if let Some(name) = headers.keys().map(header::HeaderName::as_str).find(|name| forwarded(name)) {
        return Err(OriginError::Forwarded { header: name.into() });
    }
    let host = host(headers);
    match Url::parse(&format!("http://{host}")) {
        Ok(url) if is_loopback(url.host()) => Ok(()),
        _ => Err(OriginError::Host { host: host.chars().take(100).collect() }),
    }
}

fn is_loopback(host: Option<Host<&str>>) -> bool {
    match host {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(header::HOST).map(text).unwrap_or_default()
}

/// A header that is not plain ASCII cannot be right; it is compared as empty text.
fn text(value: &header::HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn policy(allowed: AllowedOrigins) -> OriginPolicy {
        OriginPolicy::new(allowed, false)
    }

    fn listed(origins: &[&str]) -> AllowedOrigins {
        AllowedOrigins::Listed(origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect())
    }

    #[test]
    fn a_program_without_origin_is_let_through() {
        for allowed in [AllowedOrigins::SameHost, AllowedOrigins::Any, listed(&["https://app.example"])] {
            assert_eq!(policy(allowed).check(&headers(&[("host", "x:8000")])), Ok(()));
        }
    }

    #[test]
    fn the_same_host_is_allowed_whoever_ends_tls() {
        let check =
            |origin, host| policy(AllowedOrigins::SameHost).check(&headers(&[("origin", origin), ("host", host)]));
        assert_eq!(check("http://rt.example:8000", "rt.example:8000"), Ok(()));
        assert_eq!(check("https://rt.example", "rt.example"), Ok(()));
        assert_eq!(check("https://rt.example", "RT.example:443"), Ok(()));
        assert_eq!(check("http://rt.example", "rt.example:80"), Ok(()));
        for (origin, host) in [
            ("https://evil.example", "rt.example"),
            ("https://rt.example", "rt.example:8000"),
            ("https://rt.example:8000", "rt.example"),
            ("null", "rt.example"),
            ("", "rt.example"),
            ("https://rt.example", ""),
            ("https://rt.example.evil.example", "rt.example"),
            ("https://evil@rt.example", "rt.example"),
        ] {
            assert!(check(origin, host).is_err(), "{origin} at {host}");
        }
    }

    #[test]
    fn listed_origins_are_compared_exactly() {
        let policy = policy(listed(&["https://app.example", "http://localhost:3000"]));
        let check = |origin| policy.check(&headers(&[("origin", origin), ("host", "rt.example")]));
        assert_eq!(check("https://app.example"), Ok(()));
        assert_eq!(check("http://localhost:3000"), Ok(()));
        for origin in ["http://app.example", "https://app.example:444", "https://rt.example", "https://sub.app.example"]
        {
            assert!(check(origin).is_err(), "{origin}");
        }
        assert_eq!(
            check("https://evil.example").unwrap_err().to_string(),
            r#"origin "https://evil.example" is not allowed here; allowed is what allowed_origins lists"#
        );
    }

    #[test]
    fn two_origins_are_refused() {
        let mut two = headers(&[("host", "x")]);
        two.append("origin", "https://app.example".parse().unwrap());
        two.append("origin", "https://evil.example".parse().unwrap());
        assert!(policy(listed(&["https://app.example"])).check(&two).is_err());
    }

    #[test]
    fn a_cookie_needs_an_origin() {
        let policy = policy(listed(&["https://app.example"]));
        assert_eq!(policy.check_with_cookie(&headers(&[("host", "x")])), Err(OriginError::Missing));
        assert_eq!(policy.check_with_cookie(&headers(&[("origin", "https://app.example")])), Ok(()));
        assert!(policy.check_with_cookie(&headers(&[("origin", "https://evil.example")])).is_err());
    }

    #[test]
    fn a_cookie_of_a_get_is_taken_from_the_page_of_the_same_origin_too() {
        let policy = policy(listed(&["https://app.example"]));
        let check = |pairs: &[(&'static str, &str)]| policy.check_get_with_cookie(&headers(pairs));
        assert_eq!(check(&[("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(check(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")]), Ok(()));
        for site in ["same-site", "cross-site", "none", ""] {
            assert_eq!(check(&[("sec-fetch-site", site)]), Err(OriginError::Missing), "{site}");
        }
        assert_eq!(check(&[]), Err(OriginError::Missing));
        assert!(check(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]).is_err());
    }

    #[test]
    fn development_mode_serves_this_machine_only() {
        let policy = OriginPolicy::new(AllowedOrigins::SameHost, true);
        let check = |pairs: &[(&'static str, &str)]| policy.check(&headers(pairs)).map_err(|error| error.reason());
        for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "app.localhost", "LOCALHOST."] {
            assert_eq!(check(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["rt.example:8000", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "", "127.0.0.1.evil.example"] {
            assert_eq!(check(&[("host", host)]), Err("host"), "{host}");
        }
        assert_eq!(check(&[("host", "localhost:8000"), ("origin", "http://localhost:5173")]), Ok(()));
        assert_eq!(check(&[("host", "localhost:8000"), ("origin", "https://evil.example")]), Err("origin"));
        assert_eq!(check(&[("host", "localhost:8000"), ("origin", "null")]), Err("origin"));
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "via"] {
            assert_eq!(check(&[("host", "localhost"), (name, "x")]), Err("forwarded"), "{name}");
        }
    }

    #[test]
    fn an_origin_has_no_path() {
        for text in
            ["https://a.example/", "https://a.example/x", "a.example", "https://", "https://u@a.example", "*", "null"]
        {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
        assert_eq!(Origin::parse("HTTPS://A.Example:443").unwrap().as_str(), "https://a.example");
    }
}
