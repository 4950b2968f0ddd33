//! Many streams read by one task.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{FutureExt as _, Stream, task::AtomicWaker};
use tokio::task::coop::unconstrained;

/// Items that one stream may give before the next gets its turn.
const TURN: usize = 16;

/// Streams in slots. A stream that has something puts its slot into a queue, so that a quiet one costs no work and a
/// busy one no allocation: 15,000 streams are read by one task. Each stream keeps its order.
#[derive(Debug)]
pub(super) struct Merge<S> {
    slots: Vec<Option<Entry<S>>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
}

#[derive(Debug)]
struct Entry<S> {
    stream: S,
    signal: Arc<Signal>,
    /// Of the signal; kept, because making one counts references.
    waker: Waker,
}

/// Says that a slot's stream wants to be polled.
#[derive(Debug)]
struct Signal {
    slot: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

#[derive(Debug, Default)]
struct Ready {
    queue: Mutex<VecDeque<usize>>,
    task: AtomicWaker,
}

impl<S: Stream + Unpin> Merge<S> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready: Arc::default() }
    }

    /// Adds a stream and says in which slot it is until it is removed.
    pub(super) fn insert(&mut self, stream: S) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let signal = Arc::new(Signal { slot, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        let waker = Waker::from(Arc::clone(&signal));
        self.slots[slot] = Some(Entry { stream, waker, signal: Arc::clone(&signal) });
        signal.wake();
        slot
    }

    pub(super) fn get(&self, slot: usize) -> Option<&S> {
        self.slots.get(slot)?.as_ref().map(|entry| &entry.stream)
    }

    /// All streams.
    pub(super) fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().flatten().map(|entry| &entry.stream)
    }

    /// All streams, with their slots.
    pub(super) fn iter_slots(&self) -> impl Iterator<Item = (usize, &S)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| Some((slot, &entry.as_ref()?.stream)))
    }

    /// Throws away what one stream has now, at most so many items, and gives the stream.
    pub(super) fn discard(&mut self, slot: usize, limit: usize) -> Option<&mut S> {
        let entry = self.slots.get_mut(slot)?.as_mut()?;
        let Entry { stream, signal, waker } = entry;
        let mut context = Context::from_waker(waker);
        let discarding = poll_fn(|_| {
            let some = |_: &usize| matches!(Pin::new(&mut *stream).poll_next(&mut context), Poll::Ready(Some(_)));
            Poll::Ready((0..limit).take_while(some).count())
        });
        // Without it a stream says that it has nothing when its task has had its turn.
        let _ = unconstrained(discarding).now_or_never();
        // It may have more than that, and this may have taken what it was queued for.
        signal.wake_by_ref();
        Some(stream)
    }

    /// Takes a stream out.
    pub(super) fn remove(&mut self, slot: usize) -> Option<S> {
        let entry = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(entry.stream)
    }

    /// Takes up to `limit` items into `items`, each with its slot; pending only when there is none. Streams that have
    /// ended stay in their slots and are not polled again.
    pub(super) fn poll_items(
        &mut self,
        context: &mut Context<'_>,
        limit: usize,
        items: &mut Vec<(usize, S::Item)>,
    ) -> Poll<()> {
        self.ready.task.register(context.waker());
        // Only those that are queued now: a stream that is pending because the task has used up its turn wakes at once.
        let mut turns = self.ready.len();
        while turns > 0 && items.len() < limit {
            turns -= 1;
            let Some(slot) = self.ready.pop() else { break };
            let Some(Some(entry)) = self.slots.get_mut(slot) else { continue };
            // Before the stream is looked at: what comes after that wakes it again.
            entry.signal.queued.store(false, Ordering::Release);
            if entry.take_turn(slot, limit, items) {
                entry.signal.wake_by_ref();
            }
        }
        if !items.is_empty() {
            return Poll::Ready(());
        }
        if self.ready.len() > 0 {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<S: Stream + Unpin> Entry<S> {
    /// Says whether there may be more.
    fn take_turn(&mut self, slot: usize, limit: usize, items: &mut Vec<(usize, S::Item)>) -> bool {
        let mut context = Context::from_waker(&self.waker);
        for _ in 0..TURN {
            if items.len() >= limit {
                return true;
            }
            match Pin::new(&mut self.stream).poll_next(&mut context) {
                Poll::Ready(Some(item)) => items.push((slot, item)),
                Poll::Ready(None) | Poll::Pending => return false,
            }
        }
        true
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.slot);
        }
    }
}

