//! Response bodies: whole, in pieces, or without end.

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An error of a body, of either direction.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, whoever sends it.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// How much of a list is copied together into one frame: with the nine bytes that HTTP/2 puts before it, what fills a TLS record.
const FRAME_BYTES: usize = (16 << 10) - 9;

/// What is shorter is not packed.
const PACK_BYTES_MIN: usize = 128 << 10;

/// The body of a response.
#[derive(Default)]
pub enum Body {
    /// Nothing (left).
    #[default]
    Empty,
    /// All of it.
    Full(Bytes),
    /// What is there already in pieces; sent in larger frames.
    Pieces(Pieces),
    /// The same, packed with gzip.
    Packed(Box<Packed>),
    /// Anything else: watches, logs, proxied answers.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

/// Appends the next piece; false when there was none left.
type Next = dyn FnMut(&mut BytesMut) -> bool + Send;

/// Bytes in pieces.
pub struct Pieces {
    next: Box<Next>,
    left: usize,
    /// What did not fit into the last frame.
    rest: Bytes,
    /// Frames on their way, the oldest first: one that is out is written to again.
    sent: VecDeque<Bytes>,
}

impl Pieces {
    fn new(left: usize, next: Box<Next>) -> Pieces {
        Pieces { next, left, rest: Bytes::new(), sent: VecDeque::new() }
    }
}

impl Body {
    /// All of it.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// `length` bytes, of which `next` appends a piece at a time (false when there is none left).
    pub(crate) fn pieces(length: usize, next: impl FnMut(&mut BytesMut) -> bool + Send + 'static) -> Body {
        Body::Pieces(Pieces::new(length, Box::new(next)))
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
        if self.left == 0 {
            return None;
        }
        let frame = if self.rest.len() >= FRAME_BYTES { self.rest.split_to(FRAME_BYTES) } else { self.filled() };
        self.left = if frame.is_empty() { 0 } else { self.left.saturating_sub(frame.len()) };
        (!frame.is_empty()).then_some(frame)
    }

    /// A frame of the next pieces.
    fn filled(&mut self) -> Bytes {
        let out = self.sent.front().is_some_and(Bytes::is_unique);
        let used = if out { self.sent.pop_front().and_then(|oldest| oldest.try_into_mut().ok()) } else { None };
        let capacity = self.left.min(FRAME_BYTES + FRAME_BYTES / 2);
        let mut frame = used.unwrap_or_else(|| BytesMut::with_capacity(capacity));
        frame.clear();
        frame.extend_from_slice(&std::mem::take(&mut self.rest));
        while frame.len() < FRAME_BYTES && (self.next)(&mut frame) {}
        if frame.len() > 2 * FRAME_BYTES {
            // A large object is sent from where it is.
            self.rest = frame.freeze();
            return self.rest.split_to(FRAME_BYTES);
        }
        if frame.len() > FRAME_BYTES {
            self.rest = Bytes::copy_from_slice(&frame[FRAME_BYTES..]);
            frame.truncate(FRAME_BYTES);
        }
        let frame = frame.freeze();
        self.sent.push_back(frame.clone());
        frame
    }
}

/// Bytes in pieces, packed as they are sent.
pub struct Packed {
    plain: Pieces,
    /// None once all is packed.
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Packed {
    fn frame(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(gzip) = &mut self.gzip else { return Ok(None) };
        while let Some(plain) = self.plain.frame() {
            gzip.write_all(&plain)?;
            if gzip.get_ref().len() >= FRAME_BYTES {
                return Ok(Some(std::mem::take(gzip.get_mut()).into()));
            }
        }
        self.gzip.take().map(|gzip| Ok(gzip.finish()?.into())).transpose()
    }
}

impl Body {
    /// The same packed with gzip, when it is worth it (upstream: more than 128 KiB, at level 1) and known how long it is.
    pub(crate) fn packed(self) -> Result<Body, Body> {
        let plain = match self {
            Body::Full(mut bytes) if bytes.len() > PACK_BYTES_MIN => Pieces::new(
                bytes.len(),
                Box::new(move |out| {
                    out.extend_from_slice(&bytes.split_to(bytes.len().min(FRAME_BYTES)));
                    !bytes.is_empty()
                }),
            ),
            Body::Pieces(pieces) if pieces.left > PACK_BYTES_MIN => pieces,
            other => return Err(other),
        };
        let gzip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        Ok(Body::Packed(Box::new(Packed { plain, gzip })))
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
            Body::Packed(packed) => Poll::Ready(packed.frame().map(|frame| frame.map(Frame::data)).transpose()),
            Body::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Pieces(pieces) => pieces.left == 0,
            Body::Packed(packed) => packed.gzip.is_none(),
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pieces(pieces) => SizeHint::with_exact(pieces.left as u64),
            Body::Packed(_) => SizeHint::default(),
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
        let pieces: Vec<Vec<u8>> = (0..1000u32)
            .map(|i| vec![b'a' + (i % 26) as u8; if i == 500 { 300_000 } else { (i * 7 % 3001) as usize }])
            .collect();
        let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
        let mut pieces = pieces.into_iter();
        let mut body = Body::pieces(expected.len(), move |out| {
            let Some(piece) = pieces.next() else { return false };
            out.extend_from_slice(&piece);
            true
        });
        assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
        let (mut found, mut lengths) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap().into_data().unwrap();
            found.extend_from_slice(&frame);
            lengths.push(frame.len());
        }
        assert!(found == expected);
        let last = lengths.pop().unwrap();
        assert!(last <= FRAME_BYTES && lengths.iter().all(|length| *length == FRAME_BYTES), "{lengths:?}");
        assert!(body.is_end_stream());
    }
}
