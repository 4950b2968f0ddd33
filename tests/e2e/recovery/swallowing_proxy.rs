//! A proxy before a NATS server that keeps single messages from a node, as a server does that ends between commit and republish.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// Subjects on which streams republish.
const LIVE: &[u8] = b"rt.live.";

pub(super) struct SwallowingProxy {
    address: SocketAddr,
    to_swallow: Arc<AtomicUsize>,
    /// Connections end with their owner.
    _task: JoinSet<()>,
}

impl SwallowingProxy {
    pub(super) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it listens");
        let to_swallow = Arc::new(AtomicUsize::new(0));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, server, Arc::clone(&to_swallow)));
        Self { address, to_swallow, _task: task }
    }

    /// Where nodes connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next live message does not come through.
    pub(super) fn swallow_one(&self) {
        self.to_swallow.fetch_add(1, Ordering::AcqRel);
    }

    /// Live messages that are still to be swallowed.
    pub(super) fn left(&self) -> usize {
        self.to_swallow.load(Ordering::Acquire)
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, to_swallow: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(server).await else { continue };
        let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
        connections.spawn(async move {
            // Ends of connections are all the same here.
            let _ = copy(&mut from_client, &mut to_server).await;
        });
        let to_swallow = Arc::clone(&to_swallow);
        connections.spawn(async move {
            let _ = forward(BufReader::new(from_server), to_client, &to_swallow).await;
        });
    }
}

/// What the server says, without the messages to be swallowed: `MSG` and `HMSG` name the bytes that follow last.
async fn forward(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    to_swallow: &AtomicUsize,
) -> std::io::Result<()> {
    loop {
        let mut frame = Vec::new();
        if from.read_until(b'\n', &mut frame).await? == 0 {
            return Ok(());
        }
        let is_message = frame.starts_with(b"MSG ") || frame.starts_with(b"HMSG ");
        if is_message {
            let line = String::from_utf8_lossy(&frame).into_owned();
            let length: usize = line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a length");
            let header = frame.len();
            frame.resize(header + length + 2, 0);
            from.read_exact(&mut frame[header..]).await?;
            let is_live = line.split_whitespace().nth(1).is_some_and(|subject| subject.as_bytes().starts_with(LIVE));
            let one_less = |left: usize| left.checked_sub(1);
            if is_live && to_swallow.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok() {
                continue;
            }
        }
        to.write_all(&frame).await?;
    }
}
