//! The internal port: health, metrics, and the API that services publish through.

mod api;
mod error;
mod guard;
mod history;
mod inspection;
mod keys;
mod overview;
mod presence;
mod request;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fanfare_broker::Broker;
use fanfare_protocol::ErrorCode;
use fanfare_session::NamespaceTable;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use self::{error::ApiError, inspection::Shards, keys::ApiKeys};
use crate::{
    clock::Clock, config::Config, history::HistoryReader, hub::ShardInbox, origin::OriginPolicy,
    presence::PresenceHandle, readiness::Readiness,
};

/// What Prometheus' text format calls itself.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the routes of the internal port share.
#[derive(Clone)]
pub(crate) struct InternalState(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    history: HistoryReader,
    presence: Option<PresenceHandle>,
    shards: Shards,
    readiness: Arc<Readiness>,
    prometheus: PrometheusHandle,
    clock: Clock,
    /// The node's name.
    node: String,
    /// Whether the presence store keeps where users are connected.
    lists_connections: bool,
    namespaces: NamespaceTable,
    keys: ApiKeys,
    origins: OriginPolicy,
    limits: ApiLimits,
}

/// Bounds of the API.
#[derive(Clone, Copy)]
struct ApiLimits {
    /// Bytes of a request's body.
    body_bytes: usize,
    /// Bytes of one publication's envelope.
    publication_bytes: usize,
    /// Publications of one request, and entries of one answer.
    batch: usize,
    /// Publications of one request for history.
    history: usize,
    /// Members of one answer.
    members: usize,
}

/// What the internal port shows and serves.
pub(crate) struct Served {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) history: HistoryReader,
    /// `None` where no namespace has presence.
    pub(crate) presence: Option<PresenceHandle>,
    pub(crate) shards: Vec<ShardInbox>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) clock: Clock,
}

impl InternalState {
    /// What the routes of the internal port share.
    pub(crate) fn new(config: &Config, served: Served) -> Self {
        let Served { broker, history, presence, shards, readiness, prometheus, clock } = served;
        let limits = ApiLimits {
            body_bytes: config.limits.api_body_bytes,
            publication_bytes: config.limits.publication_bytes,
            batch: config.limits.api_batch,
            history: config.limits.recovery_publications,
            members: config.limits.presence_page,
        };
        let keys = if config.development { ApiKeys::not_needed() } else { ApiKeys::new(&config.api_keys) };
        let origins = config.origins.clone();
        Self(Arc::new(Inner {
            broker,
            history,
            presence,
            shards: Shards::new(shards),
            readiness,
            prometheus,
            clock,
            node: config.node.clone(),
            lists_connections: config.presence.connections,
            namespaces: config.namespaces.clone(),
            keys,
            origins,
            limits,
        }))
    }
}

/// The routes of the internal port.
pub(crate) fn router(state: InternalState) -> Router {
    let api = Router::new()
        .route("/publish", post(api::publish))
        .route("/broadcast", post(api::broadcast))
        .route("/batch", post(api::batch))
        .route("/history", get(history::history))
        .route("/presence", get(presence::presence))
        .route("/presence_stats", get(presence::stats))
        .route("/channels", get(overview::channels))
        .route("/connections", get(overview::connections))
        .layer(DefaultBodyLimit::max(state.0.limits.body_bytes))
        .route_layer(middleware::from_fn_with_state(state.clone(), guard::require_key))
        .route_layer(middleware::from_fn_with_state(state.clone(), api::measure));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .nest("/api", api)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), guard::development))
        .with_state(state)
}

/// 200 while the process works.
async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 while the node should get new connections, else 503 and why.
async fn readyz(State(state): State<InternalState>) -> Response {
    match state.0.readiness.check(state.0.clock.now()) {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reasons) => {
            let reasons: Vec<_> = reasons
                .iter()
                .map(|reason| json!({ "reason": reason.reason(), "message": reason.to_string() }))
                .collect();
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reasons": reasons }))).into_response()
        }
    }
}

async fn metrics(State(state): State<InternalState>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], state.0.prometheus.render()).into_response()
}

async fn not_found() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is nothing here; see docs/operations.md for what is")
}

async fn method_not_allowed() -> ApiError {
    let error = ApiError::new(
        ErrorCode::BadRequest,
        "this method is not allowed here: what publishes takes POST, the rest GET",
    );
    error.with_status(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests;
