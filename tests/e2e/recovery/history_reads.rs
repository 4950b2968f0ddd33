//! How often a broker's history is read, as the broker itself tells an outsider.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_testkit::{redis::Reply, wait_until};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::history_broker::HistoryBroker;
use crate::SOON;

/// Counts from its making on.
pub(super) struct HistoryReads {
    counts: Arc<Counts>,
    /// Ends with its owner.
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicUsize,
    /// Words of our own that came back: everything before them was counted.
    echoes: AtomicUsize,
}

/// Named in a command or a subject of our own.
const ECHO: &str = "history-reads-echo";

impl HistoryReads {
    /// On NATS a read makes a consumer, which JetStream tells; on Redis it calls a function, which `MONITOR` shows.
    pub(super) async fn count(broker: &HistoryBroker) -> Self {
        let counts = Arc::new(Counts::default());
        let mut task = JoinSet::new();
        let own = Arc::clone(&counts);
        match broker {
            HistoryBroker::Nats { client, .. } => {
                let mut created = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").await.expect("it is there");
                let mut echoes = client.subscribe(ECHO).await.expect("it is there");
                task.spawn(async move {
                    loop {
                        tokio::select! {
                            biased;
                            Some(_) = created.next() => own.reads.fetch_add(1, Ordering::Relaxed),
                            Some(_) = echoes.next() => own.echoes.fetch_add(1, Ordering::Relaxed),
                            else => return,
                        };
                    }
                });
            }
            HistoryBroker::Redis { server } => {
                let mut stream = BufReader::new(TcpStream::connect(server.address()).await.expect("it listens"));
                stream.write_all(b"MONITOR\r\n").await.expect("it takes a command");
                task.spawn(async move {
                    let mut lines = stream.lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        if line.contains("\"fanfare_v1_history\"") {
                            own.reads.fetch_add(1, Ordering::Relaxed);
                        } else if line.contains(ECHO) {
                            own.echoes.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        }
        let own = Self { counts, _task: task };
        own.so_far(broker).await;
        own
    }

    /// How many there were until now.
    pub(super) async fn so_far(&self, broker: &HistoryBroker) -> usize {
        let before = self.counts.echoes.load(Ordering::Relaxed);
        let asking = async {
            // Until it is under way, nothing comes back.
            while self.counts.echoes.load(Ordering::Relaxed) == before {
                match broker {
                    HistoryBroker::Nats { client, .. } => {
                        client.publish(ECHO, "".into()).await.expect("it is connected");
                        client.flush().await.expect("it is connected");
                    }
                    HistoryBroker::Redis { server } => {
                        let reply = server.command(&["ECHO", ECHO]).await;
                        assert!(matches!(reply, Reply::Bulk(_)), "{reply:?}");
                    }
                }
                let came = wait_until("", SOON, || self.counts.echoes.load(Ordering::Relaxed) > before);
                let _ = timeout(Duration::from_millis(200), came).await;
            }
        };
        timeout(SOON, asking).await.expect("the broker tells what is done");
        self.counts.reads.load(Ordering::Relaxed)
    }
}
