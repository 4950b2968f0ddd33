//! `fanfare redis-functions`, loaded into a real server as its help says.

use fanfare_testkit::{RedisServer, redis::Reply};

use crate::command::run;

#[tokio::test]
async fn what_it_prints_can_be_loaded_and_called() {
    let ended = run(&["redis-functions"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let server = RedisServer::start().await;
    // As redis-cli does it: `-x` takes standard input wholly.
    let loaded = server.command(&["FUNCTION", "LOAD", "REPLACE", &ended.stdout]).await;
    assert_eq!(loaded, Reply::Bulk(b"fanfare_v1".to_vec()));
    let (hist, meta, live) = ("rt:hist:{acme:a:b}", "rt:meta:{acme:a:b}", "rt:live:{acme:a:b}");
    let words = ["FCALL", "fanfare_v1_publish", "3", hist, meta, live, "{}", "10", "60000", "120000", "", "0"];
    let Reply::Array(answer) = server.command(&words).await else { panic!("no position") };
    assert_eq!((&answer[0], &answer[2]), (&Reply::Integer(1), &Reply::Integer(0)));
    assert_eq!(server.command(&["XLEN", hist]).await, Reply::Integer(1));
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let ended = run(&["redis-functions", "more"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{ended:?}");
}
