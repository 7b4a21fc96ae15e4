//! What kinds and their fields mean, for `kubectl explain`: upstream's texts, as `build.rs` finds them in `k8s-openapi`, and our own of
//! what they lack.

use machinery::schema::StructRef;

/// Records `MODEL\tFIELD\tTEXT\0`, sorted. Nothing of it is read before somebody asks.
const TEXTS: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.txt"));

/// The description of a field of a struct, where there is one; of the struct itself when `field` is empty.
pub(super) fn of_struct(owner: StructRef<'_>, field: &str) -> &'static str {
    find(TEXTS, &format!("{}\t{field}\t", owner.model_name())).unwrap_or_else(|| of(owner.name(), field))
}

/// The text of the record that begins with a key.
fn find<'t>(texts: &'t str, key: &str) -> Option<&'t str> {
    let (mut low, mut high) = (0, texts.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // The record around the middle.
        let start = texts.as_bytes()[low..middle].iter().rposition(|byte| *byte == 0).map_or(low, |at| low + at + 1);
        let end = texts.as_bytes()[start..high].iter().position(|byte| *byte == 0).map_or(high, |at| start + at);
        let record = texts.get(start..end)?;
        if let Some(text) = record.strip_prefix(key) {
            return Some(text);
        }
        if record < key { low = end + 1 } else { high = start }
    }
    None
}

/// The description of a field that all objects have.
pub(super) fn of(structure: &str, field: &str) -> &'static str {
    match (structure, field) {
        (_, "apiVersion") => "APIVersion defines the version of the schema that this object is written in.",
        ("meta.v1.ObjectMeta" | "meta.v1.ListMeta", _) => metadata(field),
        (_, "kind") => "Kind is what this object represents: the name of its schema.",
        (_, "metadata") => "Standard object's metadata.",
        _ => "",
    }
}

fn metadata(field: &str) -> &'static str {
    match field {
        "annotations" => "Annotations are any text that tools keep with the object; nothing is selected by them.",
        "continue" => "Continue is what the next request must bring to get the rest of the list.",
        "creationTimestamp" => "CreationTimestamp is a timestamp of the server's time when the object was made.",
        "deletionGracePeriodSeconds" => "DeletionGracePeriodSeconds is how long the object may take to end.",
        "deletionTimestamp" => "DeletionTimestamp is when the object is to be gone; nobody can set or take it back.",
        "finalizers" => {
            "Finalizers name who has something to do before the object goes; it stays until the list is empty."
        }
        "generateName" => "GenerateName is the beginning of a name that the server completes, when no name is given.",
        "generation" => "Generation counts the changes of what is wanted.",
        "labels" => "Labels are keys and values that objects are selected by.",
        "managedFields" => "ManagedFields say who set which fields, for server-side apply.",
        "name" => "Name must be unique within a namespace. It cannot be changed.",
        "namespace" => "Namespace is the space that the name is unique in. It cannot be changed.",
        "ownerReferences" => {
            "OwnerReferences name the objects that this one depends on; with the last of them it goes."
        }
        "remainingItemCount" => "RemainingItemCount is how many objects follow, where that is known.",
        "resourceVersion" => {
            "ResourceVersion changes with every change of the object; a write that brings an old one fails."
        }
        "selfLink" => "SelfLink is no longer filled in.",
        "uid" => "UID is unique in time and space; the server gives it.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::schema::Schema;

    #[test]
    fn records_are_found() {
        let texts = "a\t\tA\0a\tx\tAX\nmore\0a.b\ty\t\0b\t\tB\0";
        for (key, text) in [
            ("a\t\t", Some("A")),
            ("a\tx\t", Some("AX\nmore")),
            ("a.b\ty\t", Some("")),
            ("b\t\t", Some("B")),
            ("a\tz\t", None),
            ("c\t\t", None),
            ("\t", None),
        ] {
            assert_eq!(find(texts, key), text, "{key:?}");
        }
        assert_eq!(find("", "a"), None);
    }

    #[test]
    fn nearly_all_fields_have_one() {
        let (mut known, mut all) = (0, 0);
        for s in Schema::builtin().structs() {
            for field in s.fields() {
                all += 1;
                known += u32::from(!of_struct(s, field.name()).is_empty());
            }
        }
        assert!(known * 10 > all * 8, "{known} of {all}");
        let container = Schema::builtin().named("core.v1.Container").and_then(machinery::schema::TypeRef::as_struct);
        let container = container.unwrap();
        assert!(!of_struct(container, "").is_empty() && !of_struct(container, "image").is_empty());
    }
}
