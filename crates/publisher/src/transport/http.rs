//! The HTTP API of a node: `POST /api/publish`, and `/api/batch` for more than one.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_broker::mask_url;
use fanfare_protocol::Position;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{Attempted, Failure, FailureKind, Prepared, Transport};
use crate::{ConnectError, limits, publication::Checked};

/// Publishes through a node.
pub(crate) struct HttpTransport {
    client: reqwest::Client,
    publish: Url,
    batch: Url,
}

impl HttpTransport {
    /// `url` is the node's internal address, with the path before `/api` where there is one.
    pub(crate) fn new(url: &Url, api_key: Option<&str>, tls_ca_file: Option<&Path>) -> Result<Self, ConnectError> {
        let mut headers = header::HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(key) = api_key {
            let refused = |_| unusable("api_key", "***", "visible ASCII characters are allowed");
            let mut value = header::HeaderValue::from_str(key).map_err(refused)?;
            value.set_sensitive(true);
            headers.insert("x-api-key", value);
        }
        install_crypto_provider();
        let mut client = reqwest::Client::builder()
            .default_headers(headers)
            // A POST that is redirected would become a GET, and the key would go elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            // The internal port is inside: what the environment says of the way out does not hold for it.
            .no_proxy();
        if let Some(file) = tls_ca_file {
            client = client.tls_certs_only(authorities(file)?);
        }
        let client = client.build().map_err(|error| {
            unusable("url", mask_url(url.as_str()), format!("no HTTP client can be made: {}", with_causes(&error)))
        })?;
        Ok(Self { client, publish: endpoint(url, "publish"), batch: endpoint(url, "batch") })
    }

    async fn post(&self, url: &Url, body: Vec<u8>) -> Result<(StatusCode, Option<Duration>, Vec<u8>), Failure> {
        let request = self.client.post(url.clone()).body(body);
        let mut response = request.send().await.map_err(|error| {
            let reason = with_causes(&error);
            if error.is_connect() || error.is_builder() {
                Failure::not_accepted(reason)
            } else {
                Failure::unknown(reason)
            }
        })?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::unknown(with_causes(&error)))? {
            if answer.len() + chunk.len() > limits::ANSWER_BYTES {
                return Err(Failure::unknown(format!("the answer has more than {} bytes", limits::ANSWER_BYTES)));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok((response.status(), retry_after(response.headers()), answer))
    }
}

#[async_trait]
impl Transport for HttpTransport {
    fn name(&self) -> &'static str {
        "http"
    }

    /// The node checks the size by its own configuration.
    fn encode(&self, checked: &Checked) -> Result<Bytes, String> {
        Ok(checked.request_json().into())
    }

    async fn send(&self, publications: &[&Prepared], until: Instant) -> Vec<Attempted> {
        let exchange = async {
            match publications {
                [one] => {
                    let (status, hint, answer) = self.post(&self.publish, one.body.to_vec()).await?;
                    read_status(status, hint, &answer)?;
                    Ok(vec![Ok(read_position(&answer))])
                }
                several => {
                    let (status, hint, answer) = self.post(&self.batch, batch_body(several)).await?;
                    read_status(status, hint, &answer)?;
                    read_results(&answer, several.len())
                }
            }
        };
        let outcome = timeout_at(until, exchange).await;
        outcome
            .unwrap_or_else(|_| Err(Failure::unknown("there was no answer in time")))
            .unwrap_or_else(|failure: Failure| publications.iter().map(|_| Err(failure.clone())).collect())
    }

    async fn close(&self) {}
}

fn unusable(option: &'static str, value: impl Into<String>, allowed: impl Into<String>) -> ConnectError {
    ConnectError::Configuration { option, value: value.into(), allowed: allowed.into() }
}

fn authorities(file: &Path) -> Result<Vec<reqwest::Certificate>, ConnectError> {
    let refused = |reason: String| unusable("tls_ca_file", file.display().to_string(), reason);
    let pem = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refused(with_causes(&error)))?;
    if found.is_empty() { Err(refused("there is no PEM certificate in it".into())) } else { Ok(found) }
}

/// What the node says of an error.
#[derive(Deserialize)]
struct ErrorWire {
    code: String,
    message: String,
    retryable: bool,
    reconnect_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct AnswerWire {
    error: ErrorWire,
}

#[derive(Deserialize)]
struct ResultWire {
    error: Option<ErrorWire>,
    #[serde(flatten)]
    position: Option<Position>,
}

#[derive(Deserialize)]
struct ResultsWire {
    results: Vec<ResultWire>,
}

impl ErrorWire {
    fn failure(self, hint: Option<Duration>) -> Failure {
        let kind = match (self.retryable, self.code.as_str()) {
            (false, _) => FailureKind::Refused,
            (true, "RATE_LIMIT" | "UNAVAILABLE") => FailureKind::NotAccepted,
            (true, _) => FailureKind::Unknown,
        };
        let retry_after = self.reconnect_after_ms.map(Duration::from_millis).or(hint);
        Failure { kind, reason: format!("{}: {}", self.code, self.message), retry_after }
    }
}

fn batch_body(publications: &[&Prepared]) -> Vec<u8> {
    let bytes: usize = publications.iter().map(|publication| publication.body.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 32);
    body.extend_from_slice(br#"{"publications":["#);
    for (index, publication) in publications.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&publication.body);
    }
    body.extend_from_slice(b"]}");
    body
}

