//! What the fields of all objects mean, for `kubectl explain`.

/// The description of a field of a struct, where there is one.
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
