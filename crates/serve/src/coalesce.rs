//! Gathers small writes of a connection until everything that is ready to run has had its say.
//!
//! A change that a hundred watches on a few HTTP/2 connections see is a hundred small frames, each flushed as soon as its stream
//! has written it: as many TLS records and system calls. Here the first flush after a write steps back once behind the tasks that
//! are ready to run; what they write meanwhile goes out with it. When nothing else is ready that costs one poll.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most: what fills a TLS record.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// A connection whose small writes go out together.
pub(crate) struct Coalesced<T> {
    inner: T,
    /// Written by the user, not yet by us; from `sent` on.
    gathered: Vec<u8>,
    sent: usize,
    /// This flush has stepped back already.
    yielded: bool,
}

impl<T: AsyncWrite + Unpin> Coalesced<T> {
    pub(crate) fn new(inner: T) -> Coalesced<T> {
        Coalesced { inner, gathered: Vec::new(), sent: 0, yielded: false }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.gathered[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        // An idle connection keeps no buffer.
        (self.gathered, self.sent, self.yielded) = (Vec::new(), 0, false);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Coalesced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Coalesced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.gathered.len() + length > GATHER_BYTES_MAX {
            ready!(self.drain(cx))?;
            if length > GATHER_BYTES_MAX {
                return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
            }
        }
        for buf in bufs {
            self.gathered.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            if !self.yielded {
                self.yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.drain(cx))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts the writes that reach it; takes a few bytes at a time when told to.
    #[derive(Default)]
    struct Counting {
        written: Vec<u8>,
        writes: usize,
        most: usize,
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = if self.most == 0 { buf.len() } else { buf.len().min(self.most) };
            self.written.extend_from_slice(&buf[..taken]);
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_go_out_together_and_in_order() {
        for most in [0, 7] {
            let mut io = Coalesced::new(Counting { most, ..Counting::default() });
            let mut expected = Vec::new();
            for round in 0..20_u32 {
                for i in 0..25_u32 {
                    let part = vec![(round * 25 + i) as u8; 100];
                    io.write_all(&part).await.unwrap();
                    expected.extend_from_slice(&part);
                }
                assert!(io.inner.written.len() < expected.len(), "what is not flushed waits");
                io.flush().await.unwrap();
                assert_eq!(io.inner.written, expected);
            }
            if most == 0 {
                assert_eq!(io.inner.writes, 20, "one write a flush");
            }
            let large = vec![b'x'; 5 * GATHER_BYTES_MAX];
            io.write_all(b"before").await.unwrap();
            io.write_all(&large).await.unwrap();
            io.shutdown().await.unwrap();
            expected.extend_from_slice(b"before");
            expected.extend_from_slice(&large);
            assert!(io.inner.written == expected);
            assert_eq!(io.gathered.capacity(), 0, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn reads_pass_through_and_a_closed_peer_is_an_error() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut io = Coalesced::new(near);
        far.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        drop(far);
        io.write_all(b"lost").await.unwrap();
        assert_eq!(io.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
