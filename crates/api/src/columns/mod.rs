//! How `kubectl get` shows objects: the columns of each kind and the cells of an object.

mod core;
mod network;
mod pods;
mod policy;
mod workloads;

use crate::look::Look;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Upstream's columns of each kind with printers of its own, by `tools/schemagen`.
const TEXT: &str = include_str!("../../data/columns.txt");

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// The heading, as upstream spells it: `Up-to-date`.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the object's name, or empty.
    pub format: &'static str,
    /// What the column says; upstream's prose is left out.
    pub description: &'static str,
    /// 0 for columns always shown, 1 for those of `-o wide`.
    pub priority: i32,
}

impl ColumnDefinition {
    /// As a `meta.k8s.io/v1` `TableColumnDefinition`.
    pub fn to_value(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description, "priority": self.priority})
    }
}

/// The columns of a kind. Built-in kinds without printers of their own show their name and time of creation, all others their
/// name and age.
pub fn columns(group: &str, kind: &str) -> Vec<ColumnDefinition> {
    if let Some(columns) = table().get(&(group, kind)) {
        return columns.clone();
    }
    let name = column("Name", "string", "name");
    match (group, kind) {
        ("apiregistration.k8s.io", "APIService") => {
            vec![name, column("Service", "string", ""), column("Available", "string", ""), column("Age", "string", "")]
        }
        _ if is_builtin(group, kind) => vec![name, column("Created At", "date", "")],
        _ => vec![name, column("Age", "date", "")],
    }
}

/// The cells of an object, one for each of the columns of its kind.
pub fn row(group: &str, kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = own_cells(group, kind, object, now);
    cells.unwrap_or_else(|| vec![object.text("metadata.name").into(), object.text("metadata.creationTimestamp").into()])
}

fn own_cells(group: &str, kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    match group {
        "" => core::cells(kind, object, now)
            .or_else(|| pods::cells(kind, object, now))
            .or_else(|| network::core(kind, object, now)),
        "apps" | "batch" | "autoscaling" => workloads::cells(kind, object, now),
        "networking.k8s.io" | "discovery.k8s.io" => network::cells(kind, object, now),
        "events.k8s.io" => core::cells(kind, object, now),
        _ => policy::cells(group, kind, object, now),
    }
}

fn column(name: &'static str, kind: &'static str, format: &'static str) -> ColumnDefinition {
    ColumnDefinition { name, kind, format, description: "", priority: 0 }
}

fn is_builtin(group: &str, kind: &str) -> bool {
    crate::catalogue::all().iter().any(|r| r.group == group && r.kind == kind)
}

type Columns = HashMap<(&'static str, &'static str), Vec<ColumnDefinition>>;

fn table() -> &'static Columns {
    static TABLE: OnceLock<Columns> = OnceLock::new();
    TABLE.get_or_init(|| TEXT.lines().map(parse).collect())
}

fn parse(line: &'static str) -> ((&'static str, &'static str), Vec<ColumnDefinition>) {
    let mut parts = line.split('\t');
    let key = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let columns = parts.map(|part| {
        let mut facts = part.split('|');
        let mut next = || facts.next().unwrap_or_default();
        let (name, kind, format) = (next(), next(), next());
        ColumnDefinition { name, kind, format, description: "", priority: next().parse().unwrap_or_default() }
    });
    (key, columns.collect())
}

/// The age of an object, or `<unknown>`.
fn age(object: &Value, now: Timestamp) -> Value {
    since(object.text("metadata.creationTimestamp"), now).into()
}

/// How long ago a time was, or `<unknown>`.
fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A number of seconds as kubectl writes it: `3m12s`, `47h`, `3y21d`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A text, or a stand-in for an empty one.
fn or<'a>(text: &'a str, stand_in: &'a str) -> &'a str {
    if text.is_empty() { stand_in } else { text }
}

/// A label selector or a map of labels, as text; `<none>` when empty.
fn labels(object: &Value, path: &str) -> String {
    let pairs: Vec<String> =
        object.entries(path).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The first elements of a list, and how many more there are.
fn clipped(list: &[String], max: usize, empty: &str) -> String {
    match list.len() {
        0 => empty.to_owned(),
        n if n > max => format!("{} + {} more...", list[..max].join(","), n - max),
        _ => list.join(","),
    }
}

/// The names and the images of the containers of a template.
fn containers(object: &Value, path: &str) -> [Value; 2] {
    let column = |field: &str| object.items(path).iter().map(|c| c.text(field)).collect::<Vec<_>>().join(",");
    [column("name").into(), column("image").into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (4 * 3600 + 60, "4h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (751 * 86400, "2y21d"),
            (8 * 365 * 86400, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    /// Each golden object must be shown as upstream shows it, cell by cell.
    #[test]
    fn cells_as_upstream() {
        let (mut count, now) = (0, "2026-11-24T07:00:00Z".parse().unwrap());
        for line in include_str!("../../testdata/objects.jsonl").lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let (group, version) = crate::catalogue::split_api_version(case["in"]["apiVersion"].as_str().unwrap());
            let kind = case["in"]["kind"].as_str().unwrap();
            let Some(expected) = case["cells"].as_array() else { continue };
            let mut value = case["in"].clone();
            let ty = machinery::schema::Schema::builtin().kind(group, version, kind).unwrap();
            machinery::schema::check(&mut value, ty).unwrap();
            crate::default(group, version, kind, &mut value);
            let cells = row(group, kind, &value, now);
            // Upstream gives addresses a cell more than they have columns.
            let expected = &expected[..expected.len().min(columns(group, kind).len())];
            assert_eq!(cells, expected, "{kind} {}", value["metadata"]["name"]);
            assert_eq!(cells.len(), columns(group, kind).len(), "{kind}");
            count += 1;
        }
        assert!(count > 90, "{count}");
    }

    #[test]
    fn kinds_without_printers() {
        let role = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let names = |group, kind| columns(group, kind).iter().map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(names("rbac.authorization.k8s.io", "Role"), ["Name", "Created At"]);
        assert_eq!(names("example.com", "Foo"), ["Name", "Age"]);
        assert_eq!(
            row("rbac.authorization.k8s.io", "Role", &role, Timestamp::now()),
            [json!("r"), json!("2026-01-01T00:00:00Z")]
        );
    }
}
