//! `metadata.managedFields`: who owns which fields.

use super::element::json_string;
use super::set::Set;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cmp::Ordering;

/// How many managers that update are told apart; older ones are gathered.
const UPDATERS_MAX: usize = 10;
/// Who owns what is gathered.
const ANCIENT: &str = "ancient-changes";

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One manager of fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// How it came by its fields.
    pub operation: Operation,
    /// The version its fields are of: `apps/v1`.
    pub api_version: String,
    /// The subresource it wrote to, or empty.
    pub subresource: String,
    /// When it last changed something, as written.
    pub time: Option<String>,
    /// Its fields.
    pub fields: Set,
}

impl Manager {
    /// Whether both are the same manager: appliers in whatever version.
    pub fn is(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As it is told in conflicts: `"name" with subresource "status" using v1`.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    /// What upstream sorts managers by that are otherwise equal: their JSON.
    pub(super) fn identity(&self) -> String {
        let mut out = String::from("{");
        let mut member = |name: &str, value: &str| {
            if !value.is_empty() {
                if out.len() > 1 {
                    out.push(',');
                }
                json_string(&mut out, name);
                out.push(':');
                json_string(&mut out, value);
            }
        };
        member("manager", &self.name);
        member("operation", self.operation.as_str());
        member("apiVersion", if self.operation == Operation::Apply { "" } else { &self.api_version });
        member("subresource", &self.subresource);
        out.push('}');
        out
    }

    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(crate::time::parse).map_or(0, jiff::Timestamp::as_second)
    }

    fn order(&self, other: &Manager) -> Ordering {
        (self.operation.cmp(&other.operation))
            .then_with(|| self.seconds().cmp(&other.seconds()))
            .then_with(|| self.name.cmp(&other.name))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(pub Vec<Manager>);

#[derive(serde::Deserialize)]
struct Encoded<'a> {
    #[serde(default)]
    manager: Option<String>,
    #[serde(default)]
    operation: Option<String>,
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default, rename = "fieldsType")]
    fields_type: Option<String>,
    #[serde(default, borrow, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
    #[serde(default)]
    subresource: Option<String>,
}

impl Managers {
    /// Reads the JSON of `metadata.managedFields`.
    pub fn from_json(text: &str) -> Result<Managers, String> {
        let entries: Vec<Encoded<'_>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let managers = entries.into_iter().enumerate().map(|(at, entry)| {
            let fields = entry.fields.map_or("{}", RawValue::get);
            let fields = if fields == "null" { "{}" } else { fields };
            let head = Head {
                name: entry.manager.unwrap_or_default().into(),
                operation: entry.operation.unwrap_or_default().into(),
                api_version: entry.api_version.unwrap_or_default().into(),
                time: entry.time,
                fields_type: entry.fields_type.unwrap_or_default().into(),
                subresource: entry.subresource.unwrap_or_default().into(),
            };
            head.manager(at, || Set::from_json(fields))
        });
        Managers::gathered(managers)
    }

    /// Reads `metadata.managedFields` out of an object.
    pub fn from_value(list: &Value) -> Result<Managers, String> {
        let entries = list.as_array().map_or(&[][..], Vec::as_slice);
        Managers::gathered(entries.iter().enumerate().map(|(at, entry)| {
            let text = |field: &str| Cow::from(entry.get(field).and_then(Value::as_str).unwrap_or_default());
            let head = Head {
                name: text("manager"),
                operation: text("operation"),
                api_version: text("apiVersion"),
                time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
                fields_type: text("fieldsType"),
                subresource: text("subresource"),
            };
            let fields = entry.get("fieldsV1").filter(|fields| !fields.is_null());
            head.manager(at, || fields.map_or_else(|| Ok(Set::default()), Set::from_value))
        }))
    }

    fn gathered(managers: impl Iterator<Item = Result<Manager, String>>) -> Result<Managers, String> {
        let mut all = Managers::default();
        for manager in managers {
            let manager = manager?;
            // Of those who stand twice the last counts.
            all.0.retain(|known| !known.is(&manager));
            all.0.push(manager);
        }
        Ok(all)
    }

    /// Writes the JSON of `metadata.managedFields`, in upstream's order.
    pub fn to_json(&self) -> String {
        let mut sorted: Vec<&Manager> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.order(b));
        let mut out = String::with_capacity(512);
        for manager in sorted {
            out.push(if out.is_empty() { '[' } else { ',' });
            let mut member = |name: &str, value: &str| {
                if !value.is_empty() {
                    out.push(if out.ends_with(['[', ',']) { '{' } else { ',' });
                    json_string(&mut out, name);
                    out.push(':');
                    json_string(&mut out, value);
                }
            };
            member("manager", &manager.name);
            member("operation", manager.operation.as_str());
            member("apiVersion", &manager.api_version);
            member("time", manager.time.as_deref().unwrap_or_default());
            member("fieldsType", "FieldsV1");
            out.push_str(",\"fieldsV1\":");
            out.push_str(&manager.fields.to_json());
            if !manager.subresource.is_empty() {
                out.push_str(",\"subresource\":");
                json_string(&mut out, &manager.subresource);
            }
            out.push('}');
        }
        if out.is_empty() {
            return "[]".to_owned();
        }
        out.push(']');
        out
    }

    pub(super) fn position(&self, manager: &Manager) -> Option<usize> {
        self.0.iter().position(|known| known.is(manager))
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|manager| !manager.fields.is_empty());
    }

    /// Gathers the oldest managers of each version when too many have updated.
    pub(super) fn cap(&mut self) {
        let updaters = |managers: &[Manager]| managers.iter().filter(|m| m.operation == Operation::Update).count();
        let mut count = updaters(&self.0);
        if count <= UPDATERS_MAX {
            return;
        }
        let mut oldest: Vec<Manager> =
            self.0.iter().filter(|manager| manager.operation == Operation::Update).cloned().collect();
        oldest.sort_by_cached_key(|manager| (manager.seconds(), manager.identity()));
        let mut first: Vec<Manager> = Vec::new();
        for manager in oldest {
            if count <= UPDATERS_MAX {
                return;
            }
            let Some(bucket_of) = first.iter().find(|known| known.api_version == manager.api_version) else {
                first.push(manager);
                continue;
            };
            let bucket = Manager {
                name: ANCIENT.to_owned(),
                subresource: String::new(),
                time: manager.time.clone(),
                ..bucket_of.clone()
            };
            let known = self.0.iter().find(|known| known.is(&bucket)).map(|known| known.fields.clone());
            let fields = known.unwrap_or_else(|| bucket.fields.clone()).union(&manager.fields);
            let gone = [bucket_of.clone(), manager, bucket.clone()];
            self.0.retain(|known| !gone.iter().any(|gone| gone.is(known)));
            self.0.push(Manager { fields, ..bucket });
            count = updaters(&self.0);
        }
    }

    /// Whether nothing differs but times.
    pub fn same_but_times(&self, other: &Managers) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|manager| {
                other
                    .0
                    .iter()
                    .any(|o| o.is(manager) && o.api_version == manager.api_version && o.fields == manager.fields)
            })
    }
}

