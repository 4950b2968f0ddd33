//! What the NATS adapter's own connection has to do beyond what every broker's does.

use std::time::{Duration, Instant};

use fanfare_broker::{
    BrokerError, BrokerEvent, BrokerOptions, HistoryOptions, Interest, InterestId, Interruption, Scope, open,
};
use fanfare_testkit::{NatsServer, nats::NatsBuilder, tls::Authority, wait_for};
use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::{
    fixture::{Outside as _, SOON},
    nats::{Plain, connected_nodes, start},
    node::{Node, Wanted, number, numbered},
};

/// How many intakes a server has.
async fn intakes(server: &NatsServer) -> usize {
    server.monitor("/connz").await.matches("\"name\": \"fanfare intake\"").count()
}

/// How many subscriptions of interests a server has.
async fn interests(server: &NatsServer) -> usize {
    let connections = server.monitor("/connz?subs=1&limit=100000").await;
    connections.matches("\"rt.pub.").count()
}

/// Sends what no client library would.
async fn publish_raw(server: &NatsServer, subject: &str, header: &[u8], payload: &[u8]) {
    let mut raw = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    let line = format!("HPUB {subject} {} {}\r\n", header.len(), header.len() + payload.len());
    for part in [line.as_bytes(), header, payload, b"\r\n"] {
        raw.extend_from_slice(part);
    }
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&raw).await.unwrap();
}

/// Interests come by a connection of their own, however a node logs in.
#[tokio::test]
async fn every_login_is_one_of_two_connections() {
    type Build = fn(NatsBuilder) -> NatsBuilder;
    let logins: [Build; 5] = [
        |server| server,
        |server| server.password("gate way", "p@ss:w/rd,%"),
        |server| server.token("s3cret"),
        NatsBuilder::nkey,
        NatsBuilder::credentials,
    ];
    for login in logins {
        for tls in [false, true] {
            let (server, options) = start(|server| if tls { login(server).tls() } else { login(server) }).await;
            let options = BrokerOptions {
                nkey_seed: server.nkey_seed().map(str::to_owned),
                credentials_file: server.credentials_file(),
                tls_ca_file: server.authority_file().map(Into::into),
                ..options
            };
            let mut node = Node::over(open(&options).await.unwrap());
            assert_eq!((intakes(&server).await, connected_nodes(&server).await), (1, 1));
            node.add("acme", "a:b").await;
            node.publish("a:b", "x").await.unwrap();
            assert_eq!(node.publication().await.body.bytes, "x");
            // The nonce is another one each time.
            server.restart().await;
            node.until(Wanted::Resumed).await;
            node.publish("a:b", "y").await.unwrap();
            assert_eq!(node.publication().await.body.bytes, "y");
            node.close().await;
        }
    }
}

#[tokio::test]
async fn a_certificate_of_the_node_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let files = Authority::generate().write(directory.path(), &["node"]);
    let (server, options) = start(NatsBuilder::tls).await;
    let path = server.process().directory().join("nats.conf");
    let verify = format!("tls {{ verify: true, ca_file: {:?}, ", files.authority);
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("tls { ", &verify)).unwrap();
    server.restart().await;
    let options = BrokerOptions {
        tls_ca_file: server.authority_file().map(Into::into),
        tls_cert_file: Some(files.certificate),
        tls_key_file: Some(files.key),
        ..options
    };
    let without = BrokerOptions {
        tls_cert_file: None,
        tls_key_file: None,
        connect_timeout: Duration::from_millis(500),
        ..options.clone()
    };
    let error = open(&without).await.err().unwrap();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:b").await;
    node.publish("a:b", "x").await.unwrap();
    assert_eq!(node.publication().await.body.bytes, "x");
}

/// Whoever may publish can send any bytes as a header.
#[tokio::test]
async fn a_header_that_is_no_text_is_passed_over() {
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "a:b").await;
    for (payload, header) in [
        ("one", &b"NATS/1.0\r\nA: \xff\r\nFanfare-Event: one\r\n\r\n"[..]),
        ("two", b"NATS/1.0\r\nFanfare-Event: two\r\nno colon\r\n\r\n"),
    ] {
        publish_raw(&server, "rt.pub.acme.a.b", header, payload.as_bytes()).await;
        let body = node.publication().await.body;
        assert_eq!((&body.bytes[..], body.event.as_deref()), (payload.as_bytes(), Some(payload)));
    }
    publish_raw(&server, "rt.pub.acme.a.b", b"NATS/1.0\r\nFanfare-Event: \xff\r\n\r\n", b"three").await;
    assert_eq!(node.publication().await.body.event, None);
    assert_eq!((intakes(&server).await, connected_nodes(&server).await), (1, 1));
}

