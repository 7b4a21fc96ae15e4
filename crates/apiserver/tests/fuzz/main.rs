//! Fuzzing: whatever a stranger sends to a decoder, it answers in time and memory, and never crashes.
//!
//! `cargo test -p apiserver --test fuzz -- [SECONDS] [TARGET...]`, the seeds alone without SECONDS. Each target runs in a child with bounds on
//! its memory and the stack that the program's threads have, from the seeds under `seeds/TARGET`; an input that leads to an answer not
//! seen before becomes a seed for the rest of the run. No compiler but the stable one is needed. What crashes is printed and kept as a file,
//! to be put among the seeds when it is mended; `KIJABI_FUZZ_SEED` repeats a run.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail by it"
)]

mod mutate;
#[path = "../secured/mod.rs"]
mod secured;
mod targets;

use fastrand::Rng;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An input that takes longer grows faster than it should: this is an unoptimized program on a busy machine.
const SLOW: Duration = Duration::from_secs(8);
/// The stack of the program's threads.
const STACK_BYTES: usize = 2 << 20;
/// What a child may have of memory, in KiB.
const MEMORY_KIB: usize = 4 << 20;
/// How long beyond its time a child may take to start and end.
const GRACE: Duration = Duration::from_secs(90);
/// Inputs kept, at most.
const KEPT_MAX: usize = 3_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [word, target, seconds, seed, current] = &arguments[..]
        && word == "child"
    {
        child(target, seconds.parse().unwrap(), seed.parse().unwrap(), Path::new(current));
        return ExitCode::SUCCESS;
    }
    let seconds = arguments.first().and_then(|text| text.parse().ok());
    let wanted: Vec<&String> = arguments.iter().skip(usize::from(seconds.is_some())).collect();
    let names = targets::NAMES.iter().filter(|name| wanted.is_empty() || wanted.contains(&&(**name).to_owned()));
    let left: Mutex<Vec<&str>> = Mutex::new(names.rev().copied().collect());
    let seed =
        std::env::var("KIJABI_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let folder = tempfile::tempdir().unwrap();
    let failed = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(target) = { left.lock().unwrap().pop() } {
                    if !run(target, seconds.unwrap_or(0), seed, &folder.path().join(target)) {
                        *failed.lock().unwrap() += 1;
                    }
                }
            });
        }
    });
    match *failed.lock().unwrap() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs one target in a child; whether it held.
fn run(target: &str, seconds: u64, seed: u64, current: &Path) -> bool {
    let program = std::env::current_exe().unwrap();
    let bounded = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &bounded])
        .arg(program)
        .args(["child", target, &seconds.to_string(), &seed.to_string()])
        .arg(current)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(seconds) + GRACE;
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            // Nothing tells of a child's end but the asking.
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if ended.is_some_and(|status| status.success()) {
        return true;
    }
    drop((child.kill(), child.wait()));
    let input = std::fs::read(current).unwrap_or_default();
    let kept = std::env::temp_dir().join(format!("kijabi-fuzz-{target}-{:08x}", hash(&input)));
    drop(std::fs::write(&kept, &input));
    let shown = String::from_utf8_lossy(&input[..input.len().min(2_000)]).into_owned();
    let how = ended.map_or("did not end".to_owned(), |status| status.to_string());
    println!(
        "fuzz {target}: {how}; seed {seed}; the input of {} bytes is kept as {}:\n{shown}",
        input.len(),
        kept.display()
    );
    false
}

fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn child(target: &str, seconds: u64, seed: u64, current: &Path) {
    let (target, current) = (target.to_owned(), current.to_owned());
    let work = std::thread::Builder::new().stack_size(STACK_BYTES);
    let end = work.spawn(move || fuzz(&target, seconds, seed, &current)).unwrap().join();
    if end.is_err() {
        std::process::abort();
    }
}

fn fuzz(name: &str, seconds: u64, seed: u64, current: &Path) {
    let (target, mut kept) = targets::open(name);
    kept.extend(seeds(name));
    assert!(!kept.is_empty(), "{name} has no seeds");
    let mut rng = Rng::with_seed(seed ^ u64::from(hash(name.as_bytes())));
    let mut seen: HashSet<u32> = HashSet::new();
    let (mut runs, mut slowest) = (0_u64, Duration::ZERO);
    let mut one = |input: &[u8], seen: &mut HashSet<u32>| -> bool {
        std::fs::write(current, input).unwrap();
        let began = Instant::now();
        let answer = target(input);
        let took = began.elapsed();
        assert!(took < SLOW, "{name}: an input of {} bytes takes {took:?}", input.len());
        (runs, slowest) = (runs + 1, slowest.max(took));
        // Numbers and texts of the input are no news.
        let shape: Vec<u8> = answer.bytes().filter(|byte| !byte.is_ascii_digit()).take(160).collect();
        seen.insert(hash(&shape))
    };
    for input in kept.clone() {
        one(&input, &mut seen);
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (input, other) = (&kept[rng.usize(0..kept.len())], &kept[rng.usize(0..kept.len())]);
        let input = mutate::mutate(&mut rng, input, other);
        if one(&input, &mut seen) && kept.len() < KEPT_MAX && input.len() < 16 << 10 {
            kept.push(input);
        }
    }
    println!("fuzz {name}: {runs} inputs, {} kinds of answers, the slowest in {slowest:?}; seed {seed}", seen.len());
}

/// The files under `seeds/TARGET`.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}
