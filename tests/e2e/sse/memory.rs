//! What a stream costs that nothing happens on.

use futures_util::{StreamExt as _, stream};

use super::{event_stream::EventStream, node};
use crate::MACHINE;

#[tokio::test]
async fn an_idle_stream_costs_little() {
    const STREAMS: usize = 2_000;
    /// Debug or not: a session, its subscription and its place; no buffer, and no task of hyper's.
    const MOST: u64 = 8 * 1024;
    let _alone = MACHINE.lock().await;
    let node = node("memory:").start().await;
    // What is done once is done before.
    EventStream::open(&node, "/sse?channels=live:0", "").await.subscribed(1).await;
    let before = node.process().resident_bytes();
    let open = async |index: usize| {
        let mut stream = EventStream::open(&node, &format!("/sse?channels=live:{}", index % 100), "").await;
        stream.subscribed(1).await;
        stream
    };
    let streams: Vec<_> = stream::iter((0..STREAMS).map(open)).buffer_unordered(32).collect().await;
    let each = node.process().resident_bytes().saturating_sub(before) / STREAMS as u64;
    println!("{} idle streams: {each} bytes each", streams.len());
    assert!(each < MOST, "{each} bytes for an idle stream");
}
