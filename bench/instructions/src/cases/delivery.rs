//! From a shard's inbox to sockets.

use std::cell::RefCell;

use fanfare_gateway::{
    bench::{Encoded, Frame, ShardAlone, SharedPiece, Tick},
    websocket::Deflater,
};

use super::{encoding::encoded, envelope::short};
use crate::counter::Counter;

/// Clients of one channel, and channels of one client each.
const CLIENTS: usize = 64;
/// Publications that come together.
const BURST: usize = 10;
/// Ticks that are counted.
const ROUNDS: usize = 16;

pub fn count(counter: &mut Counter) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event queue");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut shared = ShardAlone::new(1, CLIENTS).await;
        let publications = |count: usize, bytes: usize| {
            let text = short(bytes);
            move || (0..count).map(|_| (0, encoded(&text))).collect::<Vec<_>>()
        };
        tick(counter, "delivery: one publication, 128 B", &mut shared, CLIENTS, publications(1, 128));
        tick(counter, "delivery: one publication, 1 KiB", &mut shared, CLIENTS, publications(1, 1024));
        tick(counter, "delivery: of a burst of 10, 128 B", &mut shared, CLIENTS * BURST, publications(BURST, 128));
        let text = short(128);
        let each = || (0..CLIENTS).map(|channel| (channel, encoded(&text))).collect();
        let mut apart = ShardAlone::new(CLIENTS, 1).await;
        tick(counter, "delivery: one publication on a channel of one client, 128 B", &mut apart, CLIENTS, each);
        outbox(counter, &mut apart);
    });
}

/// Counts whole ticks, by delivery.
fn tick(
    counter: &mut Counter,
    name: &str,
    shard: &mut ShardAlone,
    deliveries: usize,
    publications: impl Fn() -> Vec<(usize, Encoded)>,
) {
    let frame = publications()[0].1.frame(Frame::Json, &mut Deflater::new()).len();
    let mut ticks: Vec<_> = (0..=ROUNDS).map(|_| Tick::new(shard, publications())).collect();
    let shard = RefCell::new(shard);
    let work = || shard.borrow().tick(&mut ticks.pop().expect("one for each round"));
    counter.rounds(name, (ROUNDS, deliveries), work, || shard.borrow_mut().read(frame * deliveries));
}

/// Counts a connection's outbox and socket alone.
fn outbox(counter: &mut Counter, shard: &mut ShardAlone) {
    let (frame, mut deflater) = (encoded(&short(128)), Deflater::new());
    let frame = frame.frame(Frame::Json, &mut deflater);
    let (piece, frame_bytes) = (SharedPiece::from(frame), frame.len());
    let shard = RefCell::new(shard);
    for (name, pieces) in
        [("outbox: push and flush, one piece", 1), ("outbox: push and flush, each of 10 pieces", BURST)]
    {
        let work = || shard.borrow().push_and_flush(&piece, pieces);
        counter.rounds(name, (ROUNDS, pieces), work, || shard.borrow_mut().read(frame_bytes * pieces));
    }
}
