//! What a good token does not allow, and what no token may: refused by name, and nothing of it happens.

use serde_json::{Value, json};

use super::scene::{Scene, done, error};
use crate::{
    handshake::TokenPlace,
    node::{Node, NodeBuilder},
    token::{claims, sign, token},
};

const NO_WILDCARD: &str = "a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace";

fn node() -> NodeBuilder {
    Node::builder("memory:")
        .set("namespaces.closed.patterns", false)
        .set("namespaces.nobody.subscribe", "none")
        .set("namespaces.user.subscribe", "owner")
        .set("namespaces.user.publish", "owner")
        .set("namespaces.room.publish", "subscribers")
        .set("limits.publication_bytes", 4096)
}

/// A token of mallory, who may read one level of `project`, all of `closed` and `room`, and write on one board.
fn narrow() -> String {
    let mut claims = claims("acme", "mallory");
    claims["channels"] = json!([
        { "match": "project:*", "allow": ["subscribe"] },
        { "match": "closed:**", "allow": ["subscribe"] },
        { "match": "room:**", "allow": ["subscribe"] },
        { "match": "board:mine", "allow": ["publish"] },
    ]);
    sign(&claims)
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_by_name() {
    let mut scene = Scene::start(node()).await;
    let (forbidden, bad_request, limit) = ("FORBIDDEN", "BAD_REQUEST", "LIMIT_EXCEEDED");
    let subscribe = |channel: &str| json!({ "type": "subscribe", "channel": channel });
    let publish = |channel: &str| json!({ "type": "publish", "channel": channel, "event": "intrusion" });
    let event = |event: &str| json!({ "type": "publish", "channel": "board:mine", "event": event });
    let with = |name: &str, value: Value| {
        let mut command = event("x");
        command[name] = value;
        command
    };
    let no_claim = |what: &str, topic: &str| format!("the token has no claim that allows {what} on all of {topic}");
    let cases: Vec<(Value, &str, String)> = vec![
        (subscribe("secret:1"), forbidden, no_claim("subscribe", "secret:1")),
        (subscribe("board:mine"), forbidden, no_claim("subscribe", "board:mine")),
        (subscribe("project:a:b"), forbidden, no_claim("subscribe", "project:a:b")),
        (subscribe("project:**"), forbidden, no_claim("subscribe", "project:**")),
        (subscribe("project:*:a"), forbidden, no_claim("subscribe", "project:*:a")),
        (subscribe("project"), forbidden, no_claim("subscribe", "project")),
        (
            subscribe("closed:*"),
            forbidden,
            r#"closed:* is a pattern, and patterns are not allowed in namespace "closed""#.into(),
        ),
        (subscribe("nobody:1"), forbidden, r#"subscribe is not allowed to clients in namespace "nobody""#.into()),
        (
            subscribe("user:alice"),
            forbidden,
            "subscribe on user:alice is allowed to its owner only: the user of user:{sub}".into(),
        ),
        (
            subscribe("user:*"),
            forbidden,
            "subscribe on user:* is allowed to its owner only: the user of user:{sub}".into(),
        ),
        (
            subscribe("user:mallory:inbox"),
            forbidden,
            "subscribe on user:mallory:inbox is allowed to its owner only: the user of user:{sub}".into(),
        ),
        (publish("project:calm"), forbidden, r#"publish is not allowed to clients in namespace "project""#.into()),
        (publish("board:calm"), forbidden, no_claim("publish", "board:calm")),
        (
            publish("user:calm"),
            forbidden,
            "publish on user:calm is allowed to its owner only: the user of user:{sub}".into(),
        ),
        (publish("room:1"), forbidden, "publish on room:1 is allowed to its subscribers only".into()),
        (publish("board:*"), bad_request, "board:* is a pattern; events are published on a channel".into()),
        // Names that would reach beyond the tenant, were they taken for subjects.
        (subscribe(""), bad_request, "the name is empty; allowed are 1 to 8 segments joined by ':'".into()),
        (subscribe("*"), bad_request, NO_WILDCARD.into()),
        (subscribe("**"), bad_request, NO_WILDCARD.into()),
        (subscribe("project:**:a"), bad_request, NO_WILDCARD.into()),
        (subscribe("project:"), bad_request, "segment 1 has 0 bytes; allowed are 1 to 64".into()),
        (
            subscribe("project.calm"),
            bad_request,
            "'.' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,".into(),
        ),
        (
            subscribe("project:>"),
            bad_request,
            "'>' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,".into(),
        ),
        (
            publish("board:mine\r\nPUB rt.pub.globex.board.calm 2"),
            bad_request,
            r"'\r' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,".into(),
        ),
        (subscribe(&"a:".repeat(200)), bad_request, "the name has 400 bytes; allowed are 255".into()),
        (subscribe("project:a:b:c:d:e:f:g:h"), bad_request, "the name has 9 segments; allowed are 1 to 8".into()),
        (
            event("system:connected"),
            bad_request,
            r#"event "system:connected" is refused: names that begin with "system:" are the node's own"#.into(),
        ),
        (event(""), bad_request, "event has 0 bytes; allowed are 1 to 255".into()),
        (event(&"x".repeat(256)), bad_request, "event has 256 bytes; allowed are 1 to 255".into()),
        (with("key", json!("k".repeat(256))), bad_request, "key has 256 bytes; allowed are 0 to 255".into()),
        (with("publication_id", json!("i".repeat(256))), bad_request, "id has 256 bytes; allowed are 0 to 255".into()),
        (with("data", json!("x".repeat(4096))), limit, "the event has 4119 bytes; allowed are 4096".into()),
        (
            json!({ "type": "unsubscribe", "channels": ["project:a", "project:"] }),
            bad_request,
            "segment 1 has 0 bytes; allowed are 1 to 64".into(),
        ),
        (
            json!({ "type": "connect", "token": token("globex", "mallory") }),
            bad_request,
            "the session is connected, or is being connected; use refresh".into(),
        ),
    ];
    let mut client = scene.node().client().connect_with(&narrow(), TokenPlace::Header).await;
    let mut id = 0;
    for (command, code, message) in cases {
        id += 1;
        let name = command.to_string();
        let errors = format!("fanfare_errors_total{{code=\"{code}\"}}");
        let act = async |_: &Node| client.command(command).await;
        let answer = scene.case(&name, &[(&errors, 1), ("fanfare_subscriptions", 0)], act).await;
        assert_eq!(answer, error(id, code, &message), "{name}");
    }
    // Nothing came of all that, and what is allowed still works.
    client.subscribe("project:a").await;
    let reply = client.command(event("allowed")).await;
    assert_eq!(reply, done(id + 2));
}

#[tokio::test]
async fn what_is_refused_in_a_list_or_in_the_handshake_is_named() {
    let mut scene = Scene::start(node()).await;
    let forbidden = (r#"fanfare_errors_total{code="FORBIDDEN"}"#, 1);
    let told = "the token has no claim that allows subscribe on all of secret:1";
    let body = json!({ "code": "FORBIDDEN", "message": told, "retryable": false });

    let list = async |node: &Node| {
        let mut client = node.client().connect_with(&narrow(), TokenPlace::Header).await;
        client.command(json!({ "type": "subscribe", "channels": ["project:a", "secret:1", "project:b"] })).await
    };
    let reply = scene.case("in a list", &[forbidden], list).await;
    let outcomes =
        json!([{ "channel": "project:a" }, { "channel": "secret:1", "error": body }, { "channel": "project:b" }]);
    assert_eq!(reply["result"], json!({ "subscriptions": outcomes }));

    let handshake = async |node: &Node| {
        let opening = node.client().query("channels=secret:1,project:a").query(&format!("token={}", narrow()));
        let mut client = opening.open_connected().await;
        (client.expect("system:error").await, client.expect("system:subscribed").await)
    };
    let (refused, subscribed) = scene.case("in the handshake", &[forbidden], handshake).await;
    let mut data = body.clone();
    data["channel"] = json!("secret:1");
    assert_eq!(refused["data"], data);
    assert_eq!(subscribed["data"], json!({ "channel": "project:a" }));

    let limit = (r#"fanfare_errors_total{code="LIMIT_EXCEEDED"}"#, 1);
    let many = async |node: &Node| {
        let names: Vec<_> = (0..60).map(|number| format!("project:c{number}")).collect();
        let opening = node.client().query(&format!("channels={}", names.join(",")));
        let mut client = opening.query(&format!("token={}", narrow())).open_connected().await;
        let mut subscribed = 0;
        loop {
            let push = client.message().await;
            if push["event"] == "system:error" {
                assert_eq!(push["data"]["code"], "LIMIT_EXCEEDED");
                assert_eq!(
                    push["data"]["message"],
                    "the handshake names 60 channels; allowed are 50, the others are left out"
                );
            } else {
                assert_eq!(push["event"], "system:subscribed", "{push}");
                subscribed += 1;
            }
            if subscribed == 50 {
                return;
            }
        }
    };
    scene.case("60 channels in the handshake", &[limit], many).await;
}

#[tokio::test]
async fn a_refresh_cannot_change_who_it_is() {
    let mut scene = Scene::start(node()).await;
    let mut client = scene.node().client().connect_with(&narrow(), TokenPlace::Command).await;
    client.subscribe("project:a").await;
    scene.node().wait_for_metrics("its subscription", |metrics| metrics.sum("fanfare_subscriptions") == 5.0).await;
    let cases = [
        ("another user", token("acme", "alice"), "FORBIDDEN", "refused"),
        ("another tenant", token("globex", "mallory"), "FORBIDDEN", "refused"),
        ("nonsense", "nonsense".into(), "UNAUTHORIZED", "refused"),
    ];
    for (name, token, code, _) in cases {
        let errors = format!("fanfare_errors_total{{code=\"{code}\"}}");
        let act = async |_: &Node| client.command(json!({ "type": "refresh", "token": token })).await;
        let reply = scene.case(name, &[(&errors, 1), ("fanfare_subscriptions", 0)], act).await;
        assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!(code)), "{name}: {reply}");
    }
    // The old token is in force: what it does not allow is refused, what was subscribed is still delivered.
    let reply = client.command(json!({ "type": "subscribe", "channel": "board:calm" })).await;
    assert_eq!(reply["code"], "FORBIDDEN");
    let body = r#"{"tenant":"acme","channel":"project:a","event":"still"}"#;
    assert_eq!(scene.node().post("/api/publish", body).await.0, 200);
    assert_eq!(client.publication().await.event, "still");
}

#[tokio::test]
async fn the_same_channel_of_another_tenant_is_another_channel() {
    let scene = Scene::start(node().set("namespaces.board.publish", "anyone")).await;
    let mut acme = scene.node().client().connect("acme", "alice", TokenPlace::Command).await;
    let mut globex = scene.node().client().connect("globex", "alice", TokenPlace::Command).await;
    for client in [&mut acme, &mut globex] {
        for name in ["board:1", "board:*", "project:**"] {
            client.subscribe(name).await;
        }
    }
    for round in 0..50 {
        for (tenant, client) in [("acme", &mut acme), ("globex", &mut globex)] {
            client
                .begin(json!({ "type": "publish", "channel": "board:1", "event": "by-client", "data": tenant }))
                .await;
            let body =
                format!(r#"{{"tenant":"{tenant}","channel":"project:{round}","event":"by-api","data":"{tenant}"}}"#);
            assert_eq!(scene.node().post("/api/publish", body).await.0, 200);
        }
    }
    for (tenant, client) in [("acme", &mut acme), ("globex", &mut globex)] {
        let mut publications = 0;
        while publications < 100 {
            let received = client.next().await;
            if let Some(publication) = received.publication() {
                assert_eq!(publication.data(), format!("\"{tenant}\""), "{publication:?}");
                publications += 1;
            }
        }
        assert_eq!(client.session().len(), 32);
    }
}
