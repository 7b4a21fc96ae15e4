//! Between the versions of a custom kind: by name only, or by a webhook of its owner.

use crate::meta;
use crate::storage::Storage;
use crate::webhook::{Caller, ClientConfig};
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a webhook may take, as upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What a webhook may change of an object's metadata.
const CHANGEABLE: [&str; 2] = ["labels", "annotations"];

/// How objects are converted.
pub(crate) enum Converter {
    /// Versions differ by their name.
    Name,
    /// A webhook converts.
    Webhook(Box<Webhook>),
}

/// A conversion webhook.
pub(crate) struct Webhook {
    caller: Arc<Caller>,
    config: Result<ClientConfig, String>,
    /// `v1` or `v1beta1`: the first that we speak of those it understands.
    review: Option<&'static str>,
}

impl Converter {
    /// As the `spec.conversion` of a definition says.
    pub(super) fn new(strategy: &str, webhook: &Value, storage: &Arc<Storage>) -> Converter {
        if strategy != "Webhook" {
            return Converter::Name;
        }
        let versions = meta::at(webhook, &["conversionReviewVersions"]).and_then(Value::as_array);
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|known| version == known);
        Converter::Webhook(Box::new(Webhook {
            caller: Caller::new(Arc::clone(storage)),
            config: ClientConfig::read(webhook.get("clientConfig").unwrap_or(&Value::Null)),
            review: versions.into_iter().flatten().find_map(known),
        }))
    }

    /// Whether a conversion can change more than the version's name.
    pub(super) fn changes(&self) -> bool {
        matches!(self, Converter::Webhook(_))
    }

    /// Objects in another version, in their order.
    pub(super) async fn convert(&self, mut objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        match self {
            Converter::Name => {
                for object in &mut objects {
                    object["apiVersion"] = api_version.into();
                }
                Ok(objects)
            }
            Converter::Webhook(webhook) => {
                let from = objects.first().map(described).unwrap_or_default();
                let failed = |why: String| Status::new(500, "", format!("conversion webhook for {from} {why}"));
                webhook.convert(objects, api_version).await.map_err(failed)
            }
        }
    }
}

/// `x.io/v1, Kind=Widget`.
fn described(object: &Value) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

impl Webhook {
    /// Asks the webhook about all objects at once; the error goes on after `conversion webhook for …`.
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, String> {
        let failed = |why: String| format!("failed: {why}");
        let config = self.config.as_ref().map_err(|why| failed(why.clone()))?;
        let review = self.review.ok_or_else(|| failed("no supported conversion review versions".to_owned()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review}"),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let answer = self.caller.call(config, request.to_string().into(), TIMEOUT).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        let converted = read(answer, review, &uid).map_err(failed)?;
        if converted.len() != objects.len() {
            return Err(format!("returned {} objects, expected {}", converted.len(), objects.len()));
        }
        let pairs = converted.into_iter().zip(&objects).enumerate();
        pairs.map(|(index, (converted, original))| accept(index, converted, original, api_version)).collect()
    }
}

/// The converted objects of an answer.
fn read(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let wanted = format!("apiextensions.k8s.io/{review}, Kind=ConversionReview");
    if review == "v1" && described(&answer) != wanted {
        return Err(format!("expected webhook response of {wanted}, got {}", described(&answer)));
    }
    if meta::at(&answer, &["response"]).is_none() {
        return Err("no response provided".to_owned());
    }
    let given = meta::text_at(&answer, &["response", "uid"]);
    if review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    match meta::text_at(&answer, &["response", "result", "status"]) {
        "Success" => {}
        status => {
            let message = meta::text_at(&answer, &["response", "result", "message"]);
            return Err(match message {
                "" => format!("response.result.status was '{status}', not 'Success'"),
                message => message.to_owned(),
            });
        }
    }
    match answer["response"]["convertedObjects"].take() {
        Value::Array(list) => Ok(list),
        _ => Ok(Vec::new()),
    }
}

/// A converted object, which must still be the one that was sent; of its metadata only labels and annotations may be new.
fn accept(index: usize, mut converted: Value, original: &Value, api_version: &str) -> Result<Value, String> {
    let text = |object: &Value, field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let invalid = |why: String| Err(format!("returned invalid converted object at index {index}: {why}"));
    let (version, kind) = (text(&converted, "apiVersion"), text(&converted, "kind"));
    if version != api_version {
        return invalid(format!("invalid groupVersion (expected {api_version}, received {version})"));
    }
    if kind != text(original, "kind") {
        return invalid(format!("invalid kind (expected {}, received {kind})", text(original, "kind")));
    }
    for (field, named) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (was, is) = (meta::text(original, field), meta::text(&converted, field));
        if was != is {
            return Err(format!(
                "returned invalid metadata in object at index {index}: must have the same {named}: {was} != {is}"
            ));
        }
    }
    let mut metadata = original.get("metadata").cloned().unwrap_or_default();
    for field in CHANGEABLE {
        let now = meta::at(&converted, &["metadata", field]).cloned();
        if let Some(map) = metadata.as_object_mut() {
            meta::set(map, field, now);
        }
    }
    converted["metadata"] = metadata;
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl FnOnce(&mut Value)) -> Value {
        let mut answer = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
            "uid": "u", "result": {"status": "Success"}, "convertedObjects": [{"kind": "X"}]}});
        change(&mut answer);
        answer
    }

    #[test]
    fn answers() {
        assert_eq!(read(answer(|_| {}), "v1", "u"), Ok(vec![json!({"kind": "X"})]));
        for (bad, why) in [
            (answer(|a| a["response"] = Value::Null), "no response provided"),
            (answer(|a| a["response"]["uid"] = "v".into()), "expected response.uid=\"u\", got \"v\""),
            (answer(|a| a["response"]["result"] = json!({"status": "Failure", "message": "no"})), "no"),
            (answer(|a| a["response"]["result"] = json!({})), "response.result.status was '', not 'Success'"),
            (
                answer(|a| a["kind"] = "Y".into()),
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Y",
            ),
        ] {
            assert_eq!(read(bad, "v1", "u"), Err(why.to_owned()));
        }
    }

    #[test]
    fn what_a_webhook_may_not_change() {
        let original =
            json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a", "uid": "1", "labels": {"a": "b"}}});
        let good = json!({"apiVersion": "x.io/v2", "kind": "X", "metadata": {"name": "a", "uid": "1", "labels": {"c": "d"}, "generation": 7}, "spec": 1});
        let accepted = accept(0, good.clone(), &original, "x.io/v2").unwrap();
        assert_eq!(accepted["metadata"], json!({"name": "a", "uid": "1", "labels": {"c": "d"}}));
        assert_eq!(accepted["spec"], 1);
        for (path, value) in
            [("/apiVersion", "x.io/v3"), ("/kind", "Y"), ("/metadata/name", "b"), ("/metadata/uid", "2")]
        {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value.into();
            assert!(accept(0, bad, &original, "x.io/v2").is_err(), "{path}");
        }
    }
}
