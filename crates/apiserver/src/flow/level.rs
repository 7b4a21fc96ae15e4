//! Priority levels: how many requests of each run at once, who waits for a seat, and who lends seats to whom.
//!
//! Requests wait in queues, by flow: each flow is dealt a few of the level's queues and waits in the shortest of them, so that a
//! flow that floods fills its own hand of queues and seldom all queues of another. Seats are given to the queues in turn.
//!
//! Of its seats a level keeps some for itself; the others are in a pool while it does not use them, and levels that have none left
//! may take them from there. Upstream moves such limits every ten seconds by what was asked for; here a seat is lent and given
//! back request by request, and nobody borrows while a level that has less than its own waits.

use machinery::Status;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a request waits for a seat: a quarter of the time it has in all.
const WAIT: Duration = Duration::from_secs(15);
const RETRY_AFTER_SECONDS: u32 = 1;
/// The most seats that one request takes.
const WIDTH_MAX: usize = 10;

/// What a level is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// None for a level without a limit.
    pub(super) seats: Option<Seats>,
    /// Without queues, requests without a seat are refused at once.
    pub(super) queues: Option<Queuing>,
}

/// How many requests of a level run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seats {
    /// Those that are its own.
    pub(super) nominal: usize,
    /// Of these, those that others may have while it does not need them.
    pub(super) lendable: usize,
    /// The most it may have of others' beside its own.
    pub(super) borrowable: usize,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand_size: usize,
    pub(super) length_max: usize,
}

/// Why a request got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The level has no queues.
    Full,
    /// Its queue is full.
    QueueFull,
    /// It waited for too long.
    TimedOut,
}

impl Refusal {
    /// As metrics name it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refusal::Full => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimedOut => "time-out",
        }
    }

    /// 429.
    pub(super) fn status() -> Status {
        Status::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_SECONDS)
    }
}

/// All levels of a plan.
pub(super) struct Levels {
    pub(super) limits: Vec<Limits>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    levels: Vec<Level>,
    /// Lendable seats that nobody uses.
    pool: usize,
    waiting: usize,
}

/// A level as it is at a moment.
struct Level {
    seats: Seats,
    running: usize,
    queues: Vec<VecDeque<Waiter>>,
    queuing: Option<Queuing>,
    waiting: usize,
    /// The queue that gets the next seat.
    next: usize,
}

struct Waiter {
    give: oneshot::Sender<Seat>,
    width: usize,
}

/// The right to run; given back when dropped.
pub(super) struct Seat {
    levels: Option<Arc<Levels>>,
    level: usize,
    width: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(levels) = self.levels.take() {
            levels.give_back(self.level, self.width);
        }
    }
}

/// How a level is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Seats in use.
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Seats it could have in use now.
    pub(super) limit: usize,
}

impl Levels {
    pub(super) fn new(limits: Vec<Limits>) -> Arc<Levels> {
        let level = |limits: &Limits| {
            let seats = limits.seats.unwrap_or(Seats { nominal: 0, lendable: 0, borrowable: 0 });
            let count = limits.queues.map_or(0, |queuing| queuing.queues);
            let queues = (0..count).map(|_| VecDeque::new()).collect();
            Level { seats, running: 0, queues, queuing: limits.queues, waiting: 0, next: 0 }
        };
        let levels: Vec<Level> = limits.iter().map(level).collect();
        let pool = levels.iter().map(|level| level.seats.lendable).sum();
        Arc::new(Levels { limits, state: Mutex::new(State { levels, pool, waiting: 0 }) })
    }

    /// Seats of a level without a limit cost nothing.
    pub(super) fn is_free(&self, level: usize) -> bool {
        self.limits[level].seats.is_none()
    }

    /// Seats for a request, after waiting for them in the queues of a flow.
    pub(super) async fn take(self: &Arc<Self>, level: usize, width: usize, flow: u64) -> Result<Seat, Refusal> {
        let given = {
            let mut state = self.state.lock();
            let width = state.levels[level].width(width);
            if state.levels[level].waiting == 0 && state.start(level, width) {
                return Ok(self.seat(level, width));
            }
            let (give, given) = oneshot::channel();
            state.enqueue(level, Waiter { give, width }, flow)?;
            // Those who have gone may have stood before this one.
            self.dispatch(&mut state);
            given
        };
        match tokio::time::timeout(WAIT, given).await {
            Ok(Ok(seat)) => Ok(seat),
            _ => Err(Refusal::TimedOut),
        }
    }

    fn seat(self: &Arc<Self>, level: usize, width: usize) -> Seat {
        Seat { levels: Some(Arc::clone(self)), level, width }
    }

    fn give_back(self: &Arc<Self>, level: usize, width: usize) {
        let mut state = self.state.lock();
        state.end(level, width);
        if state.waiting > 0 {
            self.dispatch(&mut state);
        }
    }

