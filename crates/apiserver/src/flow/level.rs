//! A priority level: how many of its requests run at once, and who waits for a seat.
//!
//! Requests wait in queues, by flow: each flow is dealt a few of the level's queues and waits in the shortest of them, so that a
//! flow that floods fills its own hand of queues and seldom all queues of another. Seats are given to the queues in turn.

use machinery::Status;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a request waits for a seat: a quarter of the time it has in all.
const WAIT: Duration = Duration::from_secs(15);
const RETRY_AFTER_SECONDS: u32 = 1;

/// What a level is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Requests at once; none for a level without a limit.
    pub(super) seats: Option<usize>,
    /// Without queues, requests without a seat are refused at once.
    pub(super) queues: Option<Queuing>,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand_size: usize,
    pub(super) length_max: usize,
}

/// A priority level.
pub(super) struct Level {
    pub(super) limits: Limits,
    running: AtomicUsize,
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    queues: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The queue that gets the next seat.
    next: usize,
}

/// The right to run; given back when dropped.
pub(super) struct Seat(Option<Arc<Level>>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.running.fetch_sub(1, Ordering::SeqCst);
            if level.waiting.load(Ordering::SeqCst) > 0 {
                level.dispatch();
            }
        }
    }
}

impl Level {
    pub(super) fn new(limits: Limits) -> Arc<Level> {
        let count = limits.queues.map_or(0, |queuing| queuing.queues);
        let queues = Queues { queues: (0..count).map(|_| VecDeque::new()).collect(), next: 0 };
        Arc::new(Level {
            limits,
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queues: Mutex::new(queues),
        })
    }

    /// A seat if one is free. A level without a limit gives one that is no seat.
    fn try_take(self: &Arc<Self>) -> Option<Seat> {
        let Some(seats) = self.limits.seats else { return Some(Seat(None)) };
        let free = |running: usize| (running < seats).then_some(running + 1);
        let taken = self.running.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.is_ok().then(|| Seat(Some(Arc::clone(self))))
    }

    /// A seat, after waiting for it in the queues of a flow; 429 when there is none.
    pub(super) async fn take(self: &Arc<Self>, flow: u64) -> Result<Seat, Status> {
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(seat) = self.try_take()
        {
            return Ok(seat);
        }
        let given = self.enqueue(flow)?;
        match tokio::time::timeout(WAIT, given).await {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(refusal()),
        }
    }

