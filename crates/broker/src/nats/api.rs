//! The part of JetStream's API that is used: requests on `$JS.API.…` with JSON both ways.
//!
//! Written by hand: the client library's own (feature `jetstream`) brings three more crates (`time`, `serde_nanos`, `tryhard`),
//! keeps an entry for every request that was given up, and reads by consumers that renew themselves. What is needed here
//! are eight requests, whose errors have to be told apart.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fanfare_protocol::Body;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    NAME,
    intake::Headers,
    requests::{Caller, RequestError},
};
use crate::BrokerError;

/// No such stream.
const STREAM_NOT_FOUND: u32 = 10_059;
/// A stream of this name is there, and it is another.
const STREAM_NAME_IN_USE: u32 = 10_058;
/// No message has what was asked for.
const NO_MESSAGE_FOUND: u32 = 10_037;
/// The account may not use JetStream, or the server has none.
const NOT_ENABLED: [u32; 2] = [10_039, 10_076];

/// What JetStream says instead of doing what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{description} ({code}, {err_code})")]
pub(super) struct ApiError {
    /// As in HTTP.
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    pub(super) description: String,
}

/// Why a call of the API failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiFailure {
    /// There was no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer is an error.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The answer cannot be read.
    #[error("an answer of JetStream cannot be read: {0}")]
    Unreadable(String),
}

/// `STREAM.INFO`, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamInfo {
    /// As it came, since what others have set must not be lost.
    pub(super) config: Value,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) state: StreamState,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamState {
    /// One more than the last where there is none.
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    /// Publications by subject, where they were asked for.
    #[serde(default)]
    pub(super) subjects: Option<std::collections::HashMap<String, u64>>,
}

/// The answer to a publish.
#[derive(Debug, Deserialize)]
pub(super) struct PublishAck {
    pub(super) stream: String,
    pub(super) seq: u64,
    /// It was there already, with this sequence.
    #[serde(default)]
    pub(super) duplicate: bool,
}

/// A message as the stream's leader has it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: u64,
    pub(super) body: Body,
    pub(super) timestamp: Option<u64>,
}

/// Which message `STREAM.MSG.GET` is to give.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Which<'a> {
    /// The last one of a subject.
    Last { last_by_subj: &'a str },
    /// The first one of a subject from a sequence on.
    Next { seq: u64, next_by_subj: &'a str },
}

#[derive(Deserialize)]
struct StoredMessage {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    time: String,
}

/// A pull consumer that lasts as long as one read.
#[derive(Debug)]
pub(super) struct ConsumerOptions<'a> {
    pub(super) stream: &'a str,
    pub(super) name: &'a str,
    /// One only: servers before 2.10 take no notice of several.
    pub(super) filter: &'a str,
    pub(super) start: u64,
    pub(super) headers_only: bool,
    pub(super) inactive: std::time::Duration,
}

impl Caller {
    /// What a stream is, as its leader says.
    pub(super) async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiFailure> {
        self.api(format!("STREAM.INFO.{stream}"), None::<&Value>).await
    }

    /// The same, with the number of publications on a subject. Servers before 2.10 look at all subjects of the stream for it:
    /// with 100,000 of them it takes 70 ms, and everything else 0.1.
    pub(super) async fn stream_info_of(&self, stream: &str, subject: &str) -> Result<StreamInfo, ApiFailure> {
        self.api(format!("STREAM.INFO.{stream}"), Some(&json!({ "subjects_filter": subject }))).await
    }

    /// Creates a stream. One of the same configuration may be there already.
    pub(super) async fn create_stream(&self, stream: &str, config: &Value) -> Result<StreamInfo, ApiFailure> {
        self.api(format!("STREAM.CREATE.{stream}"), Some(config)).await
    }

    pub(super) async fn update_stream(&self, stream: &str, config: &Value) -> Result<StreamInfo, ApiFailure> {
        self.api(format!("STREAM.UPDATE.{stream}"), Some(config)).await
    }