    /// Gives seats to those who wait: first in levels that have less than their own.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        for claiming in [true, false] {
            for level in 0..state.levels.len() {
                while state.levels[level].waiting > 0 && state.levels[level].claims() == claiming {
                    let Some(width) = state.levels[level].peek(&mut state.waiting) else { break };
                    if !state.start(level, width) {
                        break;
                    }
                    let Some(waiter) = state.levels[level].pop(&mut state.waiting) else { break };
                    if let Err(mut back) = waiter.give.send(self.seat(level, width)) {
                        // It has just gone. The lock is held: its seat must not be given back by being dropped.
                        back.levels = None;
                        state.end(level, width);
                    }
                }
            }
        }
    }

    /// How a level is doing.
    pub(super) fn load(&self, level: usize) -> Load {
        let state = self.state.lock();
        let it = &state.levels[level];
        let limit = (it.running.max(it.reserved()) + state.pool).min(it.most());
        Load { running: it.running, waiting: it.waiting, limit }
    }
}

impl State {
    /// Takes seats when they may be had now.
    fn start(&mut self, level: usize, width: usize) -> bool {
        let it = &self.levels[level];
        let after = it.running + width;
        if after > it.most() && it.running > 0 {
            return false;
        }
        let lent = it.lent(after) - it.lent(it.running);
        let borrows = after > it.seats.nominal;
        let claimed = || self.levels.iter().enumerate().any(|(at, other)| at != level && other.claims());
        if lent > self.pool || (borrows && self.waiting > 0 && claimed()) {
            return false;
        }
        self.pool -= lent;
        self.levels[level].running = after;
        true
    }

    fn end(&mut self, level: usize, width: usize) {
        let it = &mut self.levels[level];
        let before = it.running;
        it.running -= width;
        self.pool += it.lent(before) - it.lent(it.running);
    }

    fn enqueue(&mut self, level: usize, waiter: Waiter, flow: u64) -> Result<(), Refusal> {
        let it = &mut self.levels[level];
        let Some(queuing) = it.queuing.filter(|_| !it.queues.is_empty()) else { return Err(Refusal::Full) };
        let hand = hand(flow, it.queues.len(), queuing.hand_size);
        let shortest = hand.into_iter().min_by_key(|at| it.queues[*at].len()).unwrap_or(0);
        let queue = &mut it.queues[shortest];
        if queue.len() >= queuing.length_max {
            // Those who have gone make room.
            let before = queue.len();
            queue.retain(|waiter| !waiter.give.is_closed());
            it.waiting -= before - queue.len();
            self.waiting -= before - queue.len();
        }
        if queue.len() >= queuing.length_max {
            return Err(Refusal::QueueFull);
        }
        queue.push_back(waiter);
        it.waiting += 1;
        self.waiting += 1;
        Ok(())
    }
}

impl Level {
    fn reserved(&self) -> usize {
        self.seats.nominal - self.seats.lendable
    }

    /// The most seats it may have.
    fn most(&self) -> usize {
        self.seats.nominal.saturating_add(self.seats.borrowable)
    }

    /// How many of so many seats come out of the pool.
    fn lent(&self, seats: usize) -> usize {
        seats.saturating_sub(self.reserved())
    }

    /// It waits for what is its own.
    fn claims(&self) -> bool {
        self.waiting > 0 && self.running < self.seats.nominal
    }

    /// What a request takes of what it would: at most 15 % of the level, as upstream.
    fn width(&self, wanted: usize) -> usize {
        let most = (self.seats.nominal.saturating_mul(3)).div_ceil(20).clamp(1, WIDTH_MAX);
        wanted.clamp(1, most)
    }

    /// How wide the next one is that waits. Those who have gone are forgotten.
    fn peek(&mut self, waiting: &mut usize) -> Option<usize> {
        let count = self.queues.len();
        for offset in 0..count {
            let at = (self.next + offset) % count;
            while let Some(front) = self.queues[at].front() {
                if !front.give.is_closed() {
                    self.next = at;
                    return Some(front.width);
                }
                self.queues[at].pop_front();
                self.waiting -= 1;
                *waiting -= 1;
            }
        }
        None
    }

