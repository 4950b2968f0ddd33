//! An event on its way out: what is published, and its optional fields.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_protocol::{Channel, Data, Envelope, NameError, Tenant};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::PublishError;

/// An event to publish, with its optional fields.
///
/// ```
/// use fanfare_publisher::Publication;
///
/// # fn main() -> Result<(), fanfare_publisher::PublishError> {
/// let funded = Publication::new("project:clx123", "project:funded")
///     .data(&serde_json::json!({ "projectId": "clx123", "currentAmount": 75_000 }))?
///     .id("payment-8812") // the same id again is the same publication
///     .key("clx123")
///     .version(7);
/// # Ok(()) }
/// ```
///
/// Names and lengths are checked when it is sent.
#[derive(Clone, Debug)]
pub struct Publication {
    tenant: Option<String>,
    channel: String,
    event: String,
    data: Option<Box<RawValue>>,
    timestamp: Option<u64>,
    id: Option<String>,
    key: Option<String>,
    version: Option<u64>,
    exclude: Vec<String>,
    traceparent: Option<String>,
}

impl Publication {
    /// An event without data.
    pub fn new(channel: impl Into<String>, event: impl Into<String>) -> Self {
        Self {
            tenant: None,
            channel: channel.into(),
            event: event.into(),
            data: None,
            timestamp: None,
            id: None,
            key: None,
            version: None,
            exclude: Vec::new(),
            traceparent: None,
        }
    }

    /// The data, as JSON.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] where it cannot be written as JSON, such as a map whose keys are not strings.
    pub fn data<T: Serialize + ?Sized>(mut self, data: &T) -> Result<Self, PublishError> {
        match serde_json::value::to_raw_value(data) {
            Ok(raw) => self.data = Some(raw),
            Err(error) => return Err(self.invalid(format!("the data cannot be written as JSON: {error}"))),
        }
        Ok(self)
    }

    /// The data, already written as JSON; it is passed on byte for byte, but for white space around it.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] where it is not one JSON value.
    pub fn raw_data(mut self, json: impl AsRef<[u8]>) -> Result<Self, PublishError> {
        match serde_json::from_slice::<Box<RawValue>>(json.as_ref()) {
            Ok(raw) => self.data = Some(raw),
            Err(error) => return Err(self.invalid(format!("the data is not JSON: {error}"))),
        }
        Ok(self)
    }

    /// The publication's id, 1 to 255 bytes. Two publications with one id on one channel are the same publication. Unless
    /// set, a random one is made; either way all attempts carry the same.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What the event is about, for conflation: of several with one key only the newest matters. Up to 255 bytes.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The version of the thing that the event is about.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    /// When it happened, in milliseconds since the Unix epoch. Unless set, clients get the broker's time, or the node's.
    #[must_use]
    pub fn timestamp(mut self, milliseconds: u64) -> Self {
        self.timestamp = Some(milliseconds);
        self
    }

    /// One more session that does not get it (up to 64), such as that of the client whose request caused it.
    #[must_use]
    pub fn exclude(mut self, session: impl Into<String>) -> Self {
        self.exclude.push(session.into());
        self
    }

    /// W3C Trace Context of the request that caused it, passed on to clients. Up to 255 bytes.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// The tenant, where it is not the publisher's own.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Checks everything and gives it an id, where it has none.
    pub(crate) fn check(mut self, tenant: &Tenant) -> Result<Checked, PublishError> {
        let name = |what: &str, error: NameError| format!("{what}: {error}");
        let tenant = match self.tenant.as_deref().map(Tenant::parse) {
            None => tenant.clone(),
            Some(Ok(tenant)) => tenant,
            Some(Err(error)) => return Err(self.invalid(name("tenant", error))),
        };
        let channel = Channel::parse(&self.channel).map_err(|error| self.invalid(name("channel", error)))?;
        if self.id.as_deref() == Some("") {
            return Err(self.invalid("id has 0 bytes; allowed are 1 to 255".into()));
        }
        self.envelope().check().map_err(|error| self.invalid(error.to_string()))?;
        let id = self.id.get_or_insert_with(random_id).clone();
        Ok(Checked { tenant, channel, id, publication: self })
    }

    fn envelope(&self) -> Envelope<'_> {
        Envelope {
            timestamp: self.timestamp,
            id: self.id.as_deref().map(Into::into),
            key: self.key.as_deref().map(Into::into),
            version: self.version,
            exclude: self.exclude.iter().map(|session| session.as_str().into()).collect(),
            traceparent: self.traceparent.as_deref().map(Into::into),
            ..Envelope::bare(&self.event, self.data.as_deref().map_or(Data::None, Data::Json))
        }
    }

    fn invalid(&self, reason: String) -> PublishError {
        PublishError::Invalid { channel: self.channel.clone(), reason }
    }
}