#[tokio::test]
async fn many_interests_are_there_again_after_a_restart() {
    const INTERESTS: usize = 20_000;
    let (server, options) = start(|server| server).await;
    let mut node = Node::over(open(&options).await.unwrap());
    let wanted: Vec<Interest> = (0..INTERESTS).map(|n| node.interest("acme", &format!("many:{n}"))).collect();
    for part in wanted.chunks(1_000) {
        node.broker.add_interests(part).await.unwrap();
    }
    let removed: Vec<InterestId> = wanted[..1_000].iter().map(|interest| interest.id).collect();
    node.broker.remove_interests(&removed).await;
    wait_for("the subscriptions", SOON, async || (interests(&server).await == INTERESTS - 1_000).then_some(())).await;
    let began = Instant::now();
    server.restart().await;
    let returned = Instant::now();
    node.until(Wanted::Resumed).await;
    println!(
        "{INTERESTS} interests are back {:?} after their server, down for {:?}",
        returned.elapsed(),
        returned - began
    );
    assert_eq!(interests(&server).await, INTERESTS - 1_000);
    let outside = Plain::connect(&server).await;
    for n in [0, 999, 1_000, INTERESTS - 1] {
        assert!(outside.publish("acme", &format!("many:{n}"), numbered(n as u64)).await);
    }
    for n in [1_000, INTERESTS - 1] {
        let publication = node.publication().await;
        assert_eq!((publication.interest, number(&publication.body.bytes)), (wanted[n].id, n as u64));
    }
}

