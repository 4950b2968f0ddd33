//! Negotiation of permessage-deflate (RFC 7692 sections 5 and 7.1) in `Sec-WebSocket-Extensions`
//! (RFC 6455 section 9.1).

use hyper::http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};

/// permessage-deflate as it was agreed: always without context takeover on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMessageDeflate {
    /// The client asked for `server_max_window_bits=15` and has to be told that it gets it.
    names_server_window: bool,
}

impl PerMessageDeflate {
    /// Chooses the client's first offer that can be accepted. `None` declines all: the connection
    /// goes on without compression. Declined are offers of a smaller server window, since a
    /// compressed frame is shared by all clients, and malformed ones (RFC 7692 section 7.1).
    #[must_use]
    pub fn negotiate(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| split_unquoted(value, ','))
            .find_map(Self::accept)
    }

    /// The answer's `Sec-WebSocket-Extensions`. `client_max_window_bits` is never among it: our
    /// decompressor takes any window.
    #[must_use]
    pub const fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(if self.names_server_window {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=15"
        } else {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        })
    }

    fn accept(offer: &str) -> Option<Self> {
        let mut parts = split_unquoted(offer, ';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
            return None;
        }
        let mut seen = [false; 4];
        let mut names_server_window = false;
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start())?)),
                None => (part, None),
            };
            let index = match (name, value) {
                ("server_no_context_takeover", None) => 0,
                ("client_no_context_takeover", None) => 1,
                ("server_max_window_bits", Some("15")) => {
                    names_server_window = true;
                    2
                }
                ("client_max_window_bits", None) => 3,
                ("client_max_window_bits", Some(bits)) if is_window_bits(bits) => 3,
                _ => return None,
            };
            if std::mem::replace(&mut seen[index], true) {
                return None;
            }
        }
        Some(Self { names_server_window })
    }
}

/// 8 to 15, decimal, without leading zeros (RFC 7692 section 7.1.2.2).
fn is_window_bits(value: &str) -> bool {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// The content of a quoted value, or the value itself. `None` for a broken quotation. What may be
/// quoted here is a number, so backslashes have no business in it.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
        None => (!value.contains('"')).then_some(value),
    }
}

/// Splits at `separator` outside of quotation marks.
fn split_unquoted(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    value.split(move |c| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const NAMED: &str = "permessage-deflate; server_no_context_takeover; \
                         client_no_context_takeover; server_max_window_bits=15";

    fn answer(lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(line));
        }
        let agreed = PerMessageDeflate::negotiate(&headers)?;
        Some(agreed.header_value().to_str().unwrap().to_owned())
    }

    #[test]
    fn usual_offers_are_accepted() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits", // Chrome, Firefox, ws
            "permessage-deflate;client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits = \"10\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            " x-webkit-deflate-frame , permessage-deflate ",
            "other; key=\"a,permessage-deflate; server_max_window_bits=9\", permessage-deflate",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
        let offer = "permessage-deflate; server_max_window_bits=15; client_max_window_bits";
        assert_eq!(answer(&[offer]).as_deref(), Some(NAMED));
    }

    #[test]
    fn a_smaller_server_window_is_declined_and_the_next_offer_taken() {
        assert_eq!(answer(&["permessage-deflate; server_max_window_bits=10"]), None);
        assert_eq!(
            answer(&["permessage-deflate; server_max_window_bits=10, permessage-deflate"]).as_deref(),
            Some(PLAIN)
        );
        assert_eq!(
            answer(&["permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=15"])
                .as_deref(),
            Some(NAMED)
        );
    }

    #[test]
    fn malformed_offers_are_declined() {
        for offer in [
            "",
            "permessage-deflat",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=015",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=1\"0\"",
            "permessage-deflate; client_max_window_bits=+10",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
        assert_eq!(answer(&[]), None);
    }
}