/// A publication whose names and lengths are right, with its id.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) tenant: Tenant,
    pub(crate) channel: Channel,
    pub(crate) id: String,
    publication: Publication,
}

impl Checked {
    /// The envelope, as a service puts it on a subject.
    pub(crate) fn envelope_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.publication.envelope().write_json(&mut out);
        out
    }

    /// The body of `POST /api/publish`.
    pub(crate) fn request_json(&self) -> Vec<u8> {
        let fields = RequestWire {
            tenant: self.tenant.as_str(),
            channel: self.channel.as_str(),
            event: &self.publication.event,
            data: self.publication.data.as_deref(),
            timestamp: self.publication.timestamp,
            id: &self.id,
            key: self.publication.key.as_deref(),
            version: self.publication.version,
            exclude: &self.publication.exclude,
            traceparent: self.publication.traceparent.as_deref(),
        };
        serde_json::to_vec(&fields).expect("strings, numbers and raw JSON can be written as JSON")
    }
}

#[derive(Serialize)]
struct RequestWire<'a> {
    tenant: &'a str,
    channel: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    exclude: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

/// 128 random bits in 22 characters. A collision would make one of two events a duplicate of the other.
fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn check(publication: Publication) -> Result<Checked, String> {
        publication.check(&Tenant::parse("acme").unwrap()).map_err(|error| error.to_string())
    }

    fn full() -> Publication {
        let publication = Publication::new("project:a", "project:funded").raw_data(r#" {"n": 1.50} "#).unwrap();
        publication.id("i").key("k").version(3).timestamp(5).exclude("s1").exclude("s2").traceparent("00-ab")
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_envelope_has_every_field_and_the_data_byte_for_byte() {
        assert_eq!(
            text(check(full()).unwrap().envelope_json()),
            r#"{"event":"project:funded","data":{"n": 1.50},"timestamp":5,"id":"i","key":"k","version":3,"traceparent":"00-ab","exclude":["s1","s2"]}"#
        );
    }

    #[test]
    fn the_request_has_every_field_and_the_data_byte_for_byte() {
        assert_eq!(
            text(check(full()).unwrap().request_json()),
            r#"{"tenant":"acme","channel":"project:a","event":"project:funded","data":{"n": 1.50},"timestamp":5,"id":"i","key":"k","version":3,"exclude":["s1","s2"],"traceparent":"00-ab"}"#
        );
    }

    #[test]
    fn what_is_not_set_is_not_written() {
        let checked = check(Publication::new("a", "x").id("i").tenant("other")).unwrap();
        assert_eq!(text(checked.envelope_json()), r#"{"event":"x","id":"i"}"#);
        assert_eq!(text(checked.request_json()), r#"{"tenant":"other","channel":"a","event":"x","id":"i"}"#);
    }

    #[test]
    fn ids_are_made_where_none_is_given_and_differ() {
        let ids: HashSet<String> = (0..1_000).map(|_| check(Publication::new("a", "x")).unwrap().id).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 22), "{ids:?}");
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_the_rule() {
        let refused = |publication: Publication| check(publication).unwrap_err();
        assert!(refused(Publication::new("a..b", "x")).contains("channel: '.' is not allowed"));
        assert!(refused(Publication::new("project:*", "x")).contains("wildcard"));
        assert!(refused(Publication::new("a", "")).contains("event has 0 bytes"));
        assert!(refused(Publication::new("a", "system:gap")).contains("system:"));
        assert!(refused(Publication::new("a", "x").tenant("a:b")).contains("tenant: ':'"));
        assert!(refused(Publication::new("a", "x").id("")).contains("id has 0 bytes"));
        assert!(refused(Publication::new("a", "x").key("k".repeat(256))).contains("key has 256 bytes"));
        let many = (0..65).fold(Publication::new("a", "x"), |publication, n| publication.exclude(n.to_string()));
        assert!(refused(many).contains("65 sessions"));
        for data in ["{", "1 2", ""] {
            let error = Publication::new("a", "x").raw_data(data).unwrap_err();
            assert!(error.to_string().contains("the data is not JSON"), "{error}");
        }
        assert!(Publication::new("a", "x").raw_data(b"\"\xff\"").is_err());
    }
}
