//! The contract of `Store`, checked on every implementation.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::embedded::{Config, Embedded};
use store::{Error, Guard, Op, Range, Store, Txn, TxnResult};

fn put(key: &str, value: &str, guard: Guard) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()), guard }
}

fn delete(key: &str, guard: Guard) -> Op {
    Op::Delete { key: Bytes::copy_from_slice(key.as_bytes()), guard }
}

async fn one(store: &dyn Store, op: Op) -> u64 {
    match store.txn(Txn::new(vec![op])).await.unwrap() {
        TxnResult::Done { revision, .. } => revision,
        failed => panic!("{failed:?}"),
    }
}

fn range(prefix: &str, start: &str, limit: usize, revision: Option<u64>) -> Range {
    Range {
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        start: Bytes::copy_from_slice(start.as_bytes()),
        limit,
        revision,
    }
}

async fn keys(store: &dyn Store, range: Range) -> String {
    let found = store.range(range).await.unwrap();
    let list: Vec<String> = found
        .kvs
        .iter()
        .map(|kv| format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value)))
        .collect();
    list.join(" ") + if found.more { " …" } else { "" }
}

async fn next(stream: &mut store::WatchStream) -> Result<String, Error> {
    let events =
        tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event").expect("no end")?;
    let text = |e: &store::Event| {
        let sign = if e.deleted { '-' } else { '+' };
        format!("{sign}{}@{}", String::from_utf8_lossy(&e.kv.key), e.kv.mod_revision)
    };
    Ok(events.iter().map(text).collect::<Vec<_>>().join(" "))
}

async fn suite(store: &dyn Store) {
    revisions_and_guards(store).await;
    ranges_now_and_past(store).await;
    pages_of_the_past(store).await;
    watches(store).await;
    observers(store).await;
}

