//! A served version of a custom kind: its schema, and how its objects are read, checked, shown and selected.

use super::conversion::Converter;
use super::definition::{Definition, Scale};
use super::rules::{self, Rules};
use crate::context::Warnings;
use crate::meta;
use crate::storage::{KindStore, Object};
use api::columns;
use jiff::Timestamp;
use machinery::Status;
use machinery::field::{FieldError, Path};
use machinery::jsonpath::JsonPath;
use machinery::schema::{self, Schema};
use machinery::structural::Structural;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// What all versions of a custom kind have in common, as of one state of its definition.
pub(crate) struct Family {
    pub(super) group: String,
    pub(super) kind: String,
    /// Name and generation of the definition.
    pub(super) definition: String,
    pub(super) generation: i64,
    pub(super) uid: String,
    /// Objects written before were written by another schema.
    pub(super) since: u64,
    pub(super) storage: String,
    pub(super) preserve: bool,
    pub(super) terminating: bool,
    pub(super) converter: Converter,
    /// The schemas of all versions, compiled when needed.
    pub(super) schemas: Vec<(String, OnceLock<Structural>)>,
    /// Where the definitions are.
    pub(super) definitions: Arc<KindStore>,
}

impl Family {
    /// The compiled schema of a version. Fails for the moment when the definition has changed and this family is on its way out.
    fn schema(&self, version: &str) -> Result<&Structural, Status> {
        let changed = || {
            let mut status = Status::service_unavailable("the definition of the resource has changed; try again");
            status.details.get_or_insert_default().retry_after_seconds = Some(1);
            status
        };
        let (_, cell) = self.schemas.iter().find(|(name, _)| name == version).ok_or_else(changed)?;
        if let Some(schema) = cell.get() {
            return Ok(schema);
        }
        let definition = self.definitions.get("", &self.definition).ok_or_else(changed)?.value();
        if meta::generation(&definition) != self.generation || meta::text(&definition, "uid") != self.uid {
            return Err(changed());
        }
        Ok(cell.get_or_init(|| Structural::compile(schema_of(&definition, version).unwrap_or(&Value::Null))))
    }

    fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.group)
    }

    fn prune(&self, version: &str, object: &mut Value) -> Result<(), Status> {
        if !self.preserve {
            self.schema(version)?.prune(object);
        }
        Ok(())
    }
}

/// The `openAPIV3Schema` of a version of a definition.
pub(crate) fn schema_of<'d>(definition: &'d Value, version: &str) -> Option<&'d Value> {
    let versions = meta::at(definition, &["spec", "versions"])?.as_array()?;
    let found = versions.iter().find(|entry| entry.get("name").is_some_and(|name| name == version))?;
    meta::at(found, &["schema", "openAPIV3Schema"])
}

/// A column of a table.
struct Column {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

/// A served version.
pub(crate) struct Version {
    pub(super) family: Arc<Family>,
    name: String,
    columns: Vec<Column>,
    selectable: Vec<(String, Option<JsonPath>)>,
    scale: Option<Scale>,
    /// The rules of the schema, compiled when an object is first written.
    rules: OnceLock<Rules>,
    /// What clients of a deprecated version are warned with.
    pub(crate) deprecation: Option<String>,
}

impl Version {
    pub(super) fn new(family: &Arc<Family>, definition: &Definition, at: usize) -> Version {
        let spec = &definition.spec.versions[at];
        let columns = spec.additional_printer_columns.iter().map(|column| {
            let description = match &*column.description {
                "" => format!("Custom resource definition column (in JSONPath format): {}", column.json_path),
                text => text.to_owned(),
            };
            let definition = json!({
                "name": column.name, "type": column.kind, "format": column.format, "description": description, "priority": column.priority,
            });
            Column { definition, kind: column.kind.clone(), path: JsonPath::parse(&column.json_path).ok() }
        });
        let selectable = spec.selectable_fields.iter().map(|field| {
            let name = field.json_path.strip_prefix('.').unwrap_or(&field.json_path);
            (name.to_owned(), JsonPath::parse(&field.json_path).ok())
        });
        let api_version = family.api_version(&spec.name);
        let deprecation = spec.deprecated.then(|| {
            let text = || format!("{api_version} {} is deprecated", family.kind);
            spec.deprecation_warning.clone().unwrap_or_else(text)
        });
        let mut columns: Vec<Column> = columns.collect();
        if columns.is_empty() {
            let definition = json!({
                "name": "Age", "type": "date", "format": "", "priority": 0,
                "description": "CreationTimestamp is a timestamp representing the server time when this object was created.",
            });
            let path = JsonPath::parse(".metadata.creationTimestamp").ok();
            columns.push(Column { definition, kind: "date".to_owned(), path });
        }
        Version {
            name: spec.name.clone(),
            columns,
            selectable: selectable.collect(),
            scale: spec.subresources.scale.clone(),
            deprecation,
            rules: OnceLock::new(),
            family: Arc::clone(family),
        }
    }

