//! Gathers what a connection writes until everything that is ready to run has had its say.
//!
//! A change that a hundred watches on a few HTTP/2 connections see is a hundred small frames, and a long list is hundreds of large ones; `h2` flushes
//! after each frame of more than 256 bytes. As many TLS records, system calls and wake-ups of the client would follow. Here a flush right
//! after a write only promises another poll, so that the frames of all streams that are ready are gathered; the flush that finds nothing
//! new steps back once behind the tasks that are ready to run; what they write meanwhile goes out with it. Stepping back wakes another
//! thread, so it is done where it lately was worth it, and tried now and then elsewhere.
//!
//! That is right for HTTP/2, whose connection is polled as a whole and ends each poll with a flush. Whoever else flushes once and then waits:
//! for them the first flush steps back, and the write is out when it says so.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered at most: four TLS records, one system call.
const GATHER_BYTES_MAX: usize = 64 << 10;
/// What comes in such lengths goes its own way: copying it would cost more than a system call.
const LARGE: usize = 8 << 10;

/// How often in a row stepping back may bring nothing before it is left, after it brought something.
const CREDIT: u8 = 8;
/// One in so many flushes steps back to see whether it is worth it.
const TRIAL: u8 = 16;

/// A connection whose small writes go out together.
pub(crate) struct Coalesced<T> {
    inner: T,
    /// Written by the user, not yet by us; from `sent` on.
    gathered: Vec<u8>,
    sent: usize,
    /// Whether the user is HTTP/2.
    framed: bool,
    /// Something was written since the last flush.
    written: bool,
    /// This flush has stepped back already, with so many bytes.
    yielded: Option<usize>,
    credit: u8,
    flushes: u8,
}

impl<T: AsyncWrite + Unpin> Coalesced<T> {
    /// Wraps a connection; `framed` when HTTP/2 is spoken on it.
    pub(crate) fn new(inner: T, framed: bool) -> Coalesced<T> {
        Coalesced { inner, gathered: Vec::new(), sent: 0, framed, written: false, yielded: None, credit: 1, flushes: 0 }
    }

    fn steps_back(&mut self) -> bool {
        self.flushes = (self.flushes + 1) % TRIAL;
        self.credit > 0 || self.flushes == 0
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.gathered[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.gathered.clear();
        self.sent = 0;
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
        if length >= LARGE || self.gathered.len() + length > GATHER_BYTES_MAX {
            ready!(self.drain(cx))?;
        }
        if length >= LARGE {
            self.written = true;
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.gathered.extend_from_slice(buf);
        }
        self.written = true;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.framed && std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        if !self.gathered.is_empty() {
            if self.yielded.is_none() && self.steps_back() {
                self.yielded = Some(self.gathered.len());
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(before) = self.yielded.replace(usize::MAX).filter(|before| *before != usize::MAX) {
                self.credit = if self.gathered.len() > before { CREDIT } else { self.credit.saturating_sub(1) };
            }
            ready!(self.drain(cx))?;
        }
        self.yielded = None;
        // An idle connection keeps no buffer.
        self.gathered = Vec::new();
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
            let mut io = Coalesced::new(Counting { most, ..Counting::default() }, false);
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
            io.flush().await.unwrap();
            assert_eq!(io.gathered.capacity(), 0, "nothing is kept");
        }
    }

    /// As `h2` writes: a flush after each frame, and one at the end of each poll.
    #[tokio::test]
    async fn frames_that_are_ready_go_out_together() {
        let mut io = Coalesced::new(Counting::default(), true);
        let (mut expected, mut left, mut polls) = (Vec::new(), 20_u8, 0);
        std::future::poll_fn(|cx| {
            polls += 1;
            while left > 0 {
                let frame = [left; 300];
                assert!(Pin::new(&mut io).poll_write(cx, &frame).is_ready());
                assert!(Pin::new(&mut io).poll_flush(cx).is_ready(), "the next frame may come");
                expected.extend_from_slice(&frame);
                left -= 1;
                if left % 10 == 0 {
                    break;
                }
            }
            Pin::new(&mut io).poll_flush(cx)
        })
        .await
        .unwrap();
        assert_eq!((io.inner.writes, polls, left), (1, 2, 0));
        assert!(io.inner.written == expected);
    }

    /// Frames larger than what is gathered pass on their own, and nothing is lost when the far end takes little at a time.
    #[tokio::test]
    async fn a_long_list_of_frames() {
        let (near, mut far) = tokio::io::duplex(10_000);
        let mut io = Coalesced::new(near, true);
        let expected: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = expected.clone();
        let writer = tokio::spawn(async move {
            for frame in sent.chunks(16_393) {
                io.write_all(frame).await.unwrap();
                io.flush().await.unwrap();
            }
            io.flush().await.unwrap();
            io
        });
        let mut found = vec![0; expected.len()];
        far.read_exact(&mut found).await.unwrap();
        assert!(found == expected);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn reads_pass_through_and_a_closed_peer_is_an_error() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut io = Coalesced::new(near, false);
        far.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        drop(far);
        io.write_all(b"lost").await.unwrap();
        assert_eq!(io.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
