//! What is wrong with an expression, and where.

use std::fmt::Write;

/// One complaint about an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset in the source.
    pub(crate) at: u32,
    /// What is wrong, in cel-go's words.
    pub message: String,
}

/// What is wrong with an expression: at least one complaint, each shown with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    /// The complaints, in the order of the source.
    pub all: Vec<Issue>,
    text: String,
}

/// Longer lines are not shown.
const SNIPPET_MAX: usize = 16_384;

impl Issues {
    pub(crate) fn new(source: &str, mut all: Vec<Issue>) -> Issues {
        all.sort_by_key(|issue| issue.at);
        let shown: Vec<String> = all.iter().map(|issue| issue.shown(source)).collect();
        Issues { text: shown.join("\n"), all }
    }
}

impl Issues {
    /// Whether the expression is well formed and typed, and only its constants are bad.
    pub fn is_instantiation(&self) -> bool {
        self.all.iter().all(|issue| issue.at == u32::MAX)
    }
}

impl std::fmt::Display for Issues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Issues {}

impl Issue {
    /// A complaint about no place in particular.
    pub(crate) fn plain(message: impl Into<String>) -> Issue {
        Issue::new(u32::MAX, message)
    }

    pub(crate) fn new(at: u32, message: impl Into<String>) -> Issue {
        Issue { at, message: message.into() }
    }

    /// `ERROR: <input>:LINE:COLUMN: …` with the line and a mark below it.
    fn shown(&self, source: &str) -> String {
        if self.at == u32::MAX {
            return self.message.clone();
        }
        let at = (self.at as usize).min(source.len());
        let before = &source[..at];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = source[start..].split('\n').next().unwrap_or_default();
        let column = before[start..].chars().count();
        let row = before.matches('\n').count() + 1;
        let mut text = format!("ERROR: <input>:{row}:{}: {}", column + 1, self.message);
        if line.len() > SNIPPET_MAX {
            return text;
        }
        let _ = write!(text, "\n | {}\n | ", line.replace('\t', " "));
        for c in line.chars().take(column) {
            text.push(if c.is_ascii() { '.' } else { '\u{ff0e}' });
        }
        text.push(if line.chars().nth(column).is_none_or(|c| c.is_ascii()) { '^' } else { '\u{ff3e}' });
        text
    }
}
