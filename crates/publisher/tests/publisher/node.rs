//! A small node's HTTP API, which answers as the test says and writes down what it was asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// What it does with one request.
pub(crate) enum Answer {
    /// The status and body.
    Say(u16, Value),
    /// Status 429 or 503 with `Retry-After` in seconds and a body that is none of ours.
    RetryAfter(u16, u32),
    /// Takes it and never answers.
    Silence,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) api_key: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<Request>>,
}

/// Listens on a free port until dropped.
pub(crate) struct FakeNode {
    address: SocketAddr,
    script: Arc<Script>,
    _serving: JoinSet<()>,
}

impl FakeNode {
    /// The answers in turn; when there are no more, everything is accepted.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let script = Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, script, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.script.requests.lock().unwrap().clone()
    }
}

/// A node's error.
pub(crate) fn error(code: &str, retryable: bool) -> Value {
    json!({ "error": { "code": code, "message": format!("because of {code}"), "retryable": retryable } })
}

async fn answer(State(script): State<Arc<Script>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let request = Request {
        path: uri.path().to_owned(),
        api_key: header("x-api-key"),
        content_type: header("content-type"),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let accepted = accepted(&request);
    script.requests.lock().unwrap().push(request);
    let answer = script.answers.lock().unwrap().pop_front();
    match answer {
        None => axum::Json(accepted).into_response(),
        Some(Answer::Say(status, body)) => (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response(),
        Some(Answer::RetryAfter(status, seconds)) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", seconds.to_string())], "busy").into_response()
        }
        Some(Answer::Silence) => std::future::pending().await,
    }
}

fn accepted(request: &Request) -> Value {
    match request.path.as_str() {
        "/api/batch" => {
            let count = request.json()["publications"].as_array().unwrap().len();
            json!({ "results": vec![json!({}); count] })
        }
        _ => json!({}),
    }
}
