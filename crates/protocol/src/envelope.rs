//! What a service puts on a subject: `{ "event": …, "data": …, "timestamp": … }`.
//!
//! Parsing borrows from the body; `data` is never parsed and never re-serialised.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits;

/// An event as it was published, borrowed from the broker's bytes.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The event's name. Required.
    pub event: Cow<'a, str>,
    /// The payload.
    pub data: Data<'a>,
    /// Milliseconds since the Unix epoch, as the publisher says. Without it the node takes the broker's time, else its own.
    pub timestamp: Option<u64>,
    /// The publication's id, for idempotence.
    pub id: Option<Cow<'a, str>>,
    /// What the event is about, for conflation: of several with one key only the newest matters.
    pub key: Option<Cow<'a, str>>,
    /// The version of the thing that the event is about.
    pub version: Option<u64>,
    /// Sessions that do not get it, by their id. Not delivered.
    pub exclude: Vec<Cow<'a, str>>,
    /// W3C Trace Context, passed on.
    pub traceparent: Option<Cow<'a, str>>,
}

/// The payload of an event.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// There is none.
    None,
    /// Any JSON, byte for byte as it was published.
    Json(&'a RawValue),
    /// Bytes, already in base64 (`data_base64` of the envelope).
    Base64(Cow<'a, str>),
    /// Bytes (a body that is no envelope, of `Content-Type: application/octet-stream`).
    Bytes(&'a [u8]),
}

/// What the broker's headers say beside the body. All empty where the broker has no headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvelopeHeaders<'a> {
    /// `Fanfare-Event`: the event's name for a body that is no envelope.
    pub event: Option<&'a str>,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
}

/// A body as it came from the broker, with what its headers say; owned, so that it can cross threads.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The bytes that were published.
    pub bytes: bytes::Bytes,
    /// `Fanfare-Event`, where given.
    pub event: Option<Box<str>>,
    /// `Content-Type`, where given.
    pub content_type: Option<Box<str>>,
}

/// Why a body is refused. It is counted by [`reason`](Self::reason) and never delivered.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The body has too many bytes.
    #[error("the body has {bytes} bytes; allowed are {limit}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The body is no envelope, and no header names an event.
    #[error("the body is no envelope ({0}), and no header Fanfare-Event names the event")]
    NotAnEnvelope(serde_json::Error),
    /// A header names the event, but the body is neither JSON nor declared as bytes.
    #[error("the body is not JSON ({0}); declare bytes with Content-Type: application/octet-stream")]
    NotJson(serde_json::Error),
    /// A field is empty or too long.
    #[error("{field} has {bytes} bytes; allowed are {min} to {max}")]
    FieldLength {
        /// The field's name.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The least allowed, in bytes.
        min: usize,
        /// The most allowed, in bytes.
        max: usize,
    },
    /// An event name that only a node may use.
    #[error("event {0:?} is refused: names that begin with \"system:\" are the node's own")]
    ReservedEvent(String),
    /// Both `data` and `data_base64`.
    #[error("both data and data_base64 are given; one of them is allowed")]
    TwoPayloads,
    /// `data_base64` is not base64.
    #[error("data_base64 is not standard base64 with padding")]
    Base64,
    /// Too many sessions to exclude.
    #[error("exclude names {0} sessions; allowed are {max}", max = limits::EXCLUDED_SESSIONS)]
    TooManyExcluded(usize),
}

impl EnvelopeError {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotAnEnvelope(_) => "not_an_envelope",
            Self::NotJson(_) => "not_json",
            Self::FieldLength { .. } => "field_length",
            Self::ReservedEvent(_) => "reserved_event",
            Self::TwoPayloads => "two_payloads",
            Self::Base64 => "base64",
            Self::TooManyExcluded(_) => "too_many_excluded",
        }
    }
}

impl Body {
    /// A body without headers.
    pub fn new(bytes: impl Into<bytes::Bytes>) -> Self {
        Self { bytes: bytes.into(), event: None, content_type: None }
    }

    /// Reads the envelope; `limit` is the most bytes allowed.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn envelope(&self, limit: usize) -> Result<Envelope<'_>, EnvelopeError> {
        let headers = EnvelopeHeaders { event: self.event.as_deref(), content_type: self.content_type.as_deref() };
        Envelope::parse(&self.bytes, headers, limit)
    }
}