async fn revisions_and_guards(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    assert_eq!(one(store, put("g/a", "1", Guard::Absent)).await, start + 1);
    let again = store.txn(Txn::new(vec![put("g/b", "x", Guard::None), put("g/a", "2", Guard::Absent)])).await.unwrap();
    let TxnResult::GuardFailed { index: 1, current: Some(current) } = again else { panic!("{again:?}") };
    assert_eq!((current.create_revision, current.mod_revision), (start + 1, start + 1));
    assert!(store.get(b"g/b").await.unwrap().is_none(), "a failed transaction changes nothing");
    assert_eq!(one(store, put("g/a", "2", Guard::Revision(start + 1))).await, start + 2);
    let kv = store.get(b"g/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, &kv.value[..]), (start + 1, start + 2, &b"2"[..]));
    let stale = store.txn(Txn::new(vec![delete("g/a", Guard::Revision(start + 1))])).await.unwrap();
    assert!(matches!(stale, TxnResult::GuardFailed { index: 0, .. }));
    assert_eq!(one(store, delete("g/missing", Guard::None)).await, start + 2, "no change, no revision");
    let both = store.txn(Txn::new(vec![delete("g/a", Guard::None), put("g/c", "3", Guard::None)])).await.unwrap();
    let TxnResult::Done { revision, previous } = both else { panic!("{both:?}") };
    assert_eq!(
        (revision, previous[0].as_ref().map(|p| p.mod_revision), &previous[1]),
        (start + 3, Some(start + 2), &None)
    );
    assert_eq!(store.revision().await.unwrap(), start + 3);
}

async fn ranges_now_and_past(store: &dyn Store) {
    for name in ["a", "b", "c", "d"] {
        one(store, put(&format!("r/{name}"), name, Guard::None)).await;
    }
    let past = store.revision().await.unwrap();
    one(store, put("r/b", "B", Guard::None)).await;
    one(store, delete("r/c", Guard::None)).await;
    one(store, put("r/e", "e", Guard::None)).await;
    for (asked, expected) in [
        (range("r/", "", 0, None), "r/a=a r/b=B r/d=d r/e=e"),
        (range("r/", "", 2, None), "r/a=a r/b=B …"),
        (range("r/", "r/c", 0, None), "r/d=d r/e=e"),
        (range("r/", "", 0, Some(past)), "r/a=a r/b=b r/c=c r/d=d"),
        (range("r/", "r/c", 1, Some(past)), "r/c=c …"),
        (range("r/", "r/c", 2, Some(past)), "r/c=c r/d=d"),
        (range("nothing/", "", 0, None), ""),
    ] {
        assert_eq!(keys(store, asked.clone()).await, expected, "{asked:?}");
    }
    let future = store.range(range("r/", "", 0, Some(past + 1000))).await;
    assert!(matches!(future, Err(Error::Future { .. })), "{future:?}");
}

/// The past in pages of any size is the past at once, whatever came and went since.
async fn pages_of_the_past(store: &dyn Store) {
    let name = |i: usize| format!("p/{:03}", i * 7 % 100);
    for i in 0..60 {
        one(store, put(&name(i), "old", Guard::None)).await;
    }
    let past = store.revision().await.unwrap();
    let whole = keys(store, range("p/", "", 0, None)).await;
    for round in 0..3 {
        for i in 20 * round..20 * round + 20 {
            one(store, delete(&name(i), Guard::None)).await;
            one(store, put(&name(i + 60), "new", Guard::None)).await;
            one(store, put(&name(i), "again", Guard::None)).await;
            one(store, delete(&name(i), Guard::None)).await;
        }
        for size in [1, 3, 20, 59, 60, 61, 1000] {
            let (mut start, mut pages) = (Bytes::new(), Vec::new());
            loop {
                let page = Range { start, ..range("p/", "", size, Some(past)) };
                let found = store.range(page.clone()).await.unwrap();
                assert!(found.kvs.len() <= size && found.revision == past);
                start = found.kvs.last().map(|last| [&last.key[..], &[0]].concat().into()).unwrap_or_default();
                pages.push(keys(store, page).await.replace(" …", ""));
                if !found.more {
                    break;
                }
            }
            assert_eq!(pages.join(" ").trim_end(), whole, "{round} {size}");
            assert_eq!(pages.len(), 60_usize.div_ceil(size), "{round} {size}");
        }
    }
}

/// Writes down what it sees, and goes when told to.
struct Notes(std::sync::Arc<std::sync::Mutex<Vec<String>>>, &'static str);

impl store::Observer for Notes {
    fn changed(&mut self, events: &[store::Event]) -> bool {
        let text = |e: &store::Event| format!("{}@{}", String::from_utf8_lossy(&e.kv.key), e.kv.mod_revision);
        let seen = events.iter().map(text).collect::<Vec<_>>().join(" ");
        let goes_on = !seen.contains(self.1);
        self.0.lock().unwrap().push(seen);
        goes_on
    }

    fn lost(&mut self, error: Error) {
        self.0.lock().unwrap().push(error.to_string());
    }
}

/// An observer has seen a change by the time its writer is answered, the missed ones first.
async fn observers(store: &dyn Store) {
    let first = one(store, put("o/a", "1", Guard::None)).await;
    let notes = std::sync::Arc::default();
    let observer = Box::new(Notes(std::sync::Arc::clone(&notes), "o/last"));
    store.observe(Bytes::from_static(b"o/"), first, observer).await.unwrap();
    one(store, put("elsewhere", "1", Guard::None)).await;
    let second = one(store, put("o/b", "1", Guard::None)).await;
    assert_eq!(*notes.lock().unwrap(), [format!("o/a@{first}"), format!("o/b@{second}")]);
    let last = one(store, put("o/last", "1", Guard::None)).await;
    one(store, put("o/c", "1", Guard::None)).await;
    assert_eq!(notes.lock().unwrap().last(), Some(&format!("o/last@{last}")));
    store.compact(second).await.unwrap();
    let observer = Box::new(Notes(notes, "never"));
    let late = store.observe(Bytes::from_static(b"o/"), first, observer).await;
    assert!(matches!(late, Err(Error::Compacted { .. })), "{late:?}");
}

async fn watches(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    one(store, put("w/a", "1", Guard::None)).await;
    one(store, put("other/a", "1", Guard::None)).await;
    let mut stream = store.watch(Bytes::from_static(b"w/"), start + 1).await.unwrap();
    store
        .txn(Txn::new(vec![put("w/b", "1", Guard::None), put("other/b", "1", Guard::None), delete("w/a", Guard::None)]))
        .await
        .unwrap();
    one(store, put("w/c", "1", Guard::None)).await;
    let expected =
        [format!("+w/a@{}", start + 1), format!("+w/b@{0} -w/a@{0}", start + 3), format!("+w/c@{}", start + 4)];
    for events in expected {
        assert_eq!(next(&mut stream).await.unwrap(), events);
    }
    let mut from_now = store.watch(Bytes::from_static(b"w/"), 0).await.unwrap();
    one(store, put("w/d", "1", Guard::None)).await;
    assert_eq!(next(&mut from_now).await.unwrap(), format!("+w/d@{}", start + 5));
    store.compact(start + 4).await.unwrap();
    let compacted = store.watch(Bytes::from_static(b"w/"), start + 4).await;
    assert!(matches!(compacted, Err(Error::Compacted { .. })), "{compacted:?}");
    let past = store.range(range("w/", "", 0, Some(start + 3))).await;
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
    assert_eq!(
        next(&mut store.watch(Bytes::from_static(b"w/"), start + 5).await.unwrap()).await.unwrap(),
        format!("+w/d@{}", start + 5)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let folder = tempfile::tempdir().unwrap();
    suite(&Embedded::open(Config::new(folder.path())).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_dropped_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(Config::new(folder.path())).unwrap();
    let mut slow = store.watch(Bytes::from_static(b"k"), 0).await.unwrap();
    for i in 0..2000 {
        store.txn(Txn { ops: vec![put("k", &i.to_string(), Guard::None)], relaxed: true }).await.unwrap();
    }
    let mut last = Ok(String::new());
    while last.is_ok() {
        last = next(&mut slow).await;
    }
    assert!(matches!(last, Err(Error::Slow)), "{last:?}");
    assert!(slow.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded_by_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(Config { history_bytes_max: 10_000, ..Config::new(folder.path()) }).unwrap();
    for i in 0..50 {
        one(&store, put(&format!("k{i}"), &"x".repeat(1000), Guard::None)).await;
    }
    assert!(matches!(store.watch(Bytes::new(), 1).await, Err(Error::Compacted { .. })));
    assert!(store.watch(Bytes::new(), 48).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path());
    let store = Embedded::open(config.clone()).unwrap();
    let last = one(&store, put("a", "1", Guard::None)).await;
    assert!(matches!(Embedded::open(config.clone()), Err(Error::InUse(_))));
    drop(store);
    let store = Embedded::open(config).unwrap();
    assert_eq!(store.revision().await.unwrap(), last, "a clean stop skips no number");
    assert_eq!(keys(&store, Range::default()).await, "a=1");
    assert!(matches!(store.watch(Bytes::new(), last).await, Err(Error::Compacted { .. })));
    assert_eq!(one(&store, put("a", "2", Guard::Revision(last))).await, last + 1);
}

/// Many writers, one key each and one in common: every acknowledged change is there, each revision was given once.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_are_serialised() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(Config::new(folder.path())).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for i in 0..50 {
                revisions.push(one(&*store, put(&format!("own/{writer}"), &i.to_string(), Guard::None)).await);
            }
            revisions
        });
    }
    let mut all: Vec<u64> = writers.join_all().await.concat();
    all.sort_unstable();
    assert_eq!(all, (1..=800).collect::<Vec<_>>());
    let names: std::collections::BTreeSet<String> = (0..16).map(|w| format!("own/{w}")).collect();
    let expected: Vec<String> = names.iter().map(|name| format!("{name}=49")).collect();
    assert_eq!(keys(&*store, Range::prefix(&b"own/"[..])).await, expected.join(" "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any sequence of changes, read at any revision, shows what a plain map showed then.
    #[test]
    fn the_past_is_as_it_was(steps in prop::collection::vec((0..6_u8, prop::option::of(0..100_u8)), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let store = Embedded::open(Config::new(folder.path())).unwrap();
            let mut model = BTreeMap::new();
            let mut past = vec![(0, String::new())];
            for (key, value) in steps {
                let key = format!("k{key}");
                let op = match value {
                    Some(v) => { model.insert(key.clone(), v.to_string()); put(&key, &v.to_string(), Guard::None) }
                    None => { model.remove(&key); delete(&key, Guard::None) }
                };
                let revision = one(&store, op).await;
                let shown: Vec<String> = model.iter().map(|(k, v)| format!("{k}={v}")).collect();
                past.retain(|(r, _)| *r != revision);
                past.push((revision, shown.join(" ")));
            }
            for (revision, shown) in past {
                assert_eq!(keys(&store, range("k", "", 0, Some(revision))).await, shown, "at {revision}");
            }
        });
    }
}