/// Success, or what the error says; where it is not the node's own error (a proxy's page), by the status alone.
fn read_status(status: StatusCode, hint: Option<Duration>, answer: &[u8]) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    if let Ok(AnswerWire { error }) = serde_json::from_slice(answer) {
        return Err(error.failure(hint));
    }
    let kind = match status.as_u16() {
        429 | 503 => FailureKind::NotAccepted,
        408 | 500.. => FailureKind::Unknown,
        _ => FailureKind::Refused,
    };
    Err(Failure { kind, reason: format!("the status is {status}, and the body is not a node's"), retry_after: hint })
}

/// The position in the answer; there is none on channels without history.
fn read_position(answer: &[u8]) -> Option<Position> {
    serde_json::from_slice(answer).ok()
}

fn read_results(answer: &[u8], expected: usize) -> Result<Vec<Attempted>, Failure> {
    let ResultsWire { results } = serde_json::from_slice(answer)
        .map_err(|error| Failure::unknown(format!("the answer is not that of /api/batch: {error}")))?;
    if results.len() != expected {
        return Err(Failure::unknown(format!("the answer has {} results for {expected} publications", results.len())));
    }
    let read = |ResultWire { error, position }| error.map_or(Ok(position), |error| Err(error.failure(None)));
    Ok(results.into_iter().map(read).collect())
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3). The form with a date is passed over: clocks differ.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn endpoint(url: &Url, method: &str) -> Url {
    let mut endpoint = url.clone();
    endpoint.set_path(&format!("{}/api/{method}", url.path().trim_end_matches('/')));
    endpoint.set_query(None);
    endpoint.set_fragment(None);
    endpoint
}

/// An HTTP error with what caused it; its own text often names only the URL, which may hold secrets and is left out.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_connect() => "no connection".to_owned(),
        error if error.is_timeout() => "no answer in time".to_owned(),
        _ => "the exchange failed".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The HTTP client takes the process's provider and panics where there is none. A program that has installed one keeps it.
fn install_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // It fails only when another thread has installed one in between.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Epoch;

    use super::*;

    fn answer(status: u16, body: &str) -> Result<(), FailureKind> {
        let status = StatusCode::from_u16(status).unwrap();
        read_status(status, None, body.as_bytes()).map_err(|failure| failure.kind)
    }

    fn error(code: &str, retryable: bool) -> String {
        format!(r#"{{"error":{{"code":"{code}","message":"m","retryable":{retryable}}}}}"#)
    }

    fn position(offset: u64) -> Position {
        Position { offset, epoch: Epoch::parse("e").unwrap() }
    }

    #[test]
    fn an_answer_has_the_position_where_there_is_one() {
        assert_eq!(read_position(br#"{"offset":7,"epoch":"e","more":1}"#), Some(position(7)));
        assert_eq!(read_position(b"{}"), None);
        assert_eq!(read_position(b""), None);
    }

    #[test]
    fn the_nodes_own_error_decides() {
        assert_eq!(answer(200, "{}"), Ok(()));
        assert_eq!(answer(400, &error("BAD_REQUEST", false)), Err(FailureKind::Refused));
        assert_eq!(answer(429, &error("RATE_LIMIT", true)), Err(FailureKind::NotAccepted));
        assert_eq!(answer(503, &error("UNAVAILABLE", true)), Err(FailureKind::NotAccepted));
        assert_eq!(answer(504, &error("TIMEOUT", true)), Err(FailureKind::Unknown));
        assert_eq!(answer(500, &error("INTERNAL", true)), Err(FailureKind::Unknown));
        assert_eq!(answer(500, &error("SOMETHING_NEW", true)), Err(FailureKind::Unknown));
        assert_eq!(answer(503, &error("SOMETHING_NEW", false)), Err(FailureKind::Refused));
    }

    #[test]
    fn without_it_the_status_decides() {
        for (status, kind) in [
            (301, FailureKind::Refused),
            (404, FailureKind::Refused),
            (408, FailureKind::Unknown),
            (429, FailureKind::NotAccepted),
            (500, FailureKind::Unknown),
            (502, FailureKind::Unknown),
            (503, FailureKind::NotAccepted),
            (504, FailureKind::Unknown),
        ] {
            assert_eq!(answer(status, "<html>"), Err(kind), "{status}");
        }
    }

    #[test]
    fn a_batch_has_one_result_for_each() {
        let results =
            br#"{"results":[{},{"offset":7,"epoch":"e"},{"error":{"code":"FORBIDDEN","message":"m","retryable":false}}]}"#;
        let read = read_results(results, 3).unwrap();
        assert_eq!(read, [Ok(None), Ok(Some(position(7))), Err(Failure::refused("FORBIDDEN: m"))]);
        assert_eq!(read_results(results, 2).unwrap_err().kind, FailureKind::Unknown);
        assert_eq!(read_results(b"{}", 2).unwrap_err().kind, FailureKind::Unknown);
    }

    #[test]
    fn the_pause_asked_for_comes_from_the_body_or_the_header() {
        let body = br#"{"error":{"code":"RATE_LIMIT","message":"m","retryable":true,"reconnect_after_ms":1500}}"#;
        let hint = Some(Duration::from_secs(9));
        let read = |body: &[u8]| read_status(StatusCode::TOO_MANY_REQUESTS, hint, body).unwrap_err().retry_after;
        assert_eq!(read(body), Some(Duration::from_millis(1_500)));
        assert_eq!(read(b""), hint);
        let header =
            |value: &str| retry_after(&header::HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(header("7"), Some(Duration::from_secs(7)));
        assert_eq!(header("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }

    #[test]
    fn the_path_of_the_url_is_kept() {
        let of = |url: &str| endpoint(&Url::parse(url).unwrap(), "publish").to_string();
        assert_eq!(of("http://127.0.0.1:9000"), "http://127.0.0.1:9000/api/publish");
        assert_eq!(of("https://a.example/inside/?x=1#y"), "https://a.example/inside/api/publish");
    }
}
