//! The list of known differences: blocks of cases below the sentence that explains them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const NEW: &str = "# Not looked at yet.";

/// The list of one group.
pub(crate) struct Listed {
    path: PathBuf,
    /// Explanations, and the cases below each.
    blocks: Vec<(String, BTreeSet<String>)>,
}

impl Listed {
    /// A line is a place, then the changes there that make a difference, with tabs between.
    pub(crate) fn read(path: &Path) -> Listed {
        let mut blocks: Vec<(String, BTreeSet<String>)> = Vec::new();
        let mut above = false;
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            if line.starts_with('#') {
                match blocks.last_mut() {
                    Some((text, _)) if above => *text = format!("{text}\n{line}"),
                    _ => blocks.push((line.to_owned(), BTreeSet::new())),
                }
                above = true;
            } else if let Some((place, changes)) = line.split_once('\t') {
                let (_, cases) = blocks.last_mut().expect("an explanation above the first case");
                cases.extend(changes.split('\t').map(|change| format!("{place}\t{change}")));
                above = false;
            }
        }
        Listed { path: path.to_owned(), blocks }
    }

    fn cases(&self) -> BTreeSet<&str> {
        self.blocks.iter().flat_map(|(_, cases)| cases).map(String::as_str).collect()
    }

    /// Differences that are not listed, and listed ones that are none.
    pub(crate) fn wrong<'a>(&self, differ: impl Iterator<Item = &'a str>) -> Vec<String> {
        let (listed, differ) = (self.cases(), differ.collect::<BTreeSet<_>>());
        let new = differ.difference(&listed).map(|case| format!("differs from upstream: {case}"));
        let gone = listed.difference(&differ).map(|case| format!("listed, and differs no longer: {case}"));
        new.chain(gone).collect()
    }

    /// Takes out what differs no longer, and puts what is new below a heading of its own.
    pub(crate) fn update<'a>(&mut self, differ: impl Iterator<Item = &'a str>) {
        let mut differ: BTreeSet<String> = differ.map(str::to_owned).collect();
        for (_, cases) in &mut self.blocks {
            cases.retain(|case| differ.remove(case));
        }
        match self.blocks.iter_mut().find(|(text, _)| text == NEW) {
            Some((_, cases)) => cases.extend(differ),
            None => self.blocks.push((NEW.to_owned(), differ)),
        }
        self.blocks.retain(|(_, cases)| !cases.is_empty());
        std::fs::write(&self.path, self.to_string()).unwrap();
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (text, cases)) in self.blocks.iter().enumerate() {
            let mut places: BTreeMap<&str, String> = BTreeMap::new();
            for (place, change) in cases.iter().filter_map(|case| case.split_once('\t')) {
                write!(places.entry(place).or_default(), "\t{change}")?;
            }
            writeln!(f, "{}{text}", if index == 0 { "" } else { "\n" })?;
            for (place, changes) in places {
                writeln!(f, "{place}{changes}")?;
            }
        }
        Ok(())
    }
}
