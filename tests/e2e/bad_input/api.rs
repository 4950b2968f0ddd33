//! Bad requests to the internal port: each has its status, code and counter, and publishes nothing.

use reqwest::{Client as Http, Method, RequestBuilder};
use serde_json::{Value, json};

use super::scene::{RECEIVED, Scene};
use crate::node::{API_KEY, Node};

const PUBLISH: &str = "/api/publish";
const GOOD: &str = r#"{"tenant":"acme","channel":"board:calm","event":"intrusion"}"#;

/// A request and its answer.
struct Case {
    name: &'static str,
    request: RequestBuilder,
    /// The word in the counter; `None` where the request is for no endpoint.
    endpoint: Option<&'static str>,
    status: u16,
    code: &'static str,
    message: &'static str,
}

fn cases(base: &str) -> Vec<Case> {
    let http = Http::new();
    let request = |method, path: &str| http.request(method, format!("{base}{path}"));
    let post = |path: &str, body: &str| request(Method::POST, path).header("x-api-key", API_KEY).body(body.to_owned());
    let (bad_request, unauthorized) = ("BAD_REQUEST", "UNAUTHORIZED");
    let case = |name, request, endpoint, status, code, message| Case { name, request, endpoint, status, code, message };
    let bad = |name, body: &str, message| case(name, post(PUBLISH, body), Some("publish"), 400, bad_request, message);
    let wrong_method = "this method is not allowed here: what publishes takes POST, the rest GET";
    let nothing_here = "there is nothing here; see docs/operations.md for what is";
    let no_key = "X-API-Key is missing";
    let wrong_key = "X-API-Key is not one that is accepted here";
    let with_key = |key: &'static str| request(Method::POST, PUBLISH).header("x-api-key", key).body(GOOD);
    let long = format!(r#"{{"tenant":"acme","channel":"board:calm","event":"e","data":"{}"}}"#, "x".repeat(4096));
    let huge = "x".repeat(16_385);
    let channels = [r#""board:calm""#; 4].join(",");
    vec![
        case("no key", request(Method::POST, PUBLISH).body(GOOD), Some("publish"), 401, unauthorized, no_key),
        case("an empty key", with_key(""), Some("publish"), 401, unauthorized, wrong_key),
        case("a wrong key", with_key("another-key-of-somebody"), Some("publish"), 401, unauthorized, wrong_key),
        case("a shorter key", with_key(&API_KEY[..API_KEY.len() - 1]), Some("publish"), 401, unauthorized, wrong_key),
        case(
            "no key for a batch",
            request(Method::POST, "/api/batch").body("{}"),
            Some("batch"),
            401,
            unauthorized,
            no_key,
        ),
        case(
            "the key as a bearer",
            request(Method::POST, PUBLISH).bearer_auth(API_KEY).body(GOOD),
            Some("publish"),
            401,
            unauthorized,
            no_key,
        ),
        bad("nothing", "", "the body is not valid: EOF while parsing a value at line 1 column 0"),
        bad("half an object", "{", "the body is not valid: EOF while parsing an object at line 1 column 1"),
        bad("no JSON", "hello", "the body is not valid: expected value at line 1 column 1"),
        bad("no event", r#"{"channel":"a"}"#, "the body is not valid: missing field `event` at line 1 column 15"),
        bad("no channel", r#"{"event":"e"}"#, "channel is missing"),
        bad(
            "a list of channels",
            r#"{"event":"e","channels":["a"]}"#,
            "channels is for /api/broadcast; here channel must be given",
        ),
        bad(
            "a bad channel",
            r#"{"event":"e","channel":"a b"}"#,
            r#"channel "a b": ' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"#,
        ),
        bad(
            "a pattern",
            r#"{"event":"e","channel":"board:*"}"#,
            r#"channel "board:*": a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace"#,
        ),
        bad(
            "a tenant beyond its segment",
            r#"{"event":"e","channel":"calm","tenant":"acme.board"}"#,
            r#"tenant "acme.board": '.' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"#,
        ),
        bad(
            "an event of the node's",
            r#"{"event":"system:connected","channel":"board:calm","tenant":"acme"}"#,
            r#"event "system:connected" is refused: names that begin with "system:" are the node's own"#,
        ),
        bad(
            "two payloads",
            r#"{"event":"e","channel":"board:calm","tenant":"acme","data":1,"data_base64":"AA=="}"#,
            "both data and data_base64 are given; one of them is allowed",
        ),
        bad(
            "no base64",
            r#"{"event":"e","channel":"a","data_base64":"?"}"#,
            "data_base64 is not standard base64 with padding",
        ),
        case(
            "a publication over its limit",
            post(PUBLISH, &long),
            Some("publish"),
            413,
            "LIMIT_EXCEEDED",
            "the body has 4119 bytes; allowed are 4096",
        ),
        case(
            "a body over its limit",
            post(PUBLISH, &huge),
            Some("publish"),
            413,
            "LIMIT_EXCEEDED",
            "the body has more than 16384 bytes (limits.api_body_bytes)",
        ),
        case(
            "an empty batch",
            post("/api/batch", r#"{"publications":[]}"#),
            Some("batch"),
            400,
            bad_request,
            "publications has 0 entries; allowed are 1 to 3 (limits.api_batch)",
        ),
        case(
            "a batch of 4",
            post("/api/batch", &format!(r#"{{"publications":[{}]}}"#, [GOOD; 4].join(","))),
            Some("batch"),
            413,
            "LIMIT_EXCEEDED",
            "publications has 4 entries; allowed are 1 to 3 (limits.api_batch)",
        ),
        case(
            "a broadcast to 4",
            post("/api/broadcast", &format!(r#"{{"tenant":"acme","event":"e","channels":[{channels}]}}"#)),
            Some("broadcast"),
            413,
            "LIMIT_EXCEEDED",
            "channels has 4 entries; allowed are 1 to 3 (limits.api_batch)",
        ),
        case(
            "a broadcast to nowhere",
            post("/api/broadcast", r#"{"event":"e"}"#),
            Some("broadcast"),
            400,
            bad_request,
            "channels is missing; it must be a list of channels",
        ),
        case("another path", post("/api/publishes", GOOD), None, 404, "NOT_FOUND", nothing_here),
        case("the public port's path", request(Method::GET, "/ws"), None, 404, "NOT_FOUND", nothing_here),
        case("GET", request(Method::GET, PUBLISH).header("x-api-key", API_KEY), None, 405, bad_request, wrong_method),
        case("GET without a key", request(Method::GET, PUBLISH), None, 405, bad_request, wrong_method),
        case("POST to metrics", post("/metrics", GOOD), None, 405, bad_request, wrong_method),
        case("DELETE of health", request(Method::DELETE, "/healthz"), None, 405, bad_request, wrong_method),
    ]
}

#[tokio::test]
async fn a_bad_request_is_answered_and_publishes_nothing() {
    let node = Node::builder("memory:")
        .set("limits.publication_bytes", 4096)
        .set("limits.api_body_bytes", 16_384)
        .set("limits.api_batch", 3);
    let mut scene = Scene::start(node).await;
    for Case { name, request, endpoint, status, code, message } in cases(&base(scene.node())) {
        let counted = match endpoint {
            Some(endpoint) => format!("fanfare_api_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}}"),
            None => "fanfare_connections_total".to_owned(),
        };
        let counts = [(counted.as_str(), u32::from(endpoint.is_some())), (RECEIVED, 0)];
        let act = async |_: &Node| answer(request).await;
        let told = scene.case(name, &counts, act).await;
        let body = json!({ "error": { "code": code, "message": message, "retryable": false } });
        assert_eq!(told, (status, body), "{name}");
    }
    // Unknown fields and another type of content are no error: what is said is clear.
    let lenient = Http::new().post(format!("{}{PUBLISH}", base(scene.node()))).header("x-api-key", API_KEY);
    let body = r#"{"tenant":"acme","channel":"project:x","event":"e","later":{"a":1}}"#;
    let (status, told) = answer(lenient.header("content-type", "text/plain").body(body)).await;
    assert_eq!((status, told), (200, json!({})));
    // In a batch the good ones are published, and the bad ones named.
    let good = r#"{"tenant":"acme","channel":"project:x","event":"e"}"#;
    let (status, told) =
        scene.node().post("/api/batch", format!(r#"{{"publications":[{good},{{"event":"e"}},{good}]}}"#)).await;
    let refused = json!({ "code": "BAD_REQUEST", "message": "channel is missing", "retryable": false });
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((status, told), (200, json!({ "results": [{}, { "error": refused }, {}] })));
}

#[tokio::test]
async fn development_mode_lets_no_page_from_elsewhere_in() {
    let node = Node::development().start().await;
    let http = Http::new();
    let post = || http.post(format!("{}{PUBLISH}", base(&node))).body(r#"{"channel":"a","event":"e"}"#);
    let json = || post().header("content-type", "application/json");
    let cases = [
        (post(), 400, "BAD_REQUEST", "in development mode Content-Type must be application/json"),
        (
            post().header("content-type", "text/plain"),
            400,
            "BAD_REQUEST",
            "in development mode Content-Type must be application/json",
        ),
        (
            json().header("origin", "https://evil.example"),
            403,
            "FORBIDDEN",
            r#"origin "https://evil.example" is not allowed here; allowed is loopback only, in development mode"#,
        ),
        (
            json().header("host", "rebound.example"),
            403,
            "FORBIDDEN",
            r#"host "rebound.example" is not this machine's; in development mode only loopback is served"#,
        ),
        (
            json().header("x-forwarded-for", "192.0.2.1"),
            403,
            "FORBIDDEN",
            "the request was forwarded (x-forwarded-for); in development mode only direct requests are served",
        ),
    ];
    for (request, status, code, message) in cases {
        let body = json!({ "error": { "code": code, "message": message, "retryable": false } });
        assert_eq!(answer(request).await, (status, body));
    }
    assert_eq!(answer(json()).await, (200, json!({})));
    assert!(!node.process().stderr().contains("panicked"));
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body of text");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}")))
}

fn base(node: &Node) -> String {
    format!("http://{}", node.internal())
}
