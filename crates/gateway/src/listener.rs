//! Listeners, and the acceptor of the public one.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{limits::ACCEPTS_PER_TURN, public::count_refused, shard::ShardHandle};

/// Connections that the kernel completes before they are accepted. It cuts this at `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;
/// How long the acceptor rests when the process has no file descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Binds a listener whose sockets send at once, and count as full while the kernel has `notsent_lowat` bytes of theirs
/// unsent. Accepted sockets inherit both on Linux, which saves two calls for each.
///
/// # Errors
/// The system's, with the address.
pub(crate) fn bind(address: SocketAddr, notsent_lowat: Option<u32>) -> io::Result<TcpListener> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = notsent_lowat {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error| io::Error::new(error.kind(), format!("listening on {address}: {error}")))
}

/// Accepts sockets and hands each to the shard with the fewest, until cancelled. It runs on whatever runtime polls it.
pub(crate) async fn accept(listener: StdTcpListener, shards: Vec<ShardHandle>, cancelled: CancellationToken) {
    // Sockets that are accepted are registered once, by their shard: a listener of tokio's would do it for each, here.
    // SAFETY: the listener has one descriptor, its own, as long as it lives, and is not replaced.
    #[expect(unsafe_code, reason = "there is no safe way to wait for a listener without accepting")]
    let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    let listener = match registered {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "the listener could not be registered"),
    };
    loop {
        let ready = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            ready = listener.readable() => ready,
        };
        let accepted = ready.and_then(|mut ready| accept_waiting(&mut ready, &shards));
        if let Err(error) = accepted {
            // Out of file descriptors, or a socket that was gone before it was accepted.
            warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(REST).await;
        }
        // Those that were accepted, and others, first.
        tokio::task::yield_now().await;
    }
}

/// Accepts those that wait, up to a bound.
fn accept_waiting(ready: &mut AsyncFdReadyGuard<'_, StdTcpListener>, shards: &[ShardHandle]) -> io::Result<()> {
    for _ in 0..ACCEPTS_PER_TURN {
        let accept = |listener: &AsyncFd<StdTcpListener>| {
            SockRef::from(listener.get_ref()).accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
        };
        let Ok(accepted) = ready.try_io(accept) else { return Ok(()) };
        let (socket, _) = accepted?;
        let fewest = shards.iter().min_by_key(|shard| shard.load());
        if !fewest.is_some_and(|shard| shard.accept(socket.into())) {
            count_refused("overloaded");
        }
    }
    Ok(())
}
