//! Every case that upstream's API server was asked (`conformance/differential`), asked here: same answers, or a listed difference.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that tells what differs")]

mod answer;
mod listed;
mod replay;
#[path = "../secured/mod.rs"]
mod secured;

use listed::Listed;
use replay::Outcome;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the cases, upstream's answers and the listed differences are.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

/// With `DIFFERENTIAL=write` the list of differences is written anew; with the beginning of cases, as
/// `DIFFERENTIAL='pods/full create /spec/volumes'`, their differences are shown.
#[tokio::test(flavor = "multi_thread")]
async fn as_upstream() {
    let asked = std::env::var("DIFFERENTIAL").unwrap_or_default();
    let show = (!asked.is_empty() && asked != "write").then_some(asked.as_str());
    let groups = replay::all(show).await;
    if let Some(beginning) = show {
        for outcome in groups.values().flatten().filter(|o| o.id.starts_with(beginning)) {
            print!("{}", outcome.shown());
        }
    } else {
        summary(&groups);
    }
    let mut wrong = Vec::new();
    for (group, outcomes) in &groups {
        let mut listed = Listed::read(&folder().join("differences").join(format!("{group}.txt")));
        let differ = outcomes.iter().filter(|outcome| outcome.differs()).map(|outcome| outcome.id.as_str());
        if asked == "write" {
            listed.update(differ);
        } else if show.is_none() {
            wrong.extend(listed.wrong(differ).into_iter().map(|text| format!("{group}: {text}")));
        }
    }
    for outcome in groups.values().flatten().filter(|o| wrong.iter().any(|text| text.ends_with(&o.id))).take(20) {
        print!("{}", outcome.shown());
    }
    assert!(wrong.is_empty(), "{} cases: {:#?}", wrong.len(), wrong.iter().take(40).collect::<Vec<_>>());
}

fn summary(groups: &BTreeMap<String, Vec<Outcome>>) {
    let mut kinds: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (group, outcome) in groups.iter().flat_map(|(group, outcomes)| outcomes.iter().map(move |o| (group, o))) {
        let kind = outcome.id.split('/').next().unwrap_or_default();
        let counts = kinds.entry((group.as_str(), kind)).or_default();
        counts.0 += 1;
        counts.1 += usize::from(outcome.differs());
    }
    println!("{:14}{:38}{:>8}{:>8}{:>10}", "group", "kind", "cases", "same", "different");
    for ((group, kind), (cases, different)) in &kinds {
        println!("{group:14}{kind:38}{cases:>8}{:>8}{different:>10}", cases - different);
    }
    let (cases, different) = kinds.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    println!("{:52}{cases:>8}{:>8}{different:>10}", "all", cases - different);
}
