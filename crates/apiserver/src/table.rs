//! `Table` and `PartialObjectMetadata`: what `kubectl get` and metadata informers ask for.

use crate::call::Call;
use crate::served::Served;
use machinery::Status;
use serde_json::{Map, Value, json};

/// The metadata of an object, as an object of its own.
pub(crate) fn partial(object: &Value, beta: bool) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version(beta),
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// The list of them.
pub(crate) fn partial_list(metadata: Value, objects: Vec<Value>, beta: bool) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| partial(object, beta)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": version(beta), "metadata": metadata, "items": items})
}

/// Their version.
pub(crate) fn version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// What of the object a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn of(call: &Call) -> Result<Include, Status> {
        match call.query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// Objects as a table. `metadata` is that of a list; a single object gives its own revision.
pub(crate) fn of(call: &Call, beta: bool, objects: Vec<Value>, metadata: Option<Value>) -> Result<Value, Status> {
    let include = Include::of(call)?;
    let served = &call.served;
    let metadata = metadata.unwrap_or_else(|| {
        let revision = objects.first().map(|object| crate::meta::text(object, "resourceVersion"));
        json!({"resourceVersion": revision.unwrap_or_default()})
    });
    let rows: Vec<Value> = objects.into_iter().map(|object| row(served, object, include, beta)).collect();
    let columns = if call.query.flag("noHeaders") { json!([]) } else { definitions(served) };
    Ok(
        json!({"kind": "Table", "apiVersion": version(beta), "metadata": metadata, "columnDefinitions": columns, "rows": rows}),
    )
}

fn row(served: &Served, object: Value, include: Include, beta: bool) -> Value {
    let cells = served.typing.cells(&served.resource, &object);
    let mut row = Map::new();
    row.insert("cells".to_owned(), cells.into());
    match include {
        Include::None => {}
        Include::Metadata => {
            row.insert("object".to_owned(), partial(&object, beta));
        }
        Include::Object => {
            row.insert("object".to_owned(), object);
        }
    }
    Value::Object(row)
}

/// One object of a watch; columns come with the first.
pub(crate) fn event(served: &Served, include: Include, beta: bool, object: Value, headers: bool) -> Value {
    let revision = crate::meta::text(&object, "resourceVersion").to_owned();
    let columns = if headers { definitions(served) } else { Value::Null };
    let rows = [row(served, object, include, beta)];
    json!({
        "kind": "Table", "apiVersion": version(beta), "metadata": {"resourceVersion": revision},
        "columnDefinitions": columns, "rows": rows,
    })
}

/// A bookmark of a watch.
pub(crate) fn bookmark(metadata: Value, beta: bool) -> Value {
    json!({"kind": "Table", "apiVersion": version(beta), "metadata": metadata, "columnDefinitions": [], "rows": []})
}

fn definitions(served: &Served) -> Value {
    served.typing.columns(&served.resource).into()
}
