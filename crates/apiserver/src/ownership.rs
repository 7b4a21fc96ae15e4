//! Who owns which fields of an object: `metadata.managedFields` on the way through a write.
//!
//! Inside a write the list travels apart from the object: decoded only when it changes, encoded once. What a writer owns is what
//! differs between the object as it was and as it was sent, before admission and strategy change it.

use crate::call::Call;
use crate::meta;
use crate::served::Served;
use crate::storage::Object;
use crate::strategy::Part;
use crate::typing::Typing;
use machinery::apply::{AnyPlace, Builtin, Manager, Managers, Operation, Set, Versions, Write, compare};
use machinery::schema::Schema;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The longest name of a manager, in bytes.
pub(crate) const MANAGER_BYTES_MAX: usize = 128;

/// An object as it is, before a write changes it.
pub(crate) struct Live {
    /// In the working form, without managed fields.
    pub(crate) object: Value,
    /// The text of the managed fields.
    pub(crate) managed: Option<Box<str>>,
}

impl Live {
    /// In the served version, without managed fields.
    pub(crate) fn served(&self, served: &Served) -> Cow<'_, Value> {
        match served.conversion {
            None => Cow::Borrowed(&self.object),
            Some(_) => Cow::Owned(served.served_form(self.object.clone())),
        }
    }

    /// In the served version, with everything.
    pub(crate) fn whole(&self, served: &Served) -> Value {
        let mut object = self.served(served).into_owned();
        if let Some(list) = self.managed.as_deref().and_then(|text| serde_json::from_str(text).ok()) {
            meta::metadata(&mut object).insert("managedFields".to_owned(), list);
        }
        object
    }

    pub(crate) fn managers(&self) -> Managers {
        self.managed.as_deref().and_then(|text| Managers::from_json(text).ok()).unwrap_or_default()
    }
}

/// What a write makes of an object, in the served version.
pub(crate) struct Written {
    pub(crate) object: Value,
    /// Who owns what then, where that is known; else it follows from what changed.
    pub(crate) managers: Option<Managers>,
}

impl From<Value> for Written {
    fn from(object: Value) -> Written {
        Written { object, managers: None }
    }
}

/// The versions of the kind of a request, and what the write of a part can change.
pub(crate) struct Kinds<'a> {
    pub(crate) call: &'a Call,
    pub(crate) part: Part,
}

impl Kinds<'_> {
    /// The kind in another version of its group.
    fn other(&self, version: &str) -> Option<std::sync::Arc<Served>> {
        let resource = &self.call.served.resource;
        let (group, version) = api::catalogue::split_api_version(version);
        if group != &*resource.group {
            return None;
        }
        self.call.api.catalogue().find(group, version, &resource.plural).ok()
    }
}

impl<'a> Versions<'a> for Kinds<'a> {
    type Place = AnyPlace<'a>;

    fn place(&self, version: &str) -> Option<AnyPlace<'a>> {
        let call = self.call;
        let builtin = |ty| AnyPlace::Builtin(Builtin::new(ty));
        match &call.served.typing {
            Typing::Custom(custom) => custom.sibling(version).map(|schema| AnyPlace::custom(schema.root())),
            Typing::Builtin(ty) if version == call.served.api_version => Some(builtin(*ty)),
            Typing::Builtin(_) => self.other(version)?.typing.builtin().map(builtin),
        }
    }

    fn convert<'v>(&self, object: &'v Value, version: &str) -> Option<Cow<'v, Value>> {
        let given = meta::text_at(object, &["apiVersion"]);
        if given == version {
            return Some(Cow::Borrowed(object));
        }
        let own = &self.call.served;
        if let Some(custom) = own.custom() {
            return custom.renamed(object, version).map(Cow::Owned);
        }
        let stored = if given == own.api_version {
            own.working_form(object.clone())
        } else {
            self.other(given)?.working_form(object.clone())
        };
        if version == own.api_version {
            return Some(Cow::Owned(own.served_form(stored)));
        }
        Some(Cow::Owned(self.other(version)?.served_form(stored)))
    }

    fn writable(&self, fields: Set, _: &str) -> Set {
        self.call.served.strategy.writable(self.part, fields)
    }
}

impl Call {
    /// Who writes: as the client says, or else by its user agent.
    pub(crate) fn manager(&self, operation: Operation) -> Manager {
        let name = match self.query.get("fieldManager") {
            Some(name) => name.to_owned(),
            None => agent_name(&self.user_agent),
        };
        Manager {
            name: if name.is_empty() { "unknown".to_owned() } else { name },
            operation,
            api_version: self.served.api_version.clone(),
            subresource: self.attributes.subresource.clone(),
            time: None,
            fields: Set::default(),
        }
    }

    /// The object of a kind before it is there.
    pub(crate) fn zero(&self) -> Value {
        let mut zero = self.served.typing.builtin().map_or_else(|| Value::Object(Map::new()), Schema::zero);
        zero["apiVersion"] = self.served.api_version.as_str().into();
        zero["kind"] = (&*self.served.resource.kind).into();
        zero
    }

