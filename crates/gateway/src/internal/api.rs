//! Publishing through the internal port.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State, rejection::BytesRejection},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use fanfare_broker::Publish;
use fanfare_protocol::{ErrorBody, ErrorCode, Position};
use futures_util::{StreamExt as _, stream};
use metrics::{counter, histogram};
use serde::Serialize;

use super::{InternalState, error::ApiError, request};
use crate::{publishing, telemetry::metrics as names};

/// Publications of one request that the broker is working on at one time.
const IN_FLIGHT: usize = 256;
/// Requests after which the histogram's samples are put into their buckets, so that they do not pile up where nobody
/// scrapes.
const UPKEEP: u64 = 1_024;

/// The answer to a publication: `{}`, or offset and epoch where the channel keeps history.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

/// The answer to several publications, in their order.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    results: Vec<Outcome>,
}

/// The answer to one of several: as to one alone, or its error.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

/// `POST /api/publish`: one event on one channel.
pub(super) async fn publish(
    State(state): State<InternalState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Published>, ApiError> {
    let body = take(&state, body)?;
    let position = state.send(request::publish(&body, state.0.limits)).await?;
    Ok(Json(Published { position }))
}

/// `POST /api/broadcast`: one event on many channels.
pub(super) async fn broadcast(
    State(state): State<InternalState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Results>, ApiError> {
    let body = take(&state, body)?;
    let request::Broadcast { publishes } = request::broadcast(&body, state.0.limits)?;
    let (channels, publishes): (Vec<_>, Vec<_>) = publishes.into_iter().unzip();
    let outcomes = state.send_all(publishes).await;
    let results =
        channels.into_iter().zip(outcomes).map(|(channel, outcome)| Outcome::new(Some(channel), outcome)).collect();
    Ok(Json(Results { results }))
}

/// `POST /api/batch`: several events.
pub(super) async fn batch(
    State(state): State<InternalState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Results>, ApiError> {
    let body = take(&state, body)?;
    let outcomes = state.send_all(request::batch(&body, state.0.limits)?).await;
    let results = outcomes.into_iter().map(|outcome| Outcome::new(None, outcome)).collect();
    Ok(Json(Results { results }))
}

/// Counts and times every request.
pub(super) async fn measure(State(state): State<InternalState>, request: Request, next: Next) -> Response {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let endpoint = path.rsplit('/').next().unwrap_or_default().to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    counter!(names::API_REQUESTS_TOTAL, "endpoint" => endpoint.clone(), "status" => status).increment(1);
    histogram!(names::API_REQUEST_SECONDS, "endpoint" => endpoint).record(begun.elapsed());
    if REQUESTS.fetch_add(1, Ordering::Relaxed) % UPKEEP == UPKEEP - 1 {
        state.0.prometheus.run_upkeep();
    }
    response
}

impl Outcome {
    fn new(channel: Option<String>, outcome: Result<Option<Position>, ErrorBody>) -> Self {
        match outcome {
            Ok(position) => Self { channel, position, error: None },
            Err(error) => Self { channel, position: None, error: Some(error) },
        }
    }
}

impl InternalState {
    async fn send(&self, publish: Result<Publish, ErrorBody>) -> Result<Option<Position>, ErrorBody> {
        let result = match publish {
            Ok(publish) => {
                let published = self.0.broker.publish(publish).await;
                published.map(|published| published.position).map_err(|error| publishing::refusal(&error))
            }
            Err(error) => Err(error),
        };
        let word = match &result {
            Ok(_) => "ok",
            Err(error) if error.retryable => "failed",
            Err(_) => "refused",
        };
        counter!(names::API_PUBLICATIONS_TOTAL, "result" => word).increment(1);
        result
    }

    /// Several at a time; the broker gets them in their order, because they are begun in it.
    async fn send_all(&self, publishes: Vec<Result<Publish, ErrorBody>>) -> Vec<Result<Option<Position>, ErrorBody>> {
        stream::iter(publishes).map(|publish| self.send(publish)).buffered(IN_FLIGHT).collect().await
    }
}

fn take(state: &InternalState, body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let limit = state.0.limits.body_bytes;
            ApiError::new(
                ErrorCode::LimitExceeded,
                format!("the body has more than {limit} bytes (limits.api_body_bytes)"),
            )
        } else {
            ApiError::bad_request(format!("the body could not be read: {}", rejection.body_text()))
        }
    })
}
