//! Questions about who somebody is and what they may do: the review kinds, which are answered and not stored.

use crate::authn;
use crate::authz::{Rbac, Rule};
use crate::body::Body;
use crate::context::{Attributes, Authorizer, Decision, UserInfo};
use crate::endpoint::{Endpoint, EndpointRequest, Endpoints};
use crate::meta;
use crate::token::Tokens;
use async_trait::async_trait;
use http::{Response, StatusCode};
use machinery::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// What answers need.
pub struct Reviews {
    /// Decides.
    pub authorizer: Arc<dyn Authorizer>,
    /// Lists rules.
    pub rbac: Arc<Rbac>,
    /// Knows tokens.
    pub tokens: Arc<Tokens>,
}

#[derive(Clone, Copy)]
enum Kind {
    SubjectAccess,
    LocalSubjectAccess,
    SelfSubjectAccess,
    SelfSubjectRules,
    SelfSubject,
    Token,
    Discovery,
    Keys,
}

struct Review(Arc<Reviews>, Kind);

impl Reviews {
    /// Hangs the endpoints at their places.
    pub fn endpoints(self: &Arc<Self>, endpoints: &mut Endpoints) {
        let places = [
            ((AUTHORIZATION, "subjectaccessreviews", ""), Kind::SubjectAccess),
            ((AUTHORIZATION, "localsubjectaccessreviews", ""), Kind::LocalSubjectAccess),
            ((AUTHORIZATION, "selfsubjectaccessreviews", ""), Kind::SelfSubjectAccess),
            ((AUTHORIZATION, "selfsubjectrulesreviews", ""), Kind::SelfSubjectRules),
            ((AUTHENTICATION, "selfsubjectreviews", ""), Kind::SelfSubject),
            ((AUTHENTICATION, "tokenreviews", ""), Kind::Token),
            // No resources but paths.
            (("", "/.well-known/openid-configuration", ""), Kind::Discovery),
            (("", "/openid/v1/jwks", ""), Kind::Keys),
        ];
        for (place, kind) in places {
            endpoints.insert(place, Arc::new(Review(self.clone(), kind)));
        }
    }

    fn decide(&self, user: Arc<UserInfo>, spec: &Value) -> Result<Value, Status> {
        let attributes = asked(user, spec)?;
        let status = match self.authorizer.authorize(&attributes) {
            Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
            Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
            Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
        };
        Ok(without_empty(status))
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> Value {
        let rules = match user.groups.iter().any(|group| group == crate::authz::MASTERS) {
            true => vec![
                Rule::parse(&json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
                Rule::parse(&json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
            ],
            false => self.rbac.rules_of(user, namespace),
        };
        let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.urls.is_empty());
        let values = |rules: Vec<&Rule>| rules.into_iter().map(Rule::to_value).collect::<Vec<_>>();
        json!({"resourceRules": values(resources), "nonResourceRules": values(paths), "incomplete": false})
    }

    async fn token(&self, spec: &Value) -> Value {
        let token = spec["token"].as_str().unwrap_or_default();
        let audiences = strings(&spec["audiences"]);
        match self.tokens.authenticate(token, Some(&audiences)).await {
            Ok((mut user, audiences)) => {
                user.groups.push(authn::AUTHENTICATED.to_owned());
                json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
            }
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        }
    }
}

fn without_empty(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| value != "");
    }
    value
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

/// The user a SubjectAccessReview is about.
fn subject(spec: &Value) -> Result<UserInfo, Status> {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .map(|extra| extra.iter().map(|(key, values)| (key.clone(), strings(values))).collect())
        .unwrap_or_default();
    let user = UserInfo { name: text("user"), uid: text("uid"), groups: strings(&spec["groups"]), extra };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(Status::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(user)
}

/// The request a review asks about.
fn asked(user: Arc<UserInfo>, spec: &Value) -> Result<Attributes, Status> {
    let text = |part: &Value, field: &str| part[field].as_str().unwrap_or_default().to_owned();
    match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(resource), None) => Ok(Attributes {
            user,
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            resource_request: true,
            ..Attributes::default()
        }),
        (None, Some(path)) => {
            Ok(Attributes { user, verb: text(path, "verb"), path: text(path, "path"), ..Attributes::default() })
        }
        _ => Err(Status::bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")),
    }
}

#[async_trait]
impl Endpoint for Review {
    async fn serve(&self, mut request: EndpointRequest) -> Result<Response<Body>, Status> {
        let reviews = &self.0;
        let document = match self.1 {
            Kind::Discovery => Some(reviews.tokens.discovery()),
            Kind::Keys => Some(reviews.tokens.keys().await?),
            _ => None,
        };
        if let Some(document) = document {
            return Ok(document_answer(self.1, &document));
        }
        if request.attributes.verb != "create" {
            let Attributes { group, resource, verb, .. } = &request.attributes;
            return Err(Status::method_not_allowed(group, resource, verb));
        }
        let mut object = request.object().await?;
        if !object.is_object() {
            return Err(Status::bad_request("the body must be an object"));
        }
        let user = request.attributes.user.clone();
        let namespace = request.attributes.namespace.clone();
        let spec = object.get("spec").cloned().unwrap_or_default();
        let status = match self.1 {
            Kind::SubjectAccess => reviews.decide(Arc::new(subject(&spec)?), &spec)?,
            Kind::LocalSubjectAccess => {
                let of = meta::at(&spec, &["resourceAttributes", "namespace"]).and_then(Value::as_str);
                if of != Some(namespace.as_str()) {
                    let text = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
                    return Err(Status::bad_request(text));
                }
                reviews.decide(Arc::new(subject(&spec)?), &spec)?
            }
            Kind::SelfSubjectAccess => reviews.decide(user, &spec)?,
            Kind::SelfSubjectRules => match spec["namespace"].as_str().filter(|namespace| !namespace.is_empty()) {
                Some(namespace) => reviews.rules(&user, namespace),
                None => return Err(Status::bad_request("no namespace on request")),
            },
            Kind::SelfSubject => json!({"userInfo": user_value(&user)}),
            _ => reviews.token(&spec).await,
        };
        object["status"] = status;
        let metadata = object.get("metadata").filter(|metadata| metadata.is_object()).cloned();
        object["metadata"] = metadata.unwrap_or_else(|| json!({}));
        request.answer(StatusCode::CREATED, &object)
    }
}

/// OpenID documents have media types of their own.
fn document_answer(kind: Kind, document: &Value) -> Response<Body> {
    let media_type = if matches!(kind, Kind::Keys) { "application/jwk-set+json" } else { "application/json" };
    let mut response = Response::new(Body::full(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("public, max-age=3600"));
    response
}