/// Permissions of one user; all that is denied is below `rt.pub.acme.secret`.
fn permissions(deny: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: u, password: p, permissions: {{ publish: \">\", \
         subscribe: {{ allow: [\"rt.pub.>\", \"_INBOX.>\"], deny: [{deny}] }} }} }} ] }}"
    )
}

#[tokio::test]
async fn one_among_many_is_refused() {
    let (server, _) = start(|server| server.line(&permissions("\"rt.pub.acme.secret.7\""))).await;
    let mut node = Node::over(open(&BrokerOptions::new(format!("nats://u:p@{}", server.address()))).await.unwrap());
    let mut wanted: Vec<Interest> = (0..100).map(|n| node.interest("acme", &format!("secret:{n}"))).collect();
    match node.broker.add_interests(&wanted).await {
        Err(BrokerError::Refused { reason, .. }) => assert!(reason.contains("\"rt.pub.acme.secret.7\""), "{reason}"),
        other => panic!("{other:?}"),
    }
    wait_for("no subscription", SOON, async || (interests(&server).await == 0).then_some(())).await;
    let refused = [wanted.remove(7)];
    // Calls at the same time do not share what one of them is told.
    let (others, one) = tokio::join!(node.broker.add_interests(&wanted), node.broker.add_interests(&refused));
    others.unwrap();
    assert!(matches!(one, Err(BrokerError::Refused { .. })), "{one:?}");
    wait_for("the others", SOON, async || (interests(&server).await == 99).then_some(())).await;
    node.publish("secret:8", "x").await.unwrap();
    assert_eq!(node.publication().await.interest, wanted[7].id);
}

#[tokio::test]
async fn a_permission_that_is_withdrawn_ends_one_interest() {
    let (server, _) = start(|server| server.line(&permissions("\"nothing\""))).await;
    let mut node = Node::over(open(&BrokerOptions::new(format!("nats://u:p@{}", server.address()))).await.unwrap());
    let wanted: Vec<Interest> = (0..100).map(|n| node.interest("acme", &format!("secret:{n}"))).collect();
    node.broker.add_interests(&wanted).await.unwrap();
    let path = server.process().directory().join("nats.conf");
    let configuration = std::fs::read_to_string(&path).unwrap().replace("\"nothing\"", "\"rt.pub.acme.secret.7\"");
    std::fs::write(&path, configuration).unwrap();
    server.restart().await;
    let mut refused = Vec::new();
    loop {
        match node.event().await {
            BrokerEvent::Interrupted(Interruption { scope: Scope::Interest(id), reason }) => refused.push((id, reason)),
            BrokerEvent::Resumed(Scope::All) => break,
            BrokerEvent::Interrupted(Interruption { scope: Scope::All, reason: "disconnected" }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, [(wanted[7].id, "refused")]);
    node.publish("secret:7", "x").await.unwrap();
    node.publish("secret:8", "y").await.unwrap();
    assert_eq!(node.publication().await.interest, wanted[8].id);
}

/// The hub does not read for a moment, and the server has no patience: it ends the connection. Nothing is lost silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cuts_off_a_slow_node_is_told() {
    const BODY_BYTES: usize = 16 * 1024;
    let (server, options) = start(|server| server.line("write_deadline: \"100ms\"")).await;
    let mut node = Node::over(open(&options).await.unwrap());
    node.add("acme", "slow:a").await;
    let outside = Plain::connect(&server).await;
    let cut = || server.process().log().contains("Slow Consumer");
    let body = |number: u64| {
        let mut body = vec![b'.'; BODY_BYTES];
        body[..8].copy_from_slice(&number.to_be_bytes());
        body
    };
    let number_of = |body: &[u8]| u64::from_be_bytes(body[..8].try_into().unwrap());
    let deadline = Instant::now() + SOON;
    let mut published = 0;
    while !cut() {
        assert!(Instant::now() < deadline, "the server has not cut the node off");
        for _ in 0..200 {
            assert!(outside.publish("acme", "slow:a", body(published).into()).await);
            published += 1;
        }
        outside.flush().await;
    }
    let (mut next, mut interrupted, mut resumed) = (0, false, false);
    while let Ok(Some(event)) = timeout(Duration::from_secs(2), node.events.recv()).await {
        match event {
            BrokerEvent::Publication(publication) => {
                let number = number_of(&publication.body.bytes);
                assert!(number >= next && (number == next || interrupted), "{next} to {number} are missing silently");
                (next, interrupted) = (number + 1, false);
            }
            BrokerEvent::Interrupted(_) => (interrupted, resumed) = (true, false),
            BrokerEvent::Resumed(_) => resumed = true,
        }
    }
    assert!(resumed && (interrupted || next == published), "{next} of {published}");
    assert!(outside.publish("acme", "slow:a", body(published).into()).await);
    assert_eq!(number_of(&node.publication().await.body.bytes), published);
}

/// A server that is about to go away says so, and the intake goes elsewhere before it is sent away.
#[tokio::test]
async fn a_lame_duck_is_left() {
    let servers = NatsServer::builder().line("lame_duck_grace_period: \"60s\"").line("lame_duck_duration: \"90s\"");
    let servers = servers.start_cluster(2).await;
    // The other member is learnt from this one.
    let mut node = Node::over(open(&BrokerOptions::new(servers[0].url())).await.unwrap());
    node.add("acme", "a:b").await;
    assert_eq!((intakes(&servers[0]).await, connected_nodes(&servers[0]).await), (1, 1));
    let signal = std::process::Command::new("kill").args(["-USR2", &servers[0].process().id().to_string()]).status();
    assert!(signal.unwrap().success());
    node.until(Wanted::Interrupted).await;
    node.until(Wanted::Resumed).await;
    assert_eq!(intakes(&servers[1]).await, 1);
    let outside = Plain::connect(&servers[1]).await;
    assert!(outside.publish("acme", "a:b", numbered(1)).await);
    assert_eq!(number(&node.publication().await.body.bytes), 1);
}

/// Both connections are made to one server, also when it has gone.
#[tokio::test]
async fn both_connections_are_at_one_server() {
    let mut servers = NatsServer::builder().start_cluster(3).await;
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let mut node = Node::over(open(&BrokerOptions::new(url)).await.unwrap());
    node.add("acme", "a:b").await;
    while servers.len() > 1 {
        let mut place = None;
        for (at, server) in servers.iter().enumerate() {
            let here = (intakes(server).await, connected_nodes(server).await);
            assert!(matches!(here, (0, 0) | (1, 1)), "{here:?}");
            place = place.or((here == (1, 1)).then_some(at));
        }
        let server = servers.remove(place.expect("they are somewhere"));
        server.kill();
        node.until(Wanted::Resumed).await;
        node.publish("a:b", numbered(1)).await.unwrap();
        assert_eq!(number(&node.publication().await.body.bytes), 1);
    }
}

#[tokio::test]
async fn what_only_publishes_has_one_connection() {
    let (server, options) = start(|server| server).await;
    let history = HistoryOptions { publish_only: true, ..HistoryOptions::default() };
    let mut node = Node::over(open(&BrokerOptions { history, ..options }).await.unwrap());
    assert_eq!((intakes(&server).await, connected_nodes(&server).await), (0, 1));
    node.publish("a:b", "x").await.unwrap();
    let interest = node.interest("acme", "a:b");
    let refused = node.broker.add_interests(&[interest]).await;
    assert!(matches!(refused, Err(BrokerError::Refused { .. })), "{refused:?}");
    node.close().await;
}
