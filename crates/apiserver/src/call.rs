//! One request on its way through the handlers.

use crate::body::Body;
use crate::context::{AdmissionRequest, Attributes, Operation, Reinvocation, Warnings};
use crate::decode::{decode_custom, decode_object};
use crate::meta;
use crate::negotiate::{Accept, Format, Shape};
use crate::ownership::MANAGER_BYTES_MAX;
use crate::request::Query;
use crate::respond;
use crate::served::Served;
use crate::server::ApiServer;
use crate::storage::Object;
use crate::table;
use bytes::Bytes;
use http::{Response, StatusCode};
use machinery::Status;
use machinery::field::{FieldError, Path};
use machinery::schema::Schema;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What handlers work with.
pub(crate) struct Call {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) served: Arc<Served>,
    pub(crate) attributes: Attributes,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
    /// Media type of the body.
    pub(crate) content_type: String,
    /// What the client calls itself.
    pub(crate) user_agent: String,
    pub(crate) body: Bytes,
    /// `Warning` headers to send.
    pub(crate) warnings: Warnings,
    /// For how long others had the request, as webhooks, in nanoseconds.
    pub(crate) elsewhere: AtomicU64,
}

/// How unknown and duplicate fields are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Call {
    pub(crate) fn namespace(&self) -> &str {
        &self.attributes.namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.attributes.name
    }

    /// Whether nothing is to be stored; 422 when the parameter says neither.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut values = self.query.all("dryRun").filter(|value| !value.is_empty()).peekable();
        let asked = values.peek().is_some();
        match values.find(|value| *value != "All") {
            None => Ok(asked),
            Some(_) => {
                let all: Vec<&str> = self.query.all("dryRun").collect();
                Err(self.bad_option(FieldError::not_supported(&Path::new("dryRun"), all, &["All"])))
            }
        }
    }

    /// 422 unless the options of a write are as they must be; whether it is a dry run.
    pub(crate) fn write_options(&self) -> Result<bool, Status> {
        let path = Path::new("fieldManager");
        let name = self.query.get("fieldManager").unwrap_or_default();
        if name.len() > MANAGER_BYTES_MAX {
            return Err(self.bad_option(FieldError::too_long(&path, MANAGER_BYTES_MAX)));
        }
        if let Some((at, letter)) = name.char_indices().find(|(_, letter)| letter.is_control()) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
            return Err(self.bad_option(FieldError::invalid(&path, name, why)));
        }
        self.field_validation()?;
        self.dry_run()
    }

    pub(crate) fn bad_option(&self, error: FieldError) -> Status {
        let kind = match self.attributes.verb.as_str() {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            "update" => "UpdateOptions",
            _ => "DeleteOptions",
        };
        Status::invalid("meta.k8s.io", kind, "", vec![error])
    }

    fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.query.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let path = Path::new("fieldValidation");
                Err(self.bad_option(FieldError::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"])))
            }
        }
    }

    /// The body as an object of the served kind: checked, pruned, defaulted.
    pub(crate) fn object(&mut self) -> Result<Value, Status> {
        let served = Arc::clone(&self.served);
        let expected = (&*served.api_version, &*served.resource.kind);
        let decoded = match served.typing.builtin() {
            Some(_) => decode_object(&self.content_type, &self.body, expected)?,
            None => decode_custom(&self.content_type, &self.body)?,
        };
        let mut object = decoded.value;
        self.identify(&mut object, &served.api_version, &served.resource.kind)?;
        self.complete(object, decoded.duplicates)
    }

    /// Checks, prunes and defaults an object of the served kind; complaints about fields go where the client wants them.
    pub(crate) fn complete(&mut self, mut object: Value, duplicates: Vec<String>) -> Result<Value, Status> {
        let served = Arc::clone(&self.served);
        // Who owns which fields may be text, and an empty list of it is told apart from none: it is not for the checker.
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let owners = metadata.and_then(|metadata| match metadata.get("managedFields") {
            Some(owners) if owners.as_str().is_some_and(|text| text.starts_with('[')) || *owners == json!([]) => {
                metadata.remove("managedFields")
            }
            _ => None,
        });
        let mut complaints = served.typing.check(&mut object)?;
        if let Some(owners) = owners {
            meta::metadata(&mut object).insert("managedFields".to_owned(), owners);
        }
        complaints.extend(duplicates);
        self.complain(complaints)?;
        object["apiVersion"] = served.api_version.clone().into();
        object["kind"] = (&*served.resource.kind).into();
        served.typing.default(&served.resource, &mut object);
        Ok(object)
    }

    /// What stands twice in an applied object, in the words of upstream's YAML parser.
    pub(crate) fn strictly(&mut self, told: Vec<String>) -> Result<(), Status> {
        if told.is_empty() {
            return Ok(());
        }
        match self.field_validation()? {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => self.warnings.extend(told),
            FieldValidation::Strict => {
                let lines = told.iter().map(|line| format!("\n  {line}")).collect::<String>();
                return Err(Status::bad_request(format!(
                    "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:{lines}"
                )));
            }
        }
        Ok(())
    }

    fn complain(&mut self, complaints: Vec<String>) -> Result<(), Status> {
        if complaints.is_empty() {
            return Ok(());
        }
        match self.field_validation()? {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => complaints.into_iter().for_each(|text| self.warnings.push(text)),
            FieldValidation::Strict => {
                let resource = &self.served.resource;
                return Err(Status::bad_request(format!(
                    "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
                    resource.kind,
                    resource.version,
                    complaints.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The body of a request to a part of an object, which is of a built-in kind of its own.
    pub(crate) fn part_body(&mut self, api_version: &str, kind: &str) -> Result<Value, Status> {
        let mut object = crate::decode::decode(&self.content_type, &self.body)?.value;
        self.identify(&mut object, api_version, kind)?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        if let Some(ty) = Schema::builtin().kind(group, version, kind) {
            let unknown = machinery::schema::check(&mut object, ty)?;
            if !unknown.is_empty() && self.field_validation()? == FieldValidation::Strict {
                let told: Vec<String> = unknown.iter().map(ToString::to_string).collect();
                let text = told.join(", ");
                return Err(Status::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {text}"
                )));
            }
        }
        Ok(object)
    }

    /// Checks that a body is of the kind it is sent for; what it does not say is filled in.
    pub(crate) fn identify(&self, object: &mut Value, api_version: &str, kind: &str) -> Result<(), Status> {
        let Some(map) = object.as_object_mut() else {
            return Err(Status::bad_request(
                "couldn't get version/kind; json parse error: json: cannot unmarshal value into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }",
            ));
        };
        for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
            let given = map.entry(field).or_insert_with(|| expected.into());
            if given.is_null() || given == "" {
                *given = expected.into();
            }
        }
        let given = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
        if given("apiVersion") != api_version {
            return Err(Status::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({api_version})",
                given("apiVersion")
            )));
        }
        if given("kind") != kind {
            let version = api_version.rsplit('/').next().unwrap_or_default();
            return Err(Status::bad_request(format!(
                "{} in version {version:?} cannot be handled as a {kind}",
                given("kind")
            )));
        }
        Ok(())
    }

    /// Checks that name and namespace of a body agree with the URL; what the body leaves out is filled in.
    pub(crate) fn place(&self, object: &mut Value) -> Result<(), Status> {
        let namespaced = self.served.resource.namespaced;
        let (given_name, given_namespace) = (meta::name(object).to_owned(), meta::text(object, "namespace").to_owned());
        if namespaced && !given_namespace.is_empty() && given_namespace != self.namespace() {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if !self.name().is_empty() && !given_name.is_empty() && given_name != self.name() {
            return Err(Status::bad_request(format!(
                "the name of the object ({given_name}) does not match the name on the URL ({})",
                self.name()
            )));
        }
        let (name, namespace) = (self.name().to_owned(), self.namespace().to_owned());
        let metadata = meta::metadata(object);
        if given_name.is_empty() && !name.is_empty() {
            metadata.insert("name".to_owned(), name.into());
        }
        if namespaced {
            metadata.insert("namespace".to_owned(), namespace.into());
        } else {
            metadata.remove("namespace");
        }
        Ok(())
    }

    /// Lets admission change a new or changed object, or refuse the request.
    pub(crate) async fn admit(
        &self,
        operation: Operation,
        object: Option<&mut Value>,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        self.admit_as(&self.served.resource.kind, operation, object, old, dry_run).await
    }

    /// As [`Call::admit`], for an object of another kind than the resource's: what subresources take.
    pub(crate) async fn admit_as(
        &self,
        kind: &str,
        operation: Operation,
        object: Option<&mut Value>,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let result = self.admit_all(kind, operation, object, old, dry_run).await;
        self.api.metrics.admitted(operation, 0, began.elapsed());
        result
    }

    async fn admit_all(
        &self,
        kind: &str,
        operation: Operation,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let mut reinvocation = Reinvocation::default();
        loop {
            for plugin in &self.api.chain.admission {
                let object = object.as_deref_mut();
                let mut request = self.under_admission(kind, operation, object, old, dry_run, &mut reinvocation);
                plugin.admit(&mut request).await?;
            }
            if reinvocation.again || !reinvocation.wanted {
                return Ok(());
            }
            reinvocation.again = true;
        }
    }

    /// Lets admission refuse.
    pub(crate) async fn validate(
        &self,
        operation: Operation,
        object: Option<&mut Value>,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        self.validate_as(&self.served.resource.kind, operation, object, old, dry_run).await
    }

    /// As [`Call::validate`], for an object of another kind than the resource's.
    pub(crate) async fn validate_as(
        &self,
        kind: &str,
        operation: Operation,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let mut reinvocation = Reinvocation::default();
        let mut result = Ok(());
        for plugin in &self.api.chain.admission {
            let object = object.as_deref_mut();
            let request = self.under_admission(kind, operation, object, old, dry_run, &mut reinvocation);
            result = plugin.validate(&request).await;
            if result.is_err() {
                break;
            }
        }
        self.api.metrics.admitted(operation, 1, began.elapsed());
        result
    }

    /// The options of the request, as webhooks and policies see them.
    pub(crate) fn options(&self, operation: Operation) -> Option<Value> {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update if self.attributes.verb == "patch" => "PatchOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return None,
        };
        let sent = (operation == Operation::Delete && !self.body.is_empty())
            .then(|| crate::decode::decode(&self.content_type, &self.body).ok())
            .flatten();
        let sent = sent.map(|decoded| decoded.value).filter(Value::is_object);
        let mut options = sent.unwrap_or_else(|| serde_json::json!({}));
        options["kind"] = kind.into();
        options["apiVersion"] = "meta.k8s.io/v1".into();
        for name in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.query.get(name).filter(|_| operation != Operation::Delete) {
                options[name] = value.into();
            }
        }
        let dry_run: Vec<&str> = self.query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if !dry_run.is_empty() {
            options["dryRun"] = dry_run.into();
        }
        Some(options)
    }

    fn under_admission<'a>(
        &'a self,
        kind: &'a str,
        operation: Operation,
        object: Option<&'a mut Value>,
        old: Option<&'a Value>,
        dry_run: bool,
        reinvocation: &'a mut Reinvocation,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            attributes: &self.attributes,
            kind,
            operation,
            object,
            old_object: old,
            dry_run,
            warnings: &self.warnings,
            reinvocation,
            call: self,
        }
    }

    /// 422 unless there is nothing wrong.
    pub(crate) fn judge(&self, name: &str, errors: Vec<FieldError>) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&self.served.resource.group, &self.served.resource.kind, name, errors))
    }

    /// Answers with a stored object in the shape asked for.
    pub(crate) async fn answer(&self, code: StatusCode, object: &Object) -> Result<Response<Body>, Status> {
        if self.accept == Accept::default() {
            return Ok(respond::encoded(Format::Json, code, Body::full(self.served.body(object).await?)));
        }
        self.answer_value(code, self.served.value(object).await?)
    }

    /// Answers with an object of the served version in the shape asked for.
    pub(crate) fn answer_value(&self, code: StatusCode, object: Value) -> Result<Response<Body>, Status> {
        let value = match self.accept.shape {
            Shape::Object => object,
            Shape::Table { beta } => table::of(self, beta, vec![object], None)?,
            Shape::Metadata { beta } => table::partial(&object, beta),
        };
        Ok(respond::value(self.accept, code, &value))
    }
}