    fn pop(&mut self, waiting: &mut usize) -> Option<Waiter> {
        let waiter = self.queues[self.next].pop_front()?;
        self.next = (self.next + 1) % self.queues.len();
        self.waiting -= 1;
        *waiting -= 1;
        Some(waiter)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn limits(nominal: usize, lendable: usize, borrowable: usize, queues: Option<(usize, usize, usize)>) -> Limits {
        let queues = queues.map(|(queues, hand_size, length_max)| Queuing { queues, hand_size, length_max });
        Limits { seats: Some(Seats { nominal, lendable, borrowable }), queues }
    }

    fn level(nominal: usize, queues: Option<(usize, usize, usize)>) -> Arc<Levels> {
        Levels::new(vec![limits(nominal, 0, 0, queues)])
    }

    fn idle(levels: &Levels) -> bool {
        (0..levels.limits.len()).all(|at| (levels.load(at).running, levels.load(at).waiting) == (0, 0))
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
        let (one, two) = (level.take(0, 1, 1).await, level.take(0, 1, 1).await);
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(level.take(0, 1, 1).await.err(), Some(Refusal::Full));
        drop(one);
        assert!(level.take(0, 1, 1).await.is_ok());
    }

    #[tokio::test]
    async fn seats_go_to_flows_in_turn() {
        let level = level(1, Some((8, 1, 3)));
        let held = level.take(0, 1, 1).await.unwrap();
        // A flow that floods fills its queue and no more.
        let flood = flow("s", "flood");
        let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(level.take(0, 1, flood))).collect();
        let mut refused = 0;
        waiting.retain_mut(|one| match futures::FutureExt::now_or_never(one) {
            None => true,
            Some(result) => {
                refused += usize::from(result.err() == Some(Refusal::QueueFull));
                false
            }
        });
        assert_eq!((waiting.len(), refused), (3, 7));
        let other =
            (0..).map(|n| flow("s", &n.to_string())).find(|other| hand(*other, 8, 1) != hand(flood, 8, 1)).unwrap();
        let mut quiet = Box::pin(level.take(0, 1, other));
        assert!(futures::poll!(&mut quiet).is_pending());
        drop(held);
        // The second seat at the latest is the quiet one's.
        let first = futures::poll!(&mut waiting[0]);
        let mut got = matches!(futures::poll!(&mut quiet), std::task::Poll::Ready(Ok(_)));
        drop(first);
        got = got || matches!(futures::poll!(&mut quiet), std::task::Poll::Ready(Ok(_)));
        assert!(got);
        waiting.clear();
        drop(quiet);
        assert!(level.take(0, 1, 1).await.is_ok());
    }

    #[tokio::test]
    async fn seats_are_lent_and_come_back_to_whom_they_belong() {
        let queues = Some((1, 1, 100));
        // Four seats each, of which the first lends three; the second may borrow two.
        let levels = Levels::new(vec![limits(4, 3, 0, queues), limits(4, 0, 2, queues)]);
        let mut second = Vec::new();
        for _ in 0..6 {
            second.push(levels.take(1, 1, 0).await.unwrap());
        }
        let mut seventh = Box::pin(levels.take(1, 1, 0));
        assert!(futures::poll!(&mut seventh).is_pending(), "it may borrow two");
        let mut first = vec![levels.take(0, 1, 0).await.unwrap(), levels.take(0, 1, 0).await.unwrap()];
        let mut third = Box::pin(levels.take(0, 1, 0));
        assert!(futures::poll!(&mut third).is_pending(), "its other seats are lent");
        second.pop();
        assert!(futures::poll!(&mut seventh).is_pending(), "nobody borrows what its owner waits for");
        first.push(third.await.unwrap());
        drop(second);
        drop((first, seventh.await.unwrap()));
        assert!(idle(&levels));
        assert_eq!((levels.load(0).limit, levels.load(1).limit), (4, 6));
    }

    #[tokio::test]
    async fn wide_requests_take_several_seats() {
        let level = level(20, Some((1, 1, 10)));
        // Fifteen percent of twenty.
        let mut wide = Vec::new();
        for _ in 0..6 {
            wide.push(level.take(0, 100, 0).await.unwrap());
        }
        assert_eq!(level.load(0).running, 18);
        let mut next = Box::pin(level.take(0, 3, 0));
        assert!(futures::poll!(&mut next).is_pending());
        wide.pop();
        wide.push(next.await.unwrap());
        drop(wide);
        assert!(idle(&level));
    }

    #[tokio::test]
    async fn no_seat_is_lost_and_none_given_twice() {
        let levels = Levels::new(vec![limits(3, 2, 1, Some((4, 2, 100))), limits(3, 1, 3, Some((4, 2, 100)))]);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..200_u64)
            .map(|n| {
                let (levels, running, most) = (Arc::clone(&levels), Arc::clone(&running), Arc::clone(&most));
                tokio::spawn(async move {
                    let at = usize::try_from(n % 2).unwrap();
                    let take = levels.take(at, 1, n);
                    // Some go away while they wait.
                    let seat = if n % 7 == 0 {
                        tokio::time::timeout(Duration::from_micros(n), take).await.ok().and_then(Result::ok)
                    } else {
                        take.await.ok()
                    };
                    let Some(seat) = seat else { return };
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(seat);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 6);
        // Whoever is left in a queue has gone, and makes room.
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.push(levels.take(0, 1, 0).await.unwrap());
        }
        drop(seats);
        assert_eq!(levels.load(0).running + levels.load(1).running, 0);
    }
}
