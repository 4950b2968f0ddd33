//! `fanfare publish`.

use std::{io::Write as _, process::Stdio};

use fanfare_testkit::{NatsServer, wait_until};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::{
    SOON,
    command::{end, fanfare, run, run_with_input},
    node::{Answer, FakeNode, error},
};

#[tokio::test]
async fn help_has_examples_and_exit_codes() {
    for command in ["publish", "subscribe", "token"] {
        let ended = run(&[command, "--help"]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        for part in ["Examples:", &format!("fanfare {command} "), "Exit codes:", "  5  accepted in part"] {
            assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
        }
    }
    let ended = run(&["--help"]).await;
    assert!(ended.code == 0 && ended.stdout.contains("Exit codes:"), "{ended:?}");
}

#[tokio::test]
async fn one_event_is_published_and_its_id_printed() {
    let node = FakeNode::start([]).await;
    let words = ["publish", "project:a", "project:funded", r#"{"n": 1.50}"#, "--url", &node.url(), "--tenant", "acme"];
    let ended = run(&[&words[..], &["--id", "i", "--key", "k", "--api-key", "secret"]].concat()).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    assert_eq!(ended.stdout, "{\"channel\":\"project:a\",\"id\":\"i\"}\n");
    let request = &node.requests()[0];
    assert_eq!((request.path.as_str(), request.api_key.as_deref()), ("/api/publish", Some("secret")));
    let body =
        r#"{"tenant":"acme","channel":"project:a","event":"project:funded","data":{"n": 1.50},"id":"i","key":"k"}"#;
    assert_eq!(request.body, body);
}

#[tokio::test]
async fn where_an_event_stands_is_printed_where_there_is_history() {
    let node = FakeNode::start([Answer::Say(200, json!({ "offset": 42, "epoch": "e" }))]).await;
    let ended = run(&["publish", "a", "x", "1", "--id", "i", "--url", &node.url()]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(printed, json!({ "channel": "a", "id": "i", "offset": 42, "epoch": "e" }));
}

#[tokio::test]
async fn address_and_key_come_from_the_environment() {
    let node = FakeNode::start([]).await;
    let mut command = fanfare(&["publish", "a", "x", "-1"]);
    command.env("FANFARE_URL", node.url()).env("FANFARE_API_KEY", "secret");
    let ended = end(command.spawn().unwrap()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let request = &node.requests()[0];
    assert_eq!((request.api_key.as_deref(), &request.json()["data"]), (Some("secret"), &json!(-1)));
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_nothing_is_sent() {
    let node = FakeNode::start([]).await;
    for (words, says) in [
        (&["publish", "a", "x", "{"][..], "not JSON"),
        (&["publish", "a b", "x", "1"], "is not allowed in a segment"),
        (&["publish", "project:*", "x", "1"], "wildcard"),
        (&["publish", "a", "system:x", "1"], "system:"),
        (&["publish", "a", "x", "1", "--tenant", "a:b"], "tenant"),
        (&["publish", "a", "x", "-", "--id", "i"], "--id"),
        (&["publish", "a", "x"], "JSON|-"),
        (&["publish", "a", "x", "1", "--file", "f"], "--file"),
        (&["publish", "a", "x", "1", "--deadline", "soon"], "--deadline"),
        (&["publish", "a", "x", "1", "--prefix", "rt"], "prefix"),
        (&["publish", "a", "x", "1", "--history", "a=10,1m"], "history"),
        (&["publish", "a", "x", "1", "--history", "a=10"], "NAMESPACE=SIZE,TTL"),
        (&["publish", "a", "x", "1", "--history", "a=ten,1m"], "the size \"ten\""),
        (&["publish", "a", "x", "1", "--history", "a=10,soon"], "the time to live \"soon\""),
        (&["nonsense"], "nonsense"),
    ] {
        let mut command = fanfare(words);
        let ended = end(command.env("FANFARE_URL", node.url()).spawn().unwrap()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{words:?}: {ended:?}");
    }
    let ended = run(&["publish", "a", "x", "1", "--url", "ftp://h"]).await;
    assert!(ended.code == 2 && ended.stderr.contains("nats://"), "{ended:?}");
    assert!(node.requests().is_empty());
}

#[tokio::test]
async fn a_refusal_ends_with_3_and_a_node_that_is_away_with_4() {
    let node = FakeNode::start([Answer::Say(403, error("FORBIDDEN", false))]).await;
    let ended = run(&["publish", "a", "x", "1", "--url", &node.url()]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    assert!(ended.stderr.contains("FORBIDDEN: because of FORBIDDEN"), "{ended:?}");

    let away = (0..1_000).map(|_| Answer::Say(503, error("UNAVAILABLE", true)));
    let node = FakeNode::start(away).await;
    let ended = run(&["publish", "a", "x", "1", "--url", &node.url(), "--deadline", "300ms"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (4, ""), "{ended:?}");
    // The last attempt may have been cut off by the deadline.
    let refused = ended.stderr.contains("not accepted") && ended.stderr.contains("UNAVAILABLE");
    assert!(refused || ended.stderr.contains("may or may not have been accepted"), "{ended:?}");
    assert!(node.requests().len() > 1);

    for url in ["nats://127.0.0.1:1", "redis://127.0.0.1:1"] {
        let ended = run(&["publish", "a", "x", "1", "--url", url, "--deadline", "300ms"]).await;
        assert_eq!(ended.code, 4, "{ended:?}");
    }
}

#[tokio::test]
async fn each_line_of_standard_input_is_an_event_in_order() {
    let node = FakeNode::start([]).await;
    let input: String = (0..600).map(|n| format!("{{\"n\": {n}}}\n\n")).collect();
    let ended = run_with_input(&["publish", "a", "x", "-", "--url", &node.url()], &input).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    assert_eq!(ended.stdout, "{\"accepted\":600,\"refused\":0,\"not_accepted\":0,\"unknown\":0}\n");
    let mut published = Vec::new();
    for request in node.requests() {
        let body = request.json();
        match body["publications"].as_array() {
            Some(several) => published.extend(several.iter().map(|one| one["data"]["n"].clone())),
            None => published.push(body["data"]["n"].clone()),
        }
    }
    assert_eq!(published, (0..600).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_goes_out_as_soon_as_it_is_written() {
    let node = FakeNode::start([]).await;
    let mut child = fanfare(&["publish", "a", "x", "-", "--url", &node.url()]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 1..=3 {
        stdin.write_all(format!("{n}\n").as_bytes()).await.unwrap();
        wait_until("the line's event", SOON, || node.requests().len() == n).await;
    }
    drop(stdin);
    assert_eq!(end(child).await.code, 0);
}

#[tokio::test]
async fn of_a_file_lines_that_are_refused_are_told_and_passed_over() {
    let results = json!({ "results": [{}, error("LIMIT_EXCEEDED", false), {}] });
    let node = FakeNode::start([Answer::Say(200, results)]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"1\n{\n\n\"large\"\n3").unwrap();
    let path = file.path().to_str().unwrap();
    let ended = run(&["publish", "a", "x", "--file", path, "--url", &node.url()]).await;
    assert_eq!(ended.code, 5, "{ended:?}");
    assert_eq!(ended.stdout, "{\"accepted\":2,\"refused\":2,\"not_accepted\":0,\"unknown\":0}\n");
    let told: Vec<&str> = ended.stderr.lines().collect();
    assert!(told[0].starts_with("fanfare: line 2: the data is not JSON"), "{told:?}");
    assert!(told[1].starts_with("fanfare: line 4: ") && told[1].contains("LIMIT_EXCEEDED"), "{told:?}");
    assert!(told[2].contains("2 accepted, 2 refused") && told.len() == 3, "{told:?}");
}

#[tokio::test]
async fn when_nobody_accepts_lines_any_more_it_stops_and_says_where() {
    let mut answers = vec![Answer::Say(200, json!({ "results": vec![json!({}); 256] }))];
    answers.extend((0..1_000).map(|_| Answer::Say(503, error("UNAVAILABLE", true))));
    let node = FakeNode::start(answers).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // The reader is ahead of the first request only by what it has read by then, so the first batch may be smaller.
    file.write_all("1\n".repeat(10_000).as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["publish", "a", "x", "--file", path, "--url", &node.url(), "--deadline", "400ms"];
    let ended = run(&words).await;
    assert!([4, 5].contains(&ended.code), "{ended:?}");
    assert!(ended.stderr.contains("stopped at line "), "{ended:?}");
    let tally: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(tally["refused"], 0);
    let done = tally["accepted"].as_u64().unwrap() + tally["not_accepted"].as_u64().unwrap();
    assert!(done + tally["unknown"].as_u64().unwrap() <= 512, "{tally}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_ends_with_1() {
    let ended = run(&["publish", "a", "x", "--file", "/nowhere/at/all"]).await;
    assert!(ended.code == 1 && ended.stderr.contains("/nowhere/at/all"), "{ended:?}");
}

#[tokio::test]
async fn it_publishes_to_a_broker_directly() {
    let server = NatsServer::start().await;
    let (_client, mut events) = crate::nats::subscribe(&server, "rt.pub.acme.project.a").await;
    let words = ["publish", "project:a", "x", "-", "--tenant", "acme", "--url", &server.url()];
    let ended = run_with_input(&words, "1\n2\n").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    for n in 1..=2 {
        let message = timeout(SOON, events.next()).await.expect("a message in time").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap()["data"], n);
    }
}
