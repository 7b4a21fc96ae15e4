//! The structure that the documents promise: edges between crates, and that every file they name exists.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

type Edges = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `layers.toml`: lines of `name = ["other", …]`.
fn allowed() -> Edges {
    let text = std::fs::read_to_string(root().join("layers.toml")).unwrap();
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (name, list) = line.split_once(" = ").unwrap_or_else(|| panic!("layers.toml: {line}"));
            (name.to_owned(), serde_json::from_str(list).unwrap_or_else(|e| panic!("layers.toml: {name}: {e}")))
        })
        .collect()
}

/// What `cargo metadata` says.
fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1"])
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the manifests say: ordinary dependencies between members of the workspace.
fn actual() -> Edges {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let edges = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        dependencies.filter_map(|d| d["name"].as_str()).filter(|n| members.contains(n)).map(str::to_owned).collect()
    };
    packages.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), edges(p))).collect()
}

#[test]
fn only_the_edges_of_layers_toml() {
    let allowed = allowed();
    for (name, dependencies) in actual() {
        let may = allowed.get(&name).unwrap_or_else(|| panic!("{name} is not in layers.toml"));
        let wrong: Vec<_> = dependencies.difference(may).collect();
        assert!(wrong.is_empty(), "{name} may not depend on {wrong:?}: layers.toml lists what it may");
    }
}

/// The texts in quotes of a list in `deny.toml`, whose head is given.
fn denied(head: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = text.split_once(head).unwrap_or_else(|| panic!("deny.toml has no {head}")).1;
    let list = list.split_once("\n]").unwrap().0;
    let quoted = list.lines().filter_map(|line| line.split('"').nth(1));
    quoted.map(str::to_owned).collect()
}

/// What `cargo deny` would say of licences, bans and sources, for those who do not have it.
#[test]
fn dependencies_are_as_deny_toml_allows() {
    let (licences, banned) = (denied("\nallow = ["), denied("\ndeny = ["));
    assert!(licences.contains("MIT") && banned.contains("openssl-sys"));
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().filter_map(|n| n["id"].as_str()).collect();
    for package in metadata["packages"].as_array().unwrap() {
        if !used.contains(package["id"].as_str().unwrap()) {
            continue;
        }
        let name = package["name"].as_str().unwrap();
        assert!(!banned.contains(name), "{name} is banned by deny.toml");
        let source = package["source"].as_str().unwrap_or("registry+ of this workspace");
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        let licence = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // SPDX: AND binds closer than OR, and what stands in parentheses is taken together.
        let known = |one: &str| licences.contains(one.trim_matches(['(', ')', ' ']));
        let allowed = if licence.contains('(') {
            licence.split(" AND ").all(|part| part.split(" OR ").any(known))
        } else {
            licence.split(" OR ").any(|part| part.split(" AND ").all(known))
        };
        assert!(allowed, "{name} is licensed {licence:?}");
    }
}

#[test]
fn the_edges_go_down() {
    let allowed = allowed();
    let text = std::fs::read_to_string(root().join("layers.toml")).unwrap();
    let order = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = ").map(|(n, _)| n));
    let mut above = BTreeSet::new();
    for name in order {
        above.insert(name.to_owned());
        let up: Vec<_> = allowed[name].intersection(&above).collect();
        assert!(up.is_empty(), "{name} depends on {up:?}, which stands above it");
    }
}

/// Names in backquotes that look like files or folders of the repository.
fn named_paths(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|t| {
            ["crates/", "docs/", "tools/", "tests/", "bench/", "conformance/", "examples/"]
                .iter()
                .any(|p| t.starts_with(p))
        })
        .map(|t| t.split_once("::").map_or(t, |(path, _)| path))
        .filter(|t| !t.contains(['*', ' ', '<', '{']))
        .collect()
}

#[test]
fn the_documents_name_what_exists() {
    let mut documents = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    documents.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    for document in &documents {
        let text = std::fs::read_to_string(document).unwrap();
        for path in named_paths(&text) {
            assert!(root().join(path).exists(), "{} names {path}, which does not exist", document.display());
        }
    }
    let architecture = std::fs::read_to_string(&documents[1]).unwrap();
    for name in actual().keys() {
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md does not describe {name}");
    }
}