impl<'a> Envelope<'a> {
    /// Reads a body that came from a broker. A body that is no envelope is `data` where a header names the event.
    ///
    /// # Errors
    /// [`EnvelopeError`] says what is wrong and what is allowed.
    pub fn parse(body: &'a [u8], headers: EnvelopeHeaders<'a>, limit: usize) -> Result<Self, EnvelopeError> {
        if body.len() > limit {
            return Err(EnvelopeError::TooLarge { bytes: body.len(), limit });
        }
        let envelope = match (headers.event, headers.content_type) {
            (Some(event), Some(kind)) if is_octet_stream(kind) => Self::bare(event, Data::Bytes(body)),
            (event, _) => match Fields::parse(body) {
                Ok(fields) => fields.envelope()?,
                Err(reason) => match event {
                    Some(event) => {
                        let data = serde_json::from_slice(body).map_err(EnvelopeError::NotJson)?;
                        Self::bare(event, Data::Json(data))
                    }
                    None => return Err(EnvelopeError::NotAnEnvelope(reason)),
                },
            },
        };
        envelope.check()?;
        Ok(envelope)
    }

    /// An event without any optional field.
    pub fn bare(event: &'a str, data: Data<'a>) -> Self {
        Self {
            event: Cow::Borrowed(event),
            data,
            timestamp: None,
            id: None,
            key: None,
            version: None,
            exclude: Vec::new(),
            traceparent: None,
        }
    }

