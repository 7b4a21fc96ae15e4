//! Response bodies: whole, in pieces, or without end.

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An error of a body, of either direction.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, whoever sends it.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// How much of a list is copied together into one frame.
const FRAME_BYTES: usize = 128 << 10;

/// The body of a response.
#[derive(Default)]
pub enum Body {
    /// Nothing (left).
    #[default]
    Empty,
    /// All of it.
    Full(Bytes),
    /// Pieces that are there already; sent in larger frames.
    Pieces(Pieces),
    /// Anything else: watches, logs, proxied answers.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

/// Bytes in pieces.
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Body {
    /// All of it.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// Pieces that follow each other.
    pub fn pieces(pieces: VecDeque<Bytes>) -> Body {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Body::Pieces(Pieces { pieces, left })
    }

    /// Wraps any body.
    pub fn stream<B>(body: B) -> Body
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        use http_body_util::BodyExt;
        Body::Stream(body.map_err(Into::into).boxed_unsync())
    }
}

impl Pieces {
    fn frame(&mut self) -> Option<Bytes> {
        let first = self.pieces.pop_front()?;
        let fits = |taken: usize, next: &Bytes| taken + next.len() <= FRAME_BYTES;
        if !self.pieces.front().is_some_and(|next| fits(first.len(), next)) {
            self.left -= first.len() as u64;
            return Some(first);
        }
        let left = usize::try_from(self.left).unwrap_or(FRAME_BYTES);
        let mut frame = BytesMut::with_capacity(FRAME_BYTES.min(left));
        frame.extend_from_slice(&first);
        while let Some(next) = self.pieces.front().filter(|next| fits(frame.len(), next)) {
            frame.extend_from_slice(next);
            self.pieces.pop_front();
        }
        self.left -= frame.len() as u64;
        Some(frame.freeze())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Pieces(pieces) => Poll::Ready(pieces.frame().map(|frame| Ok(Frame::data(frame)))),
            Body::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Pieces(pieces) => pieces.pieces.is_empty(),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces(pieces) => SizeHint::with_exact(pieces.left),
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn pieces_become_frames_of_the_same_bytes() {
        let pieces: VecDeque<Bytes> =
            (0..1000u32).map(|i| Bytes::from(vec![b'a' + (i % 26) as u8; (i * 7 % 3001) as usize])).collect();
        let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
        let mut body = Body::pieces(pieces);
        assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
        let (mut found, mut frames) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            found.extend_from_slice(&frame.unwrap().into_data().unwrap());
            frames += 1;
        }
        assert!(found == expected && frames < 20);
    }
}
