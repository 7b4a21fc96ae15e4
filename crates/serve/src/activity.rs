//! What a connection is busy with: requests under way, and answers that their client leaves unread.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The stamp of an answer that waits for its own server.
const NOT_WAITING: u64 = 0;

/// Of one connection.
pub(crate) struct Activity {
    start: Instant,
    /// Requests that have begun, over all time.
    begun: AtomicU64,
    /// Those under way: when each gave its client something it has not come back for (milliseconds from `start`, from 1).
    under_way: Mutex<Vec<Weak<AtomicU64>>>,
}

/// A request under way.
pub(crate) struct Begun {
    start: Instant,
    given: Arc<AtomicU64>,
}

/// The most that is given at once, so that an answer is under way until nearly all of it has been read.
const GIVEN_BYTES_MAX: usize = 256 << 10;

/// The body of an answer, which keeps its request under way.
pub(crate) struct Answer<B> {
    body: Pin<Box<B>>,
    /// What the body has given and was too much for once.
    rest: Bytes,
    begun: Begun,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), begun: AtomicU64::new(0), under_way: Mutex::default() }
    }

    /// A request begins.
    pub(crate) fn request(&self) -> Begun {
        let given = Arc::new(AtomicU64::new(NOT_WAITING));
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // Room is made before more is taken: no more stand here than twice those that are under way.
        if under_way.len() == under_way.capacity() {
            under_way.retain(|request| request.strong_count() > 0);
        }
        under_way.push(Arc::downgrade(&given));
        Begun { start: self.start, given }
    }

    /// The stamps of all requests under way.
    fn stamps(&self) -> Vec<u64> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|request| request.strong_count() > 0);
        under_way.iter().filter_map(Weak::upgrade).map(|given| given.load(Ordering::Relaxed)).collect()
    }

    /// Returns when no request was there for that long, or up to twice as long.
    pub(crate) async fn idle(&self, timeout: Duration) {
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep(timeout).await;
            if self.begun.load(Ordering::Relaxed) == before && self.stamps().is_empty() {
                return;
            }
        }
    }

    /// Returns when something was left unread for that long, or up to twice as long.
    pub(crate) async fn unread(&self, timeout: Duration) {
        loop {
            tokio::time::sleep(timeout).await;
            let late = millis(self.start.elapsed().saturating_sub(timeout));
            if self.stamps().into_iter().any(|given| given != NOT_WAITING && given <= late) {
                return;
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Begun {
    pub(crate) fn answer<B>(self, body: B) -> Answer<B> {
        Answer { body: Box::pin(body), rest: Bytes::new(), begun: self }
    }
}

impl<B: Body<Data = Bytes>> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = match self.rest.is_empty() {
            true => self.body.as_mut().poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest))))),
        };
        let polled = polled.map_ok(|frame| {
            frame.map_data(|mut data| {
                self.rest = data.split_off(data.len().min(GIVEN_BYTES_MAX));
                data
            })
        });
        // Until it is asked for more, what was given may be in no hand yet.
        let stamp = match polled {
            Poll::Ready(Some(Ok(_))) => millis(self.begun.start.elapsed()).max(1),
            _ => NOT_WAITING,
        };
        self.begun.given.store(stamp, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        // The upper bound first: it must not be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
