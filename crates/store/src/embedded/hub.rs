//! History and watchers: what happened recently, and who wants to know.

use crate::{Error, Event, Events, Observer, Revision, WatchStream};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Revisions a watcher may be behind before it is dropped.
const WATCHER_QUEUE: usize = 1024;
/// What an event costs besides its values.
const EVENT_BYTES: usize = 200;

struct Watcher {
    prefix: Bytes,
    to: To,
}

/// Where events go.
enum To {
    Queue(mpsc::Sender<Result<Events, Error>>),
    Observer(Box<dyn Observer>),
}

struct Entry {
    revision: Revision,
    at: Instant,
    bytes: usize,
    events: Events,
}

struct State {
    /// The last published revision.
    revision: Revision,
    /// Everything after this one is in `history`.
    compacted: Revision,
    history: VecDeque<Entry>,
    bytes: usize,
    watchers: Vec<Watcher>,
}

pub(super) struct Hub {
    state: Mutex<State>,
    published: watch::Sender<Revision>,
    age_max: Duration,
    bytes_max: usize,
}

impl Hub {
    pub(super) fn new(revision: Revision, age_max: Duration, bytes_max: usize) -> Hub {
        let state = State { revision, compacted: revision, history: VecDeque::new(), bytes: 0, watchers: Vec::new() };
        Hub { state: Mutex::new(state), published: watch::Sender::new(revision), age_max, bytes_max }
    }

    pub(super) fn revision(&self) -> Revision {
        *self.published.borrow()
    }

    /// Makes the changes of committed revisions known, in order.
    pub(super) fn publish(&self, changes: Vec<(Revision, Events)>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        for (revision, events) in changes {
            state.revision = revision;
            state.watchers.retain_mut(|w| deliver(w, &events));
            let bytes = events.iter().map(cost).sum();
            state.bytes += bytes;
            state.history.push_back(Entry { revision, at: now, bytes, events });
        }
        while let Some(oldest) = state.history.front() {
            if state.bytes <= self.bytes_max && now.duration_since(oldest.at) <= self.age_max {
                break;
            }
            drop_oldest(&mut state);
        }
        let revision = state.revision;
        drop(state);
        self.published.send_replace(revision);
    }

    /// What was committed is uncertain: nobody may build on the past any more.
    pub(super) fn reset(&self, revision: Revision) {
        let mut state = self.state.lock();
        state.history.clear();
        state.bytes = 0;
        (state.revision, state.compacted) = (revision, revision);
        for watcher in state.watchers.drain(..) {
            let error = Error::Compacted { requested: revision, oldest: revision };
            match watcher.to {
                // A watcher that went away does not need to know.
                To::Queue(send) => drop(send.try_send(Err(error))),
                To::Observer(mut observer) => observer.lost(error),
            }
        }
        drop(state);
        self.published.send_replace(revision);
    }

    pub(super) async fn wait_published(&self, revision: Revision) {
        let _ = self.published.subscribe().wait_for(|published| *published >= revision).await;
    }

    pub(super) fn check_readable(&self, revision: Revision) -> Result<(), Error> {
        let state = self.state.lock();
        if revision > state.revision {
            return Err(Error::Future { requested: revision, current: state.revision });
        }
        if revision < state.compacted {
            return Err(Error::Compacted { requested: revision, oldest: state.compacted });
        }
        Ok(())
    }

    /// The changes under a prefix after `after`, up to and with `until`.
    pub(super) fn changes_between(&self, prefix: &[u8], after: Revision, until: Revision) -> Result<Vec<Event>, Error> {
        let state = self.state.lock();
        if after < state.compacted {
            return Err(Error::Compacted { requested: after, oldest: state.compacted });
        }
        let first = state.history.partition_point(|e| e.revision <= after);
        let entries = state.history.range(first..).take_while(|e| e.revision <= until);
        Ok(entries.flat_map(|e| e.events.iter()).filter(|e| e.kv.key.starts_with(prefix)).cloned().collect())
    }

    pub(super) fn watch(&self, prefix: Bytes, from: Revision) -> Result<WatchStream, Error> {
        let mut state = self.state.lock();
        let missed: Vec<Events> = missed(&state, from)?.filter_map(|events| under_prefix(events, &prefix)).collect();
        let (send, receive) = mpsc::channel(WATCHER_QUEUE + missed.len());
        for events in missed {
            // The queue has room for all of them.
            let _ = send.try_send(Ok(events));
        }
        state.watchers.retain(|w| !matches!(&w.to, To::Queue(send) if send.is_closed()));
        state.watchers.push(Watcher { prefix, to: To::Queue(send) });
        Ok(ReceiverStream::new(receive))
    }

    pub(super) fn observe(&self, prefix: Bytes, from: Revision, observer: Box<dyn Observer>) -> Result<(), Error> {
        let mut state = self.state.lock();
        let mut watcher = Watcher { prefix, to: To::Observer(observer) };
        if missed(&state, from)?.all(|events| deliver(&mut watcher, events)) {
            state.watchers.push(watcher);
        }
        Ok(())
    }

    pub(super) fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut state = self.state.lock();
        if revision > state.revision {
            return Err(Error::Future { requested: revision, current: state.revision });
        }
        while state.history.front().is_some_and(|e| e.revision <= revision) {
            drop_oldest(&mut state);
        }
        state.compacted = state.compacted.max(revision);
        Ok(())
    }
}

fn cost(event: &Event) -> usize {
    EVENT_BYTES + event.kv.key.len() + event.kv.value.len() + event.previous.as_ref().map_or(0, |p| p.value.len())
}

fn drop_oldest(state: &mut State) {
    if let Some(entry) = state.history.pop_front() {
        state.bytes -= entry.bytes;
        state.compacted = entry.revision;
    }
}

/// The events a watcher of a prefix sees; shares the list when it is all of them.
fn under_prefix(events: &Events, prefix: &[u8]) -> Option<Events> {
    let seen = events.iter().filter(|e| e.kv.key.starts_with(prefix)).count();
    match seen {
        0 => None,
        n if n == events.len() => Some(Arc::clone(events)),
        _ => Some(events.iter().filter(|e| e.kv.key.starts_with(prefix)).cloned().collect()),
    }
}

/// What happened since a revision (0: nothing), as far as it is remembered.
fn missed(state: &State, from: Revision) -> Result<impl Iterator<Item = &Events>, Error> {
    if from <= state.compacted && from != 0 {
        return Err(Error::Compacted { requested: from, oldest: state.compacted + 1 });
    }
    let first = if from == 0 { state.history.len() } else { state.history.partition_point(|e| e.revision < from) };
    Ok(state.history.range(first..).map(|entry| &entry.events))
}

/// Hands events to a watcher; false drops it. The last place of its queue is kept for the reason.
fn deliver(watcher: &mut Watcher, events: &Events) -> bool {
    let Some(events) = under_prefix(events, &watcher.prefix) else { return true };
    match &mut watcher.to {
        To::Observer(observer) => observer.changed(&events),
        To::Queue(send) if send.capacity() <= 1 => {
            let _ = send.try_send(Err(Error::Slow));
            false
        }
        To::Queue(send) => send.try_send(Ok(events)).is_ok(),
    }
}
