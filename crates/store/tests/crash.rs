//! What the store promises when the program is killed, the disk is full, or a file is torn.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use store::embedded::{Config, Embedded};
use store::{Error, Guard, Op, Range, Store, Txn, TxnResult};

const CHILD: &str = "STORE_CRASH_TEST_FOLDER";

fn put(key: String, value: Vec<u8>) -> Op {
    Op::Put { key: key.into(), value: value.into(), guard: Guard::None }
}

/// In the child process: writers that print what was acknowledged, until killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_writes_until_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let store = std::sync::Arc::new(Embedded::open(Config::new(folder)).unwrap());
    println!("\nopen {}", store.revision().await.unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = std::sync::Arc::clone(&store);
        writers.spawn(async move {
            for i in 0_u64.. {
                let op = put(format!("w/{writer}"), i.to_string().into_bytes());
                let done = store.txn(Txn { ops: vec![op], relaxed: writer == 0 }).await.unwrap();
                let TxnResult::Done { revision, .. } = done else { panic!("no guard was given") };
                println!("\nack {writer} {i} {revision}");
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

/// Runs the child until it has acknowledged some writes, kills it, and gives the last acknowledged for each writer.
fn killed_after(folder: &Path, acknowledgements: usize) -> (u64, BTreeMap<u64, u64>, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_killed", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut opened, mut last, mut highest, mut seen) = (None, BTreeMap::new(), 0, 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // A line that the kill tore is not an acknowledgement anybody read.
    for line in lines.by_ref().map_while(Result::ok) {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["open", revision] => opened = revision.parse().ok(),
            ["ack", writer, value, revision] => {
                let (Ok(writer), Ok(value), Ok(revision)) = (writer.parse(), value.parse(), revision.parse::<u64>())
                else {
                    continue;
                };
                last.insert(writer, value);
                highest = highest.max(revision);
                seen += 1;
                if seen == acknowledgements {
                    child.kill().unwrap();
                    break;
                }
            }
            _ => {}
        }
    }
    child.wait().unwrap();
    (opened.expect("the child opened the store"), last, highest)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_in_a_loop_loses_nothing_acknowledged() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut highest_before = 0;
    for round in 1..=12 {
        let (opened, last, highest) = killed_after(folder.path(), 60 * round);
        assert!(opened >= highest_before, "revisions went back: {opened} after {highest_before}");
        highest_before = highest.max(opened);
        let store = Embedded::open(Config::new(folder.path())).unwrap();
        assert!(store.revision().await.unwrap() >= highest_before, "revisions went back");
        for (writer, acknowledged) in last {
            let stored = store.get(format!("w/{writer}").as_bytes()).await.unwrap().expect("acknowledged");
            let stored: u64 = std::str::from_utf8(&stored.value).unwrap().parse().unwrap();
            assert!(stored >= acknowledged, "writer {writer}: {acknowledged} was acknowledged, {stored} is there");
        }
        highest_before = store.revision().await.unwrap();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A small filesystem of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Bytes that no compression makes fewer (xorshift).
fn incompressible(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

async fn fill(store: &Embedded) -> Error {
    for i in 0..4000 {
        let noise = incompressible(i, 100_000);
        if let Err(error) = store.txn(Txn::new(vec![put(format!("fill/{i}"), noise)])).await {
            return error;
        }
    }
    panic!("the disk never filled up");
}

async fn first_keys(store: &Embedded) -> usize {
    store.range(Range::prefix(&b"fill/"[..])).await.unwrap().kvs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_takes_deletes() {
    assert!(is_root(), "this test mounts a filesystem: run it as root");
    let disk = SmallDisk::new(200);
    let config = Config { history_bytes_max: 1 << 20, ..Config::new(disk.0.path().join("store")) };
    let store = Embedded::open(config.clone()).unwrap();
    let error = fill(&store).await;
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let kept = first_keys(&store).await;
    let gone = Op::Delete { key: Bytes::from_static(b"fill/0"), guard: Guard::None };
    assert!(matches!(store.txn(Txn::new(vec![gone])).await, Ok(TxnResult::Done { .. })));
    drop(store);
    let store = Embedded::open(Config { free_bytes_min: 0, ..config }).unwrap();
    assert_eq!(first_keys(&store).await, kept - 1);
}

/// Without the reserve the engine itself hits the end of the disk: the write fails, nothing acknowledged is lost, and when
/// there is room again writes succeed without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_full_under_the_engine_is_survived() {
    assert!(is_root(), "this test mounts a filesystem: run it as root");
    let disk = SmallDisk::new(80);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    let config = Config { free_bytes_min: 0, history_bytes_max: 1 << 20, ..Config::new(disk.0.path().join("store")) };
    let store = Embedded::open(config).unwrap();
    let error = fill(&store).await;
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    assert!(error.to_string().contains("cannot be used"), "{error}");
    std::fs::remove_file(&ballast).unwrap();
    let before = first_keys(&store).await;
    let done = store.txn(Txn::new(vec![put("after".to_owned(), b"x".to_vec())])).await;
    assert!(matches!(done, Ok(TxnResult::Done { .. })), "{done:?}");
    assert!(first_keys(&store).await >= before);
}

fn journal(folder: &Path) -> std::path::PathBuf {
    let mut journals: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "jnl"))
        .collect();
    journals.sort();
    journals.pop().expect("a journal")
}

/// A batch that was being written when the power went is dropped as a whole; all before it are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_journal_loses_only_its_tail() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let store = Embedded::open(Config::new(folder.path())).unwrap();
    for i in 0..20 {
        store.txn(Txn::new(vec![put(format!("k/{i:02}"), vec![b'x'; 100])])).await.unwrap();
    }
    let copied = Command::new("cp").arg("-a").arg(folder.path().join(".")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let torn = journal(copy.path());
    let length = content_length(&torn);
    std::fs::OpenOptions::new().write(true).open(&torn).unwrap().set_len(length - 30).unwrap();
    let reopened = Embedded::open(Config::new(copy.path())).unwrap();
    let kept = reopened.range(Range::prefix(&b"k/"[..])).await.unwrap().kvs.len();
    assert_eq!(kept, 19);
    assert!(reopened.revision().await.unwrap() >= 20);
}

/// The journal is allocated ahead: where its content ends.
fn content_length(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    bytes.iter().rposition(|b| *b != 0).map_or(0, |p| p as u64 + 1)
}

#[test]
fn rubbish_is_refused_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    drop(Embedded::open(Config::new(folder.path())).unwrap());
    std::fs::write(folder.path().join("version"), b"rubbish").unwrap();
    let error = Embedded::open(Config::new(folder.path())).err().expect("refused").to_string();
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
}
