//! Gathers what the fields of the built-in kinds mean from the sources of `k8s-openapi`, for `kubectl explain`.
//!
//! The crate carries upstream's texts in its JSON schemas, which are behind a feature that would make code of them. So they are
//! read out of its source: a record `MODEL\tFIELD\tTEXT\0` each, sorted, the field empty for the model itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let mut texts = BTreeMap::new();
    match source() {
        Some(source) => read_folder(&source, &mut texts),
        None => println!("cargo::warning=k8s-openapi is not to be found: kubectl explain will have no descriptions"),
    }
    let records: String = texts.iter().map(|(key, text)| format!("{key}\t{text}\0")).collect();
    // Documents with other texts are other documents.
    let hash = records
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    println!("cargo::rustc-env=DESCRIPTIONS_HASH={hash:016x}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("descriptions.txt");
    fs::write(out, records).expect("the folder of a build can be written");
}

/// The folder of the crate's kinds, by cargo's own account of where its packages are.
fn source() -> Option<PathBuf> {
    let output = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline", "--all-features"])
        .current_dir(env::var_os("CARGO_MANIFEST_DIR")?)
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let package = metadata["packages"].as_array()?.iter().find(|package| package["name"] == "k8s-openapi")?;
    Some(Path::new(package["manifest_path"].as_str()?).parent()?.join("src/v1_37"))
}

fn read_folder(folder: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_folder(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read_file(&fs::read_to_string(&path).unwrap_or_default(), texts);
        }
    }
}

/// Reads the JSON schemas of a source file, by how their generator lays them out.
fn read_file(source: &str, texts: &mut BTreeMap<String, String>) {
    let (mut model, mut field) = (String::new(), String::new());
    for line in source.lines() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        if let Some(name) = code.strip_suffix("\".into()").and_then(|name| name.strip_prefix("\"io.k8s.")) {
            (model, field) = (format!("io.k8s.{name}"), String::new());
        } else if depth == 16
            && let Some((name, _)) = code.strip_prefix('"').and_then(|rest| rest.split_once("\": "))
        {
            name.clone_into(&mut field);
        } else if let Some(text) = description(code).filter(|_| !model.is_empty()) {
            match depth {
                12 => drop(texts.insert(format!("{model}\t"), text)),
                20 if !field.is_empty() => drop(texts.entry(format!("{model}\t{field}")).or_insert(text)),
                _ => {}
            }
        }
    }
}

fn description(code: &str) -> Option<String> {
    let plain = code.strip_prefix("\"description\": \"").and_then(|rest| rest.strip_suffix("\","));
    let inserted = || {
        let rest = code.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), \"")?;
        rest.strip_suffix("\".into());")
    };
    plain.or_else(inserted).map(unescaped)
}

fn unescaped(literal: &str) -> String {
    let (mut out, mut letters) = (String::new(), literal.chars());
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let code: String = letters.by_ref().skip(1).take_while(|letter| *letter != '}').collect();
                    out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
                }
                Some(other) => out.push(other),
                None => {}
            },
            (letter, false) => out.push(letter),
        }
    }
    out
}
