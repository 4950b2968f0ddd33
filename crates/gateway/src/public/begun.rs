//! A socket whose request has been begun to be read: what was read comes first again.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Begun {
    stream: TcpStream,
    read: Vec<u8>,
    /// How much of `read` was read again.
    taken: usize,
}

impl Begun {
    pub(super) fn new(stream: TcpStream, read: Vec<u8>) -> Self {
        Self { stream, read, taken: 0 }
    }

    /// The first byte of what was read.
    pub(super) fn first(&self) -> Option<u8> {
        self.read.first().copied()
    }

    /// Waits until the runtime knows that the socket can be written.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// The socket, and what was not read again.
    pub(super) fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        self.read.drain(..self.taken);
        (self.stream, self.read)
    }
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.read.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.read.len() - self.taken);
        buf.put_slice(&self.read[self.taken..self.taken + count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_and_what_is_left_of_it_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(b"later").await.unwrap();
        let mut begun = Begun::new(stream, b"before".to_vec());
        assert_eq!(begun.first(), Some(b'b'));
        let mut four = [0; 4];
        begun.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"befo");
        let (stream, left) = begun.into_parts();
        assert_eq!(left, b"re");
        let mut seven = [0; 7];
        Begun::new(stream, left).read_exact(&mut seven).await.unwrap();
        assert_eq!(&seven, b"relater");
    }
}