    /// The compiled schema.
    pub(crate) fn schema(&self) -> Result<&Structural, Status> {
        self.family.schema(&self.name)
    }

    /// Names the state of the definition, for documents made of it.
    pub(crate) fn tag(&self) -> String {
        let Family { uid, generation, kind, .. } = &*self.family;
        format!("{uid}/{generation}/{kind}/{}", self.name)
    }

    /// The name of the definition.
    pub(crate) fn definition(&self) -> &str {
        &self.family.definition
    }

    /// The definition as it is now; null when it is gone.
    pub(crate) fn define(&self) -> Value {
        self.family.definitions.get("", &self.family.definition).map_or(Value::Null, |entry| entry.value())
    }

    /// Its schema in the definition, descriptions included; null for none.
    pub(crate) fn published(&self, definition: &Value) -> Value {
        schema_of(definition, &self.name).cloned().unwrap_or_default()
    }

    /// Whether the definition is being deleted, so that nothing can be written.
    pub(crate) fn terminating(&self) -> bool {
        self.family.terminating
    }

    pub(crate) fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// Whether a stored object's bytes can be served as they are: it is stored in this version, and was written by this schema.
    pub(crate) fn is_plain(&self, object: &Object) -> bool {
        object.revision >= self.family.since && stored_version(&object.body, &self.family) == Some(&self.name)
    }

    /// A stored object in this version, with what upstream does on reading: pruned and defaulted by the schema it was stored in.
    pub(crate) async fn read(&self, object: &Object) -> Result<Value, Status> {
        let mut all = self.read_all(&[object]).await?;
        all.pop().ok_or_else(|| Status::internal("an object was lost in conversion"))
    }

    /// The same of many objects; those in other versions are converted together.
    pub(crate) async fn read_all(&self, objects: &[&Object]) -> Result<Vec<Value>, Status> {
        self.adapt_all(objects.iter().map(|object| (object.value(), object.revision)).collect()).await
    }

    /// An object as stored at a revision, in this version.
    pub(crate) async fn adapt(&self, value: Value, revision: u64) -> Result<Value, Status> {
        let mut all = self.adapt_all(vec![(value, revision)]).await?;
        all.pop().ok_or_else(|| Status::internal("an object was lost in conversion"))
    }

    async fn adapt_all(&self, objects: Vec<(Value, u64)>) -> Result<Vec<Value>, Status> {
        let mut values = Vec::with_capacity(objects.len());
        let mut others = Vec::new();
        for (index, (mut value, revision)) in objects.into_iter().enumerate() {
            let stored = version_of(&value).to_owned();
            if revision < self.family.since
                && let Ok(schema) = self.family.schema(&stored)
            {
                self.family.prune(&stored, &mut value)?;
                schema.default(&mut value);
            }
            if stored != self.name {
                others.push((index, std::mem::take(&mut value)));
            }
            values.push(value);
        }
        if !others.is_empty() {
            let (places, converted): (Vec<usize>, Vec<Value>) = others.into_iter().unzip();
            let converted = self.family.converter.convert(converted, &self.family.api_version(&self.name)).await?;
            for (at, mut value) in places.into_iter().zip(converted) {
                self.family.prune(&self.name, &mut value)?;
                values[at] = value;
            }
        }
        Ok(values)
    }

    /// The schema of a version of the same kind (`x.io/v1`).
    pub(crate) fn sibling(&self, api_version: &str) -> Option<&Structural> {
        let version = api_version.strip_prefix(&*self.family.group)?.strip_prefix('/')?;
        self.family.schema(version).ok()
    }

    /// An object in a version of the same kind, where that is a matter of names.
    pub(crate) fn renamed(&self, object: &Value, api_version: &str) -> Option<Value> {
        let own = !self.family.converter.changes() && self.sibling(api_version).is_some();
        own.then(|| {
            let mut object = object.clone();
            object["apiVersion"] = api_version.into();
            object
        })
    }

