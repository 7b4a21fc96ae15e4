//! Objects as the cache holds them: encoded bytes, and a parsed head to select by.

use crate::encode;
use bytes::Bytes;
use machinery::protobuf;
use machinery::schema::TypeRef;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A stored object as it goes out on the wire, in its storage version, with its `resourceVersion` in place.
#[derive(Clone, Debug)]
pub struct Object {
    /// Revision of its last change.
    pub revision: u64,
    /// The encoded JSON.
    pub body: Bytes,
}

impl Object {
    /// Encodes an object as it is at a revision.
    pub(crate) fn encoded(object: &Value, revision: u64) -> Object {
        Object { revision, body: encode::splice(&encode::encode(object), revision) }
    }

    /// Decodes it. What is stored was encoded by us, so this cannot fail short of memory corruption, which yields `null`.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A cached object and what it can be selected by. Costs its encoded size plus about 200 bytes.
#[derive(Debug)]
pub struct Entry {
    /// `NAMESPACE/NAME`, or `NAME` for kinds of the whole cluster.
    pub key: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its labels, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Its values for the selectable fields of its kind.
    fields: Box<[Box<str>]>,
    /// What they are called.
    names: Option<FieldNames>,
    /// Its creation, in seconds since 1970 (0 when unknown).
    pub created: i64,
    /// Revision and encoded bytes.
    pub object: Object,
    /// The change that made it so, as a line of the watch protocol; `object` is a slice of it.
    pub(crate) line: Bytes,
    /// Its protobuf message, once somebody asked for it.
    message: OnceLock<Box<[u8]>>,
}

impl Entry {
    /// The object's namespace; empty for kinds of the whole cluster.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[found].1)
    }

    /// The value of a selectable field.
    pub fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => {
                let at = self.names.as_ref()?.iter().position(|name| name == field)?;
                self.fields.get(at).map(|value| &**value)
            }
        }
    }

    /// Its protobuf message, encoded once for all who ask. `ty` is the type of the version it is stored in.
    pub(crate) fn message(&self, ty: TypeRef<'_>) -> &[u8] {
        self.message.get_or_init(|| protobuf::encode_message(&self.value(), ty).into())
    }

    /// The decoded object.
    pub fn value(&self) -> Value {
        self.object.value()
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the entry is its last state, with the revision of the deletion.
    Deleted,
}

impl EventType {
    /// The word of the watch protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change, shared by all watchers.
#[derive(Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventType,
    /// The object after the change (before it, when deleted).
    pub entry: Arc<Entry>,
    /// The object before a modification, so that selectors can tell who enters and who leaves.
    pub previous: Option<Arc<Entry>>,
}

impl WatchEvent {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.entry.object.revision
    }
}

#[derive(Default, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(default)]
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    #[serde(borrow, default, rename = "creationTimestamp")]
    created: Option<Cow<'a, str>>,
}

impl Entry {
    /// Reads the head of what the store holds. `fields` gives the selectable fields, for kinds that have any.
    pub(crate) fn parse(
        kind: EventType,
        key: &str,
        stored: &[u8],
        revision: u64,
        fields: Option<&SelectableFields>,
    ) -> Entry {
        let metadata = encode::metadata(stored).and_then(|text| serde_json::from_slice(text).ok());
        let head: Metadata<'_> = metadata.unwrap_or_default();
        let values = fields.map(|fields| (fields.values)(&crate::parts::split(stored).0));
        let created = head.created.as_deref().and_then(machinery::time::parse);
        let (line, body) = encode::splice_line(kind.as_str(), stored, revision);
        Entry {
            key: key.into(),
            uid: head.uid.unwrap_or_default().into(),
            labels: head.labels.unwrap_or_default().into_iter().collect(),
            fields: values.unwrap_or_default().into_iter().map(String::into_boxed_str).collect(),
            names: fields.map(|fields| Arc::clone(&fields.names)),
            created: created.map_or(0, jiff::Timestamp::as_second),
            object: Object { revision, body },
            line,
            message: OnceLock::new(),
        }
    }
}

impl Entry {
    /// Its last state, at the revision of its deletion.
    pub(crate) fn deleted(&self, revision: u64) -> Entry {
        let (line, body) = encode::splice_line(EventType::Deleted.as_str(), &self.object.body, revision);
        Entry {
            key: self.key.clone(),
            uid: self.uid.clone(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            names: self.names.clone(),
            created: self.created,
            object: Object { revision, body },
            line,
            message: OnceLock::new(),
        }
    }
}

/// The names of a kind's selectable fields, shared by its objects.
pub(crate) type FieldNames = Arc<[Cow<'static, str>]>;

/// Reads values out of an object.
type Values = dyn Fn(&Value) -> Vec<String> + Send + Sync;

/// The fields that objects of a kind can be selected by, beyond `metadata.name` and `metadata.namespace`.
pub(crate) struct SelectableFields {
    /// What they are called.
    pub(crate) names: FieldNames,
    /// Reads their values out of a stored object, in the order of the names.
    pub(crate) values: Box<Values>,
}
