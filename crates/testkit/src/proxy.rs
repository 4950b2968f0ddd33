//! A TCP proxy between a node and its broker, to part the two.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::launch;

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// How many chunks may be under way in each direction of a connection; with [`CHUNK_BYTES`] the bandwidth under latency
/// is 4 MiB per latency.
const CHUNKS_UNDER_WAY: usize = 256;

/// Forwards TCP connections to a target, from an address of its own, and can stop, slow or reset them.
///
/// It runs on a thread of its own, so it works the same under a busy or a blocked test. Dropping it resets its
/// connections and waits for the thread.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    control: Option<watch::Sender<Control>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// What the connections are told. They end when the sender is gone.
#[derive(Debug, Clone)]
struct Control {
    target: SocketAddr,
    paused: bool,
    latency: Duration,
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Counts>);

struct Chunk {
    bytes: Vec<u8>,
    due: Instant,
}

impl TcpProxy {
    /// Starts to forward to `target`. Nothing has to listen there yet: a client whose connection cannot be forwarded is
    /// reset.
    ///
    /// # Panics
    ///
    /// When it cannot listen or start its thread.
    #[must_use]
    pub fn start(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind((launch::own_address(), 0))
            .unwrap_or_else(|error| panic!("cannot listen for the proxy to {target}: {error}"));
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a listener has an address");
        let control = Control { target, paused: false, latency: Duration::ZERO, cuts: 0 };
        let (control, controlled) = watch::channel(control);
        let counts = Arc::new(Counts::default());
        let thread = {
            let counts = Arc::clone(&counts);
            thread::Builder::new()
                .name("testkit-proxy".into())
                .spawn(move || run(listener, controlled, counts))
                .expect("the test process may start one more thread")
        };
        Self { address, control: Some(control), counts, thread: Some(thread) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards nothing from now on, as a network that is parted: connections stay open and no bytes, no ends and no
    /// new connections get through. A new client's connection is accepted (the kernel does that) and not answered.
    pub fn pause(&self) {
        self.control().send_modify(|control| control.paused = true);
    }

    /// Forwards again, first what was held back.
    pub fn resume(&self) {
        self.control().send_modify(|control| control.paused = false);
    }

    /// Resets all connections there are (RST to both sides), also while paused. New ones are forwarded.
    pub fn cut(&self) {
        self.control().send_modify(|control| control.cuts += 1);
    }

    /// Forwards new connections to another target from now on; those that are open stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        self.control().send_modify(|control| control.target = target);
    }

    /// Holds every byte back for so long, in each direction, from now on: a round trip takes twice that more.
    pub fn latency(&self, one_way: Duration) {
        self.control().send_modify(|control| control.latency = one_way);
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.counts.open.load(Ordering::Acquire)
    }

    /// How many connections were accepted since the start, to see that a client came again.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Acquire)
    }

    fn control(&self) -> &watch::Sender<Control> {
        self.control.as_ref().expect("only drop takes the sender")
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        drop(self.control.take());
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || thread::panicking(), "the proxy's thread panicked");
        }
    }
}

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::AcqRel);
        counts.accepted.fetch_add(1, Ordering::AcqRel);
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The thread: a runtime of its own, since the caller may be on another.
fn run(listener: std::net::TcpListener, controlled: watch::Receiver<Control>, counts: Arc<Counts>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("the system has a poller to give");
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
        serve(listener, controlled, counts).await;
    });
}

/// Accepts until the proxy is dropped, and waits for all connections then.
async fn serve(listener: TcpListener, controlled: watch::Receiver<Control>, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    let mut watched = controlled.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    // It fails only for a client that is gone already, and then forwarding does as well.
                    let _ = client.set_nodelay(true);
                    connections.spawn(connection(client, controlled.clone(), Open::new(Arc::clone(&counts))));
                }
                // The client gave up before it was accepted, or there are no more descriptors.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(ended) = connections.join_next() => ended.expect("a connection's task does not panic"),
            () = dropped(&mut watched) => break,
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        ended.expect("a connection's task does not panic");
    }
}

/// One client's connection, from its first byte to its end or its reset.
async fn connection(mut client: TcpStream, control: watch::Receiver<Control>, _open: Open) {
    let (cuts, target) = (control.borrow().cuts, control.borrow().target);
    let mut watched = control.clone();
    let cut = async move {
        // An error means that the proxy is dropped, which is a cut as well.
        let _ = watched.wait_for(|control| control.cuts != cuts).await;
    };
    tokio::pin!(cut);
    let connected = tokio::select! {
        () = &mut cut => None,
        connected = connect(target, control.clone()) => connected.ok(),
    };
    let Some(mut server) = connected else { return reset(client) };
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let forwarding = async {
            tokio::try_join!(
                forward(client_read, server_write, control.clone()),
                forward(server_read, client_write, control.clone()),
            )
        };
        tokio::select! {
            () = &mut cut => false,
            forwarded = forwarding => forwarded.is_ok(),
        }
    };
    // After an error on one side the other is reset too. After two ends both sides were told, and a reset would throw
    // away what they have not read yet.
    if !ended {
        reset(client);
        reset(server);
    }
}

fn reset(stream: TcpStream) {
    // It fails only for a socket that is gone already.
    let _ = stream.set_zero_linger();
}

