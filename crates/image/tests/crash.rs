//! `kill -9` in the middle of imports, removals and container starts: what was acknowledged is there afterwards,
//! and what was not has left nothing. Run as root.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use image::{Config, Store};
use lab::{FILE, Tar, import_layers};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const ROUNDS: u32 = 25;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let [_, role, directory, round] = &arguments[..]
        && role == "victim"
    {
        runtime.block_on(victim(Path::new(directory), round));
    } else if arguments.iter().any(|argument| argument == "--list") {
        println!("killed_in_the_middle: test");
    } else {
        runtime.block_on(killed_in_the_middle());
        println!("test killed_in_the_middle ... ok");
    }
}

fn data(seed: u32) -> Vec<u8> {
    (0..40_000_u32).flat_map(|i| (i.wrapping_mul(seed + 7)).to_le_bytes()).collect()
}

/// Imports and removes without end, saying what is done.
async fn victim(directory: &Path, round: &str) {
    let store = Store::open(Config::new(directory)).unwrap();
    let round: u32 = round.parse().unwrap();
    let say = |text: String| std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
    for i in 0.. {
        let seed = round * 1000 + i;
        let layers = vec![
            Tar::new().file("shared", "shared").end(),
            Tar::new().with("own", FILE, "", &data(seed), |_| {}).end(),
        ];
        let name = format!("image{seed}");
        import_layers(&store, &name, layers).await.unwrap();
        say(format!("+{seed}\n"));
        store.prepare(&format!("c{seed}"), &name).await.unwrap();
        say(format!("c{seed}\n"));
        if i % 3 == 2 {
            say(format!("?{seed}\n"));
            store.remove(&name).await.unwrap();
            say(format!("-{seed}\n"));
            store.remove_snapshot(&format!("c{seed}")).await.unwrap();
        }
    }
}

async fn killed_in_the_middle() {
    let lab = lab::Lab::new();
    let directory = lab.path("store");
    let mut expected = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("victim")
            .arg(&directory)
            .arg(round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut unsure = BTreeSet::new();
        let mut heard = Vec::new();
        // A little later each round, so that the end comes at every step.
        heard.extend(lines.by_ref().take(1 + round as usize % 7));
        for _ in 0..(round as u64 * 7919) % 40_000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        heard.extend(lines);
        child.wait().unwrap();
        for line in &heard {
            let seed: u32 = line[1..].parse().unwrap();
            match &line[..1] {
                "+" => _ = expected.insert(seed),
                "?" => _ = unsure.insert(seed),
                "-" => {
                    expected.remove(&seed);
                    unsure.remove(&seed);
                }
                _ => {}
            }
        }
        let store = lab.open();
        check(&store, &mut expected, &unsure, round).await;
    }
    assert!(expected.len() > 10, "the victims did something: {expected:?}");
}

async fn check(store: &Arc<Store>, expected: &mut BTreeSet<u32>, unsure: &BTreeSet<u32>, round: u32) {
    for snapshot in store.snapshots() {
        store.remove_snapshot(&snapshot.id).await.unwrap();
    }
    for seed in expected.clone() {
        let name = format!("image{seed}");
        if store.status(&name).unwrap().is_none() {
            assert!(unsure.contains(&seed), "round {round}: {name} was acknowledged and is gone");
            expected.remove(&seed);
            continue;
        }
        store.view("check", &name).await.unwrap();
        let lower = store.mount_of("check").unwrap().lower;
        let found = lower.iter().find_map(|layer| fs::read(layer.join("own")).ok());
        assert!(found.unwrap() == data(seed), "round {round}: {name} is damaged");
        store.remove_snapshot("check").await.unwrap();
    }
    // At most one was on its way when the end came, and is here whole or not at all.
    let extra: Vec<_> = store
        .list()
        .into_iter()
        .filter(|image| !expected.iter().any(|seed| image.names[0].contains(&format!("image{seed}:"))))
        .collect();
    assert!(extra.len() <= 1, "round {round}: {extra:?}");
    for image in extra {
        store.remove(&image.id.to_string()).await.unwrap();
    }
    let listed = store.list();
    let used: BTreeSet<_> = listed.iter().flat_map(|image| image.layers.clone()).collect();
    let layers = fs::read_dir(store.root().join("layers")).unwrap().count();
    assert_eq!(layers, used.len(), "round {round}: no layer without an image");
    let blobs = fs::read_dir(store.root().join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs, used.len() + 2 * listed.len(), "round {round}: no content without an image");
    assert_eq!(fs::read_dir(store.root().join("ingest")).unwrap().count(), 0, "round {round}");
}