impl Ready {
    fn push(&self, slot: usize) {
        self.queue.lock().expect(UNPOISONED).push_back(slot);
        self.task.wake();
    }

    fn pop(&self) -> Option<usize> {
        self.queue.lock().expect(UNPOISONED).pop_front()
    }

    fn len(&self) -> usize {
        self.queue.lock().expect(UNPOISONED).len()
    }
}

const UNPOISONED: &str = "nothing panics while it holds the queue";

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use tokio::sync::mpsc;

    use super::*;

    struct Numbers(mpsc::Receiver<u32>);

    impl Stream for Numbers {
        type Item = u32;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u32>> {
            self.0.poll_recv(context)
        }
    }

    async fn next(merge: &mut Merge<Numbers>, limit: usize) -> Vec<(usize, u32)> {
        let mut items = Vec::new();
        poll_fn(|context| merge.poll_items(context, limit, &mut items)).await;
        items
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_comes_and_each_stream_keeps_its_order() {
        const STREAMS: usize = 200;
        const ITEMS: u32 = 500;
        let mut merge = Merge::new();
        for _ in 0..STREAMS {
            let (sender, receiver) = mpsc::channel(8);
            merge.insert(Numbers(receiver));
            tokio::spawn(async move {
                for number in 0..ITEMS {
                    sender.send(number).await.unwrap();
                }
            });
        }
        let mut last: HashMap<usize, u32> = HashMap::new();
        for _ in 0..STREAMS * ITEMS as usize {
            let items = tokio::time::timeout(Duration::from_secs(20), next(&mut merge, 1)).await.unwrap();
            let [(slot, number)] = items[..] else { panic!("one was asked for: {items:?}") };
            let expected = last.get(&slot).map_or(0, |last| last + 1);
            assert_eq!(number, expected);
            last.insert(slot, number);
        }
    }

    #[tokio::test]
    async fn a_busy_stream_does_not_starve_a_quiet_one() {
        let mut merge = Merge::new();
        let (busy, receiver) = mpsc::channel(10_000);
        merge.insert(Numbers(receiver));
        for number in 0..10_000 {
            busy.try_send(number).unwrap();
        }
        let (quiet, receiver) = mpsc::channel(1);
        let slot = merge.insert(Numbers(receiver));
        quiet.try_send(7).unwrap();
        assert!(next(&mut merge, 4 * TURN).await.contains(&(slot, 7)));
    }

    /// More than a task may take in one turn.
    #[tokio::test]
    async fn what_waits_is_thrown_away_and_what_comes_then_is_not() {
        let mut merge = Merge::new();
        let (sender, receiver) = mpsc::channel(2_000);
        let slot = merge.insert(Numbers(receiver));
        for number in 0..1_000 {
            sender.try_send(number).unwrap();
        }
        assert_eq!(next(&mut merge, 1).await, [(slot, 0)]);
        assert!(merge.discard(slot, 2_000).is_some() && merge.discard(slot + 1, 1).is_none());
        sender.try_send(1_000).unwrap();
        assert_eq!(next(&mut merge, 8).await, [(slot, 1_000)]);
        // No more than was said, and the rest is still seen.
        for number in 0..3 {
            sender.try_send(number).unwrap();
        }
        merge.discard(slot, 2);
        assert_eq!(next(&mut merge, 8).await, [(slot, 2)]);
    }

    #[tokio::test]
    async fn a_slot_is_used_again_and_nothing_comes_from_a_removed_stream() {
        let mut merge = Merge::new();
        let (old, receiver) = mpsc::channel(1);
        let slot = merge.insert(Numbers(receiver));
        old.try_send(1).unwrap();
        assert!(merge.remove(slot).is_some());
        assert!(merge.remove(slot).is_none() && merge.get(slot).is_none());
        let (new, receiver) = mpsc::channel(1);
        assert_eq!(merge.insert(Numbers(receiver)), slot);
        new.try_send(2).unwrap();
        assert_eq!(next(&mut merge, 8).await, [(slot, 2)]);
        assert_eq!(merge.slots.len(), 1);
    }
}