    fn enqueue(self: &Arc<Self>, flow: u64) -> Result<oneshot::Receiver<Seat>, Status> {
        let (give, given) = oneshot::channel();
        {
            let mut queues = self.queues.lock();
            let Some(queuing) = self.limits.queues.filter(|_| !queues.queues.is_empty()) else { return Err(refusal()) };
            let hand = hand(flow, queues.queues.len(), queuing.hand_size);
            let shortest = hand.into_iter().min_by_key(|at| queues.queues[*at].len()).unwrap_or(0);
            let queue = &mut queues.queues[shortest];
            if queue.len() >= queuing.length_max {
                // Those who have gone make room.
                let before = queue.len();
                queue.retain(|give| !give.is_closed());
                self.waiting.fetch_sub(before - queue.len(), Ordering::SeqCst);
            }
            if queue.len() >= queuing.length_max {
                return Err(refusal());
            }
            queue.push_back(give);
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        // A seat may have become free between the look for one and the entry into the queue.
        self.dispatch();
        Ok(given)
    }

    /// Gives free seats to those who wait, one queue after the other.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let Some(mut seat) = self.try_take() else { return };
            let give = self.queues.lock().pop(&self.waiting);
            let Some(give) = give else {
                // Nobody waits: the seat goes back without looking for somebody again.
                seat.0 = None;
                self.running.fetch_sub(1, Ordering::SeqCst);
                if self.waiting.load(Ordering::SeqCst) == 0 {
                    return;
                }
                continue;
            };
            if let Err(mut back) = give.send(seat) {
                back.0 = None;
                self.running.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// How many run and wait.
    #[cfg(test)]
    fn load(&self) -> (usize, usize) {
        (self.running.load(Ordering::SeqCst), self.waiting.load(Ordering::SeqCst))
    }
}

impl Queues {
    fn pop(&mut self, waiting: &AtomicUsize) -> Option<oneshot::Sender<Seat>> {
        let count = self.queues.len();
        for offset in 0..count {
            let at = (self.next + offset) % count;
            while let Some(give) = self.queues[at].pop_front() {
                waiting.fetch_sub(1, Ordering::SeqCst);
                if !give.is_closed() {
                    self.next = (at + 1) % count;
                    return Some(give);
                }
            }
        }
        None
    }
}

/// The queues dealt to a flow: `size` different ones out of `count`, always the same.
fn hand(flow: u64, count: usize, size: usize) -> Vec<usize> {
    let mut left = flow;
    let mut dealt: Vec<usize> = Vec::with_capacity(size);
    for round in 0..size.min(count) {
        let remaining = (count - round) as u64;
        let mut card = usize::try_from(left % remaining).unwrap_or(0);
        left /= remaining;
        // The cards that are gone are skipped, from the lowest on.
        let mut gone = dealt.clone();
        gone.sort_unstable();
        for taken in gone {
            if card >= taken {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

/// The number of a flow.
pub(super) fn flow(schema: &str, distinguisher: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (schema, distinguisher).hash(&mut hasher);
    hasher.finish()
}

fn refusal() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(seats: usize, queues: Option<(usize, usize, usize)>) -> Arc<Level> {
        let queues = queues.map(|(queues, hand_size, length_max)| Queuing { queues, hand_size, length_max });
        Level::new(Limits { seats: Some(seats), queues })
    }

    #[test]
    fn hands_have_different_queues() {
        for flow in 0..1000_u64 {
            let mut dealt = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16, 4);
            dealt.sort_unstable();
            dealt.dedup();
            assert!(dealt.len() == 4 && dealt.iter().all(|queue| *queue < 16));
        }
        assert_eq!(hand(7, 2, 4).len(), 2);
    }

    #[tokio::test]
    async fn without_queues_there_is_no_waiting() {
        let level = level(2, None);
        let (one, two) = (level.take(1).await, level.take(1).await);
        assert!(one.is_ok() && two.is_ok());
        let refused = level.take(1).await.err().unwrap();
        assert_eq!((refused.code, refused.details.unwrap().retry_after_seconds), (429, Some(1)));
        drop(one);
        assert!(level.take(1).await.is_ok());
    }

    #[tokio::test]
    async fn seats_go_to_flows_in_turn() {
        let level = level(1, Some((8, 1, 3)));
        let held = level.take(1).await.unwrap();
        // A flow that floods fills its queue and no more.
        let flood = flow("s", "flood");
        let (mut waiting, mut refused) = (Vec::new(), 0);
        for _ in 0..10 {
            match level.enqueue(flood) {
                Ok(given) => waiting.push(given),
                Err(_) => refused += 1,
            }
        }
        assert_eq!((waiting.len(), refused), (3, 7));
        let other =
            (0..).map(|n| flow("s", &n.to_string())).find(|other| hand(*other, 8, 1) != hand(flood, 8, 1)).unwrap();
        let mut quiet = level.enqueue(other).unwrap();
        drop(held);
        // The second seat at the latest is the quiet one's.
        let mut seat = Some(waiting[0].try_recv().ok());
        let got = quiet.try_recv().ok().or_else(|| {
            seat.take();
            quiet.try_recv().ok()
        });
        assert!(got.is_some());
        drop((got, seat));
        waiting.clear();
        assert!(level.take(1).await.is_ok());
    }

    #[tokio::test]
    async fn no_seat_is_lost_and_none_given_twice() {
        let level = level(3, Some((4, 2, 100)));
        let most = Arc::new(AtomicUsize::new(0));
        let tasks = (0..200_u64).map(|n| {
            let (level, most) = (Arc::clone(&level), Arc::clone(&most));
            tokio::spawn(async move {
                // Some go before they have their seat.
                let patience = if n % 7 == 0 { Duration::ZERO } else { Duration::from_secs(10) };
                let Ok(Ok(_seat)) = tokio::time::timeout(patience, level.take(n % 5)).await else { return };
                most.fetch_max(level.load().0, Ordering::SeqCst);
                tokio::task::yield_now().await;
            })
        });
        futures::future::join_all(tasks.collect::<Vec<_>>()).await;
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert!(level.take(0).await.is_ok());
        assert_eq!(level.load().0, 0);
    }
}