struct Head<'a> {
    name: Cow<'a, str>,
    operation: Cow<'a, str>,
    api_version: Cow<'a, str>,
    time: Option<String>,
    fields_type: Cow<'a, str>,
    subresource: Cow<'a, str>,
}

impl Head<'_> {
    fn manager(self, at: usize, fields: impl FnOnce() -> Result<Set, String>) -> Result<Manager, String> {
        let operation = match &*self.operation {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if self.api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match &*self.fields_type {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        Ok(Manager {
            operation,
            name: self.name.into_owned(),
            api_version: self.api_version.into_owned(),
            subresource: self.subresource.into_owned(),
            time: self.time,
            fields: fields()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str, field: &str, second: usize) -> Manager {
        Manager {
            name: name.to_owned(),
            operation: Operation::Update,
            api_version: "v1".to_owned(),
            subresource: String::new(),
            time: Some(format!("2026-01-01T00:00:{second:02}Z")),
            fields: Set::of(&["data", field]),
        }
    }

    #[test]
    fn encoding() {
        let mut applier = manager("b<", "x", 1);
        applier.operation = Operation::Apply;
        applier.subresource = "status".to_owned();
        let all = Managers(vec![manager("z", "a", 3), manager("y", "b", 2), applier]);
        let text = all.to_json();
        assert_eq!(
            text,
            r#"[{"manager":"b\u003c","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:01Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:x":{}}},"subresource":"status"},{"manager":"y","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:02Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:b":{}}}},{"manager":"z","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:03Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}]"#
        );
        let read = Managers::from_json(&text).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(Managers::from_value(&serde_json::from_str(&text).unwrap()).unwrap(), read);
        assert_eq!(read.0[0].identity(), r#"{"manager":"b\u003c","operation":"Apply","subresource":"status"}"#);
        assert_eq!(Managers::default().to_json(), "[]");
    }

    #[test]
    fn bad_entries() {
        for bad in [
            r#"[{"operation":"Paint","apiVersion":"v1","fieldsType":"FieldsV1"}]"#,
            r#"[{"operation":"Update","fieldsType":"FieldsV1"}]"#,
            r#"[{"operation":"Update","apiVersion":"v1","fieldsType":"FieldsV2"}]"#,
            r#"[{"operation":"Update","apiVersion":"v1"}]"#,
            r#"[{"operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"x":{}}}]"#,
            r"[{}]",
        ] {
            assert!(Managers::from_json(bad).is_err(), "{bad}");
            assert!(Managers::from_value(&serde_json::from_str(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_oldest_are_gathered() {
        let mut all = Managers((0..13).map(|i| manager(&format!("m{i:02}"), &format!("f{i}"), i)).collect());
        all.cap();
        assert_eq!(all.0.len(), UPDATERS_MAX);
        let ancient = all.0.iter().find(|manager| manager.name == ANCIENT).unwrap();
        assert_eq!(ancient.fields.to_json(), r#"{"f:data":{"f:f0":{},"f:f1":{},"f:f2":{},"f:f3":{}}}"#);
        assert_eq!(ancient.time.as_deref(), Some("2026-01-01T00:00:03Z"));
        assert!(all.0.iter().all(|manager| !matches!(&*manager.name, "m00" | "m01" | "m02" | "m03")));
    }
}