    /// An object of this version in the version that is stored.
    pub(crate) async fn stored_form<'v>(&self, object: &'v Value) -> Result<Cow<'v, Value>, Status> {
        let storage = &self.family.storage;
        if *storage == self.name {
            return Ok(Cow::Borrowed(object));
        }
        let mut object = object.clone();
        // Who owns what is text here, and no matter of the webhook's.
        let managed = meta::metadata(&mut object).remove("managedFields");
        let converted = self.family.converter.convert(vec![object], &self.family.api_version(storage)).await?;
        let mut stored = converted.into_iter().next().unwrap_or_default();
        meta::set(meta::metadata(&mut stored), "managedFields", managed);
        self.family.prune(storage, &mut stored)?;
        self.family.schema(storage)?.default(&mut stored);
        Ok(Cow::Owned(stored))
    }

    /// Brings a decoded object into its written form; complaints about what it has too much.
    pub(crate) fn check(&self, object: &mut Value) -> Result<Vec<String>, Status> {
        let wrong = |status: Status| {
            let why = status.message.split_once(": ").map_or(&*status.message, |(_, why)| why);
            let (kind, version) = (&self.family.kind, &self.name);
            Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
        };
        let mut unknown = Vec::new();
        check_metadata("", object, &mut unknown).map_err(wrong)?;
        let schema = self.schema()?;
        if !self.family.preserve {
            unknown.extend(schema.prune(object));
        }
        schema.visit_embedded(object, &mut |path, object| check_metadata(path, object, &mut unknown)).map_err(wrong)?;
        Ok(unknown.iter().map(|path| format!("unknown field {path:?}")).collect())
    }

    pub(crate) fn default(&self, object: &mut Value) {
        if let Ok(schema) = self.schema() {
            schema.default(object);
        }
    }

    pub(crate) fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = api::validate::create(&self.family.group, &self.name, &self.family.kind, object);
        let Ok(schema) = self.schema() else { return errors };
        errors.extend(schema.validate(object));
        errors.extend(self.validate_scale(object, true));
        errors.extend(embedded_errors(schema, object));
        errors.extend(schema.validate_lists(object));
        self.check_rules(schema, object, None, &mut errors);
        errors
    }

    /// Evaluates the rules of the schema, unless what is wrong already keeps them from making sense. Gives what is wrong as it was
    /// before.
    fn check_rules(
        &self,
        schema: &Structural,
        object: &Value,
        old: Option<&Value>,
        errors: &mut Vec<FieldError>,
    ) -> Vec<FieldError> {
        let rules = self.rules.get_or_init(|| Rules::compile(schema));
        if rules.is_empty() {
            return Vec::new();
        }
        if errors.iter().any(|error| rules::blocks(error.kind)) {
            errors.push(rules::unchecked());
            return Vec::new();
        }
        let (found, let_pass) = rules.evaluate(schema, object, old);
        errors.extend(found);
        let_pass
    }

    pub(crate) fn validate_update(&self, object: &Value, old: &Value, warnings: &Warnings) -> Vec<FieldError> {
        let mut errors = api::validate::update(&self.family.group, &self.name, &self.family.kind, object, old);
        let Ok(schema) = self.schema() else { return errors };
        errors.extend(schema.validate_update(object, old));
        errors.extend(self.validate_scale(object, true));
        errors.extend(embedded_errors(schema, object));
        if schema.validate_lists(old).is_empty() {
            errors.extend(schema.validate_lists(object));
        }
        let let_pass = self.check_rules(schema, object, Some(old), &mut errors);
        warnings.extend(let_pass.iter().map(ToString::to_string));
        errors
    }

    /// What is wrong with a changed status.
    pub(super) fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let Ok(schema) = self.schema() else { return Vec::new() };
        let mut errors = match object.get("status") {
            Some(status) => schema.validate_field("status", status, old.get("status")),
            None => Vec::new(),
        };
        errors.extend(self.validate_scale(object, false));
        if schema.validate_lists(old).is_empty() {
            errors.extend(schema.validate_lists(object));
        }
        self.check_rules(schema, object, Some(old), &mut errors);
        errors
    }

    fn validate_scale(&self, object: &Value, with_spec: bool) -> Vec<FieldError> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        let paths = [Some(&scale.spec_replicas_path).filter(|_| with_spec), Some(&scale.status_replicas_path)];
        for path in paths.into_iter().flatten() {
            let Some(value) = nested(object, path) else { continue };
            let at = Path::new(path);
            match value.as_i64() {
                None => errors.push(FieldError::invalid(&at, 0, wrong_type(path, value, "int64"))),
                Some(number) if number < 0 => {
                    errors.push(FieldError::invalid(&at, number, "should be a non-negative integer"));
                }
                Some(number) if number > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    errors.push(FieldError::invalid(&at, number, detail));
                }
                Some(_) => {}
            }
        }
        if let Some(value) = nested(object, &scale.label_selector_path).filter(|value| !value.is_string()) {
            let path = &scale.label_selector_path;
            errors.push(FieldError::invalid(&Path::new(path), "", wrong_type(path, value, "string")));
        }
        errors
    }

    /// The columns of a table.
    pub(crate) fn columns(&self) -> Vec<Value> {
        let name = json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace. It identifies the object.",
        });
        std::iter::once(name).chain(self.columns.iter().map(|column| column.definition.clone())).collect()
    }

    /// The cells of an object.
    pub(crate) fn cells(&self, object: &Value) -> Vec<Value> {
        let mut cells = vec![meta::name(object).into()];
        cells.extend(self.columns.iter().map(|column| {
            let value = column.path.as_ref().and_then(|path| path.first(object));
            value.map_or(Value::Null, |value| cell(&column.kind, value))
        }));
        cells
    }

    /// The fields that objects can be selected by.
    pub(crate) fn selectable(&self) -> impl Iterator<Item = &str> {
        self.selectable.iter().map(|(name, _)| &**name)
    }
}