    /// Who owns a new object, whose own say counts for nothing. `object` is in the served version.
    pub(crate) fn owners_of_new(&self, written: &mut Written) -> Option<Box<str>> {
        meta::metadata(&mut written.object).remove("managedFields");
        if let Some(managers) = written.managers.take() {
            return text(&managers);
        }
        let zero = self.zero();
        let kinds = Kinds { call: self, part: Part::Main };
        let manager = Manager { subresource: String::new(), ..self.manager(Operation::Update) };
        let write = Write { versions: &kinds, version: &self.served.api_version, live: &zero, manager };
        text(&write.update(&written.object, Managers::default(), &machinery::time::now()))
    }

    /// Who owns a changed object. Takes what the client says of that out of it.
    pub(crate) fn owners_of_changed(&self, part: Part, live: &Live, written: &mut Written) -> Option<Box<str>> {
        let said = meta::metadata(&mut written.object).remove("managedFields");
        if let Some(managers) = written.managers.take() {
            return text(&managers);
        }
        // By a subresource nobody says who owns what.
        let said = said.filter(|_| self.attributes.subresource.is_empty());
        let managers = match said {
            Some(said) if resets(&said) => return None,
            // Most clients send back what they got.
            Some(Value::String(text)) if Some(&*text) == live.managed.as_deref() => None,
            Some(Value::String(text)) => Managers::from_json(&text).ok(),
            Some(list) => Managers::from_value(&list).ok(),
            None => None,
        };
        let managers = managers.filter(|managers| !managers.0.is_empty());
        let said = managers.is_some();
        if !said && live.managed.is_none() {
            return None;
        }
        let (kinds, was) = (Kinds { call: self, part }, live.served(&self.served));
        let Some(place) = kinds.place(&self.served.api_version) else { return live.managed.clone() };
        let change = compare(&was, &written.object, place);
        if !said && change.is_empty() {
            return live.managed.clone();
        }
        let managers = managers.unwrap_or_else(|| live.managers());
        if managers.0.is_empty() {
            return None;
        }
        let manager = self.manager(Operation::Update);
        let write = Write { versions: &kinds, version: &self.served.api_version, live: &was, manager };
        text(&write.record(&change, &written.object, managers, &machinery::time::now()))
    }
}

fn text(managers: &Managers) -> Option<Box<str>> {
    (!managers.0.is_empty()).then(|| managers.to_json().into())
}

/// Whether a client asks to forget who owns what: by an empty list, or one empty entry.
fn resets(list: &Value) -> bool {
    if let Value::String(text) = list {
        let small = text.len() < 256;
        return small && serde_json::from_str::<Value>(text).is_ok_and(|list| resets(&list));
    }
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => {
            only.as_object().is_some_and(|entry| entry.values().all(|value| value.is_null() || value == ""))
        }
        _ => false,
    }
}

/// Puts the list into an object that is about to be stored. Where it differs from that of the stored object by times only, and
/// nothing else changed, the times stay, so that nothing is written.
pub(crate) fn put(object: &mut Value, managed: Option<Box<str>>, live: &Live) {
    let before = live.managed.as_deref();
    let only_times = |now: &str, before: &str| {
        let read = |text: &str| Managers::from_json(text).unwrap_or_default();
        now != before && *object == live.object && read(now).same_but_times(&read(before))
    };
    let keeps = matches!((managed.as_deref(), before), (Some(now), Some(before)) if only_times(now, before));
    crate::parts::join(object, if keeps { before } else { managed.as_deref() });
}

/// What of a user agent names the manager: all before the first `/`, without what cannot be printed.
fn agent_name(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let mut out = String::new();
    for letter in name.chars().filter(|letter| !letter.is_control()) {
        if out.len() + letter.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        out.push(letter);
    }
    out
}

impl Object {
    /// The object without managed fields, and the text of these.
    pub(crate) fn split(&self) -> (Value, Option<Box<str>>) {
        crate::parts::split(&self.body)
    }

    /// The object with its managed fields as text in it, to be changed and stored again.
    pub(crate) fn to_change(&self) -> Value {
        let (mut object, managed) = self.split();
        crate::parts::join(&mut object, managed.as_deref());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn agents() {
        for (agent, name) in [
            ("kubectl/v1.37.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("curl", "curl"),
            ("", ""),
            ("/x", ""),
            ("a\u{7}b/c", "ab"),
            (&"é".repeat(100), &*"é".repeat(64)),
        ] {
            assert_eq!(agent_name(agent), name, "{agent}");
        }
    }

    #[test]
    fn resetting() {
        for (list, expected) in [
            (json!([]), true),
            (json!([{}]), true),
            (json!([{"manager": "", "time": null}]), true),
            (json!([{"manager": "a"}]), false),
            (json!([{}, {}]), false),
            (json!(null), false),
            (json!("[ {} ]"), true),
            (json!("[]"), true),
            (json!("[{\"manager\":\"a\"}]"), false),
        ] {
            assert_eq!(resets(&list), expected, "{list}");
        }
    }
}
