//! Listeners, and the acceptor of the public one.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{public::count_refused, shard::ShardHandle};

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

/// Accepts sockets and hands each to the shard with the fewest, until cancelled.
pub(crate) async fn accept(listener: TcpListener, shards: Vec<ShardHandle>, cancelled: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let fewest = shards.iter().min_by_key(|shard| shard.load());
                if !fewest.is_some_and(|shard| shard.accept(stream)) {
                    count_refused("overloaded");
                }
            }
            Err(error) => {
                // Out of file descriptors, or a socket that was gone before it was accepted.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}