    /// Writes the envelope as a service would publish it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event\":");
        crate::json::write_str(out, &self.event);
        self.write_fields(out, self.timestamp);
        if !self.exclude.is_empty() {
            out.extend_from_slice(b",\"exclude\":[");
            for (i, session) in self.exclude.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                crate::json::write_str(out, session);
            }
            out.push(b']');
        }
        out.push(b'}');
    }

    /// The fields that published and delivered events share, after `event`.
    pub(crate) fn write_fields(&self, out: &mut Vec<u8>, timestamp: Option<u64>) {
        self.data.write_field(out);
        crate::json::write_u64_field(out, r#","timestamp":"#, timestamp);
        crate::json::write_str_field(out, r#","id":"#, self.id.as_deref());
        crate::json::write_str_field(out, r#","key":"#, self.key.as_deref());
        crate::json::write_u64_field(out, r#","version":"#, self.version);
        crate::json::write_str_field(out, r#","traceparent":"#, self.traceparent.as_deref());
    }

    /// Checks lengths and reserved names. `parse` has done it.
    ///
    /// # Errors
    /// [`EnvelopeError`] names the field.
    pub fn check(&self) -> Result<(), EnvelopeError> {
        field_length("event", &self.event, 1, limits::EVENT_BYTES)?;
        if self.event.starts_with("system:") {
            return Err(EnvelopeError::ReservedEvent(self.event.clone().into_owned()));
        }
        for (field, value) in [("id", &self.id), ("key", &self.key), ("traceparent", &self.traceparent)] {
            if let Some(value) = value {
                field_length(field, value, 0, limits::FIELD_BYTES)?;
            }
        }
        if self.exclude.len() > limits::EXCLUDED_SESSIONS {
            return Err(EnvelopeError::TooManyExcluded(self.exclude.len()));
        }
        if let Data::Base64(text) = &self.data
            && !is_base64(text)
        {
            return Err(EnvelopeError::Base64);
        }
        Ok(())
    }
}

impl Data<'_> {
    /// `,"data":…`, where there is any. Bytes are `{"$bin":"base64"}` in JSON.
    fn write_field(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Json(raw) => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(raw.get().as_bytes());
            }
            Self::Base64(text) => write_bin(out, text),
            Self::Bytes(bytes) => {
                use base64::Engine as _;
                write_bin(out, &base64::engine::general_purpose::STANDARD.encode(bytes));
            }
        }
    }
}

fn write_bin(out: &mut Vec<u8>, base64: &str) {
    out.extend_from_slice(b",\"data\":{\"$bin\":\"");
    out.extend_from_slice(base64.as_bytes());
    out.extend_from_slice(b"\"}");
}

fn field_length(field: &'static str, value: &str, min: usize, max: usize) -> Result<(), EnvelopeError> {
    if (min..=max).contains(&value.len()) {
        Ok(())
    } else {
        Err(EnvelopeError::FieldLength { field, bytes: value.len(), min, max })
    }
}

fn is_octet_stream(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/octet-stream")
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// A string that borrows where it has no escapes; `Option<Cow<str>>` alone would always copy.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Fields<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Text<'a>>,
    timestamp: Option<u64>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    version: Option<u64>,
    #[serde(borrow)]
    exclude: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    traceparent: Option<Text<'a>>,
}

/// A `null` is data too; an `Option` alone would take it for nothing.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Fields<'a> {
    fn parse(body: &'a [u8]) -> serde_json::Result<Self> {
        // serde reads a struct from a list of its values too; an envelope has names.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &"an object"));
        }
        // One look at all bytes, with vector instructions, instead of one for each string.
        match simdutf8::basic::from_utf8(body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(body),
        }
    }

    fn envelope(self) -> Result<Envelope<'a>, EnvelopeError> {
        let data = match (self.data, self.data_base64) {
            (Some(_), Some(_)) => return Err(EnvelopeError::TwoPayloads),
            (Some(raw), None) => Data::Json(raw),
            (None, Some(text)) => Data::Base64(text.0),
            (None, None) => Data::None,
        };
        Ok(Envelope {
            event: self.event,
            data,
            timestamp: self.timestamp,
            id: self.id.map(|text| text.0),
            key: self.key.map(|text| text.0),
            version: self.version,
            exclude: self.exclude.unwrap_or_default().into_iter().map(|text| text.0).collect(),
            traceparent: self.traceparent.map(|text| text.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Envelope<'_>, EnvelopeError> {
        Envelope::parse(body.as_bytes(), EnvelopeHeaders::default(), limits::PUBLICATION_BYTES)
    }

    #[test]
    fn data_stays_byte_for_byte_and_nothing_is_copied() {
        let body = r#"{"event":"project:funded","data":{ "a" : 1.50, "b":[ ] },"timestamp":1696867200000,"later":1}"#;
        let envelope = parse(body).unwrap();
        assert!(matches!(envelope.event, Cow::Borrowed("project:funded")));
        assert!(matches!(envelope.data, Data::Json(raw) if raw.get() == r#"{ "a" : 1.50, "b":[ ] }"#));
        assert_eq!(envelope.timestamp, Some(1_696_867_200_000));
    }

    #[test]
    fn a_null_data_is_data() {
        assert!(matches!(parse(r#"{"event":"x","data":null}"#).unwrap().data, Data::Json(raw) if raw.get() == "null"));
    }

    #[test]
    fn a_body_that_is_no_envelope_needs_a_header() {
        let headers = EnvelopeHeaders { event: Some("x"), content_type: None };
        let limit = limits::PUBLICATION_BYTES;
        assert!(matches!(parse("[1]"), Err(EnvelopeError::NotAnEnvelope(_))));
        assert!(matches!(parse(r#"["x",1,null,null,null,null,null,null,null]"#), Err(EnvelopeError::NotAnEnvelope(_))));
        assert!(matches!(parse(r#"{"data":1}"#), Err(EnvelopeError::NotAnEnvelope(_))));
        let envelope = Envelope::parse(b"[1]", headers, limit).unwrap();
        assert!(matches!(envelope.data, Data::Json(raw) if raw.get() == "[1]"));
        assert!(matches!(Envelope::parse(b"\xff", headers, limit), Err(EnvelopeError::NotJson(_))));
        let headers = EnvelopeHeaders { event: Some("x"), content_type: Some("application/octet-stream") };
        let envelope = Envelope::parse(b"\xff", headers, limit).unwrap();
        assert!(matches!(envelope.data, Data::Bytes(b"\xff")));
    }

    #[test]
    fn what_is_refused() {
        assert!(matches!(parse(r#"{"event":""}"#), Err(EnvelopeError::FieldLength { field: "event", .. })));
        assert!(matches!(parse(r#"{"event":"system:gap"}"#), Err(EnvelopeError::ReservedEvent(_))));
        assert!(matches!(parse(r#"{"event":"x","data":1,"data_base64":"AA=="}"#), Err(EnvelopeError::TwoPayloads)));
        assert!(matches!(parse(r#"{"event":"x","data_base64":"?"}"#), Err(EnvelopeError::Base64)));
        let long = format!(r#"{{"event":"x","key":"{}"}}"#, "k".repeat(256));
        assert!(matches!(parse(&long), Err(EnvelopeError::FieldLength { field: "key", bytes: 256, .. })));
        let error = Envelope::parse(b"{}", EnvelopeHeaders::default(), 1).unwrap_err();
        assert_eq!(error.to_string(), "the body has 2 bytes; allowed are 1");
    }

    #[test]
    fn writing_and_parsing_agree() {
        let body = r#"{"event":"x\n","data":[1, 2],"timestamp":5,"id":"i","key":"k","version":3,"traceparent":"t","exclude":["a","b"]}"#;
        let mut out = Vec::new();
        parse(body).unwrap().write_json(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), body);
    }
}