/// The text that a field selector is compared with.
pub(super) fn field_text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A value at a dotted path.
pub(crate) fn nested<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    let path = path.strip_prefix('.').filter(|path| !path.is_empty())?;
    path.split('.').try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

fn wrong_type(path: &str, value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    };
    format!("{path} accessor error: {value} is of the type {found}, expected {wanted}")
}

/// The version in an object's `apiVersion`.
fn version_of(object: &Value) -> &str {
    let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    api_version.rsplit('/').next().unwrap_or_default()
}

/// The version that the bytes of a stored object begin with: kind and version come first in what is stored.
fn stored_version<'b>(body: &'b [u8], family: &Family) -> Option<&'b str> {
    let rest = body.strip_prefix(b"{\"kind\":\"")?.strip_prefix(family.kind.as_bytes())?;
    let rest = rest.strip_prefix(b"\",\"apiVersion\":\"")?.strip_prefix(family.group.as_bytes())?.strip_prefix(b"/")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// Checks the metadata of an object, or of one embedded at `path`; adds the paths of unknown fields.
fn check_metadata(path: &str, object: &mut Value, unknown: &mut Vec<String>) -> Result<(), Status> {
    let Some(metadata) = object.get_mut("metadata") else { return Ok(()) };
    if metadata.is_null() {
        if let Some(map) = object.as_object_mut() {
            map.remove("metadata");
        }
        return Ok(());
    }
    let Some(ty) = Schema::builtin().named("meta.v1.ObjectMeta") else { return Ok(()) };
    let prefix = if path.is_empty() { "metadata".to_owned() } else { format!("{path}.metadata") };
    unknown.extend(schema::check(metadata, ty)?.into_iter().map(|field| format!("{prefix}.{}", field.path)));
    Ok(())
}

/// What is wrong with the metadata of embedded objects.
fn embedded_errors(schema: &Structural, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !schema.has_embedded() {
        return errors;
    }
    let mut copy = object.clone();
    let visited = schema.visit_embedded(&mut copy, &mut |path, object| {
        for field in ["apiVersion", "kind"] {
            if object.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(&Path::new(path).child(field), "must not be empty"));
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    match visited {
        Ok(()) => errors,
    }
}

/// A value as its column shows it.
fn cell(kind: &str, value: &Value) -> Value {
    match (kind, value) {
        ("integer", Value::Number(number)) => {
            #[expect(clippy::cast_possible_truncation, reason = "upstream cuts fractions off")]
            let whole = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
            whole.map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::Null) => "<nil>".into(),
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => columns::human_duration(Timestamp::now().as_second() - time.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