async fn connect(target: SocketAddr, mut control: watch::Receiver<Control>) -> io::Result<TcpStream> {
    running(&mut control).await?;
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// One direction, until its end was forwarded too.
async fn forward(from: ReadHalf<'_>, to: WriteHalf<'_>, control: watch::Receiver<Control>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
    tokio::try_join!(receive(from, sender, control.clone()), deliver(to, receiver, control))?;
    Ok(())
}

async fn receive(
    mut from: ReadHalf<'_>,
    under_way: mpsc::Sender<Chunk>,
    control: watch::Receiver<Control>,
) -> io::Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        let read = from.read_buf(&mut bytes).await?;
        let due = Instant::now() + control.borrow().latency;
        // An empty chunk is the end, which has its latency too.
        let taken = under_way.send(Chunk { bytes, due }).await;
        if read == 0 || taken.is_err() {
            return Ok(());
        }
    }
}

async fn deliver(
    mut to: WriteHalf<'_>,
    mut under_way: mpsc::Receiver<Chunk>,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    while let Some(Chunk { bytes, due }) = under_way.recv().await {
        tokio::time::sleep_until(due).await;
        running(&mut control).await?;
        if bytes.is_empty() {
            to.shutdown().await?;
        } else {
            to.write_all(&bytes).await?;
        }
    }
    Ok(())
}

/// Waits until the proxy is not paused.
async fn running(control: &mut watch::Receiver<Control>) -> io::Result<()> {
    match control.wait_for(|control| !control.paused).await {
        Ok(_) => Ok(()),
        Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Waits until the proxy is dropped.
async fn dropped(control: &mut watch::Receiver<Control>) {
    while control.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;

    const SOON: Duration = Duration::from_secs(5);

    /// A target of our own, and a client connected to it through the proxy.
    async fn connected() -> (TcpProxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind((launch::own_address(), 0)).await.unwrap();
        let proxy = TcpProxy::start(listener.local_addr().unwrap());
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (proxy, client, server)
    }

    async fn round_trip(client: &mut TcpStream, server: &mut TcpStream) -> Duration {
        let began = Instant::now();
        let mut byte = [0];
        client.write_all(b"?").await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
        server.write_all(b"!").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"!");
        began.elapsed()
    }

    #[tokio::test]
    async fn forwards_much_in_order_and_then_the_end() {
        let (proxy, mut client, mut server) = connected().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == expected, "{} bytes came of {}", received.len(), expected.len());
        // Half closed: the other direction still works, and its end ends the connection.
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut client = sending.await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "bye");
        wait_until("the connection's end", SOON, || proxy.connections() == 0).await;
        assert_eq!(proxy.accepted(), 1);
    }

    #[tokio::test]
    async fn holds_back_while_paused_and_loses_nothing() {
        let (proxy, mut client, mut server) = connected().await;
        round_trip(&mut client, &mut server).await;
        proxy.pause();
        client.write_all(b"held").await.unwrap();
        let mut bytes = [0; 4];
        let early = tokio::time::timeout(Duration::from_millis(100), server.read_exact(&mut bytes)).await;
        assert!(early.is_err(), "a paused proxy forwarded {bytes:?}");
        proxy.resume();
        tokio::time::timeout(SOON, server.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(&bytes, b"held");
        round_trip(&mut client, &mut server).await;
    }

    #[tokio::test]
    async fn cut_resets_both_sides_even_while_paused() {
        for pause in [false, true] {
            let (proxy, mut client, mut server) = connected().await;
            round_trip(&mut client, &mut server).await;
            if pause {
                proxy.pause();
            }
            proxy.cut();
            for side in [&mut client, &mut server] {
                let error = tokio::time::timeout(SOON, side.read_u8()).await.unwrap().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            wait_until("the connection's end", SOON, || proxy.connections() == 0).await;
        }
    }

    #[tokio::test]
    async fn new_connections_go_to_the_new_target() {
        let (proxy, mut client, mut server) = connected().await;
        let other = TcpListener::bind((launch::own_address(), 0)).await.unwrap();
        proxy.retarget(other.local_addr().unwrap());
        let mut second = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut second_server, _) = other.accept().await.unwrap();
        round_trip(&mut second, &mut second_server).await;
        round_trip(&mut client, &mut server).await;
    }

    #[tokio::test]
    async fn latency_is_added_in_each_direction() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.latency(Duration::from_millis(40));
        let slow = round_trip(&mut client, &mut server).await;
        assert!(slow >= Duration::from_millis(80), "{slow:?}");
        proxy.latency(Duration::ZERO);
        // Twice, because the first may have found bytes under way.
        let fast = round_trip(&mut client, &mut server).await.min(round_trip(&mut client, &mut server).await);
        assert!(fast < Duration::from_millis(80), "{fast:?}");
    }

    #[tokio::test]
    async fn a_client_of_a_target_that_is_away_is_reset() {
        let address = launch::own_address();
        let [port] = launch::free_ports(address);
        let proxy = TcpProxy::start((address, port).into());
        // On a busy machine the reset is there before connecting has been found to be done.
        let reading = async { TcpStream::connect(proxy.address()).await?.read_u8().await };
        let error = tokio::time::timeout(SOON, reading).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn drop_resets_and_stops_listening() {
        let (proxy, mut client, mut server) = connected().await;
        round_trip(&mut client, &mut server).await;
        let address = proxy.address();
        drop(proxy);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
