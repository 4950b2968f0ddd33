//! The subprotocol, and the token that browsers can only send there (RFC 6455 section 1.9).

use std::fmt;

use fanfare_protocol::Dialect;
use hyper::http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};

use super::HandshakeError;

/// The native protocol in JSON.
pub const JSON: &str = "fanfare.v1.json";
/// The native protocol in MessagePack.
pub const MESSAGE_PACK: &str = "fanfare.v1.msgpack";
/// Says that the next offer is a token.
pub const BEARER: &str = "bearer";

/// What the client's list of subprotocols comes to.
#[derive(Clone, PartialEq, Eq)]
pub struct Subprotocol {
    /// What to answer in `Sec-WebSocket-Protocol`, if anything; never the token.
    pub answer: Option<&'static str>,
    /// JSON unless MessagePack was asked for.
    pub dialect: Dialect,
    /// The offer after `bearer`.
    pub token: Option<String>,
}

impl Subprotocol {
    /// Reads the offers: `fanfare.v1.json`, `fanfare.v1.msgpack`, `bearer` with a token after it.
    /// Of the first two, the one that the client names first is answered; else `bearer`. Unknown
    /// offers are passed over.
    ///
    /// # Errors
    /// [`HandshakeError::Subprotocol`] for a list that is no list of tokens (RFC 6455 section
    /// 4.1), and for `bearer` without a token after it.
    pub fn choose(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        let mut chosen = None;
        let mut token = None;
        let mut bearer = false;
        for line in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
            let line = line.to_str().map_err(|_| HandshakeError::Subprotocol)?;
            for offer in line.split(',').map(str::trim) {
                if offer.is_empty() || !offer.bytes().all(is_token_byte) {
                    return Err(HandshakeError::Subprotocol);
                }
                if bearer && token.is_none() {
                    token = Some(offer.to_owned());
                    continue;
                }
                match offer {
                    JSON => chosen = chosen.or(Some((JSON, Dialect::Json))),
                    MESSAGE_PACK => {
                        chosen = chosen.or(Some((MESSAGE_PACK, Dialect::MessagePack)));
                    }
                    BEARER => bearer = true,
                    _ => {}
                }
            }
        }
        if bearer && token.is_none() {
            return Err(HandshakeError::Subprotocol);
        }
        let (answer, dialect) = match chosen {
            Some((name, dialect)) => (Some(name), dialect),
            None => (bearer.then_some(BEARER), Dialect::Json),
        };
        Ok(Self { answer, dialect, token })
    }
}

/// Without the token, so that it cannot get into a log.
impl fmt::Debug for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subprotocol")
            .field("answer", &self.answer)
            .field("dialect", &self.dialect)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish()
    }
}

/// A byte of an HTTP token (RFC 9110 section 5.6.2). `/` and `=` are not among them; some clients
/// send them all the same (base64 with padding), and they are unambiguous here.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-'..=b'/' | b'=' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::http::HeaderValue;

    fn choose(lines: &[&'static str]) -> Result<Subprotocol, HandshakeError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
        }
        Subprotocol::choose(&headers)
    }

    fn chosen(
        answer: Option<&'static str>,
        dialect: Dialect,
        token: Option<&str>,
    ) -> Result<Subprotocol, HandshakeError> {
        Ok(Subprotocol { answer, dialect, token: token.map(str::to_owned) })
    }

    #[test]
    fn answers_one_of_ours_and_never_the_token() {
        use Dialect::{Json, MessagePack};
        let cases: [(&[&'static str], _); 9] = [
            (&[], chosen(None, Json, None)),
            (&["fanfare.v1.json"], chosen(Some(JSON), Json, None)),
            (&["other, fanfare.v1.msgpack"], chosen(Some(MESSAGE_PACK), MessagePack, None)),
            (&["fanfare.v1.msgpack,fanfare.v1.json"], chosen(Some(MESSAGE_PACK), MessagePack, None)),
            (&["bearer, a.b.c"], chosen(Some(BEARER), Json, Some("a.b.c"))),
            (&["bearer, a.b.c, fanfare.v1.msgpack"], chosen(Some(MESSAGE_PACK), MessagePack, Some("a.b.c"))),
            (&["fanfare.v1.json", "bearer", "a-_~b=="], chosen(Some(JSON), Json, Some("a-_~b=="))),
            // What follows `bearer` is the token, whatever it looks like.
            (&["bearer, fanfare.v1.msgpack"], chosen(Some(BEARER), Json, Some(MESSAGE_PACK))),
            (&["graphql-ws"], chosen(None, Json, None)),
        ];
        for (lines, expected) in cases {
            assert_eq!(choose(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_list_of_tokens() {
        for lines in [
            &["bearer"][..],
            &["fanfare.v1.json, bearer"],
            &[""],
            &["bearer, , fanfare.v1.json"],
            &["a b"],
            &["bearer, \"quoted\""],
        ] {
            assert_eq!(choose(lines), Err(HandshakeError::Subprotocol), "{lines:?}");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        let shown = format!("{:?}", choose(&["bearer, secret"]).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