    /// A message as the stream's leader has it; `None` where there is none.
    pub(super) async fn stored(&self, stream: &str, which: Which<'_>) -> Result<Option<Stored>, ApiFailure> {
        let found: Result<StoredMessage, _> = self.api(format!("STREAM.MSG.GET.{stream}"), Some(&which)).await;
        match found {
            Ok(found) => found.message.decode().map(Some),
            Err(ApiFailure::Refused(error)) if error.err_code == NO_MESSAGE_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Only the sequence of a message. The server sends its body along; it is passed over.
    pub(super) async fn sequence(&self, stream: &str, which: Which<'_>) -> Result<Option<u64>, ApiFailure> {
        #[derive(Deserialize)]
        struct Found {
            message: Place,
        }
        #[derive(Deserialize)]
        struct Place {
            seq: u64,
        }
        match self.api::<Found>(format!("STREAM.MSG.GET.{stream}"), Some(&which)).await {
            Ok(found) => Ok(Some(found.message.seq)),
            Err(ApiFailure::Refused(error)) if error.err_code == NO_MESSAGE_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a consumer and says how many messages it has.
    pub(super) async fn create_consumer(&self, options: &ConsumerOptions<'_>) -> Result<u64, ApiFailure> {
        #[derive(Deserialize)]
        struct Created {
            num_pending: u64,
        }
        let ConsumerOptions { stream, name, filter, .. } = options;
        let request = json!({
            "stream_name": stream,
            "config": {
                "name": name,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": options.start,
                "ack_policy": "none",
                "replay_policy": "instant",
                "filter_subject": filter,
                "headers_only": options.headers_only,
                "inactive_threshold": nanoseconds(options.inactive),
                "num_replicas": 1,
                "mem_storage": true,
            },
        });
        let created = self.api::<Created>(format!("CONSUMER.CREATE.{stream}.{name}.{filter}"), Some(&request)).await?;
        Ok(created.num_pending)
    }

    /// Ends a consumer without waiting; where the request is lost, the consumer ends by itself.
    pub(super) async fn delete_consumer(&self, stream: &str, name: &str) {
        self.tell(format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"), Bytes::new()).await;
    }

    async fn api<T: DeserializeOwned>(&self, what: String, request: Option<&impl Serialize>) -> Result<T, ApiFailure> {
        let payload = request.map_or_else(Vec::new, |request| {
            serde_json::to_vec(request).expect("what is made here of texts and numbers can be written as JSON")
        });
        let answer = self.request(format!("$JS.API.{what}"), payload.into()).await?;
        read(&answer.payload)
    }
}

/// Reads an answer: what was asked for, or `{"error":…}`.
pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiFailure> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<ApiError>,
    }
    let unreadable = |error: serde_json::Error| ApiFailure::Unreadable(error.to_string());
    match serde_json::from_slice::<Refusal>(payload).map_err(unreadable)?.error {
        Some(error) => Err(error.into()),
        None => serde_json::from_slice(payload).map_err(unreadable),
    }
}

impl ApiError {
    pub(super) fn is_missing_stream(&self) -> bool {
        self.err_code == STREAM_NOT_FOUND
    }

    pub(super) fn is_name_in_use(&self) -> bool {
        self.err_code == STREAM_NAME_IN_USE
    }

    /// The account may not use JetStream, or the server has none.
    pub(super) fn is_not_enabled(&self) -> bool {
        NOT_ENABLED.contains(&self.err_code)
    }

    /// It may succeed a moment later: a cluster has no leader yet.
    pub(super) fn is_temporary(&self) -> bool {
        self.code == 503 && !self.is_not_enabled()
    }
}

impl ApiFailure {
    pub(super) fn is_missing_stream(&self) -> bool {
        matches!(self, Self::Refused(error) if error.is_missing_stream())
    }
}

/// For calls that change nothing.
impl From<ApiFailure> for BrokerError {
    fn from(failure: ApiFailure) -> Self {
        match failure {
            // No JetStream listens: the stream's servers are away.
            ApiFailure::Request(RequestError::NoResponders(_)) => Self::Unavailable { broker: NAME },
            ApiFailure::Request(error) => error.into(),
            ApiFailure::Refused(error) if error.is_temporary() => Self::Unavailable { broker: NAME },
            failure => Self::Refused { broker: NAME, reason: failure.to_string() },
        }
    }
}

impl RawMessage {
    fn decode(self) -> Result<Stored, ApiFailure> {
        let decode = |text: &str| {
            BASE64_STANDARD.decode(text).map_err(|error| ApiFailure::Unreadable(format!("a stored message: {error}")))
        };
        let block = decode(&self.hdrs)?;
        let headers = Headers::read(&block);
        Ok(Stored {
            seq: self.seq,
            body: Body {
                event: headers.event.map(Box::from),
                content_type: headers.content_type.map(Box::from),
                bytes: decode(&self.data)?.into(),
            },
            timestamp: milliseconds(&self.time),
        })
    }
}

/// A time as RFC 3339, in milliseconds since the Unix epoch.
pub(super) fn milliseconds(time: &str) -> Option<u64> {
    let since = humantime::parse_rfc3339(time).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    since.as_millis().try_into().ok()
}

/// As JetStream has durations.
pub(super) fn nanoseconds(duration: std::time::Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_message_is_read() {
        let answer = json!({ "type": "x", "message": {
            "subject": "rt.pub.acme.a.b", "seq": 7, "time": "2026-11-21T16:00:00.123456789Z",
            "hdrs": BASE64_STANDARD.encode("NATS/1.0\r\nFanfare-Event: first\r\nX: Fanfare-Event: no\r\nFanfare-Event:  last\r\n\r\n"),
            "data": BASE64_STANDARD.encode("bytes"),
        }});
        let stored = read::<StoredMessage>(answer.to_string().as_bytes()).unwrap().message.decode().unwrap();
        assert_eq!(stored.seq, 7);
        assert_eq!(stored.body.event.as_deref(), Some("last"));
        assert_eq!((stored.body.content_type, stored.body.bytes.as_ref()), (None, &b"bytes"[..]));
        assert_eq!(stored.timestamp, Some(1_795_276_800_123));
    }

    #[test]
    fn an_error_is_told_apart_from_an_answer() {
        let text = br#"{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        let failure = read::<StreamInfo>(text).unwrap_err();
        assert!(failure.is_missing_stream());
        assert_eq!(failure.to_string(), "stream not found (404, 10059)");
        assert!(matches!(read::<StreamInfo>(b"{}"), Err(ApiFailure::Unreadable(_))));
        let away = ApiError { code: 503, err_code: 10_008, description: String::new() };
        assert!(away.is_temporary() && !ApiError { err_code: 10_039, ..away }.is_temporary());
    }
}
