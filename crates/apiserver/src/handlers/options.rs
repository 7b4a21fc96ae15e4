//! The options of lists, watches and deletions.

use crate::call::Call;
use crate::request::Query;
use crate::storage::Selection;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::Status;
use machinery::field::{FieldError, Path};
use machinery::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

/// `resourceVersion` as a revision.
pub(super) fn revision(query: &Query) -> Result<Option<u64>, Status> {
    let parse = |text: &str| {
        let bad = |_| {
            Status::invalid(
                "meta.k8s.io",
                "ListOptions",
                "",
                vec![FieldError::invalid(&Path::new("resourceVersion"), text, "strconv.ParseUint: invalid syntax")],
            )
        };
        text.parse::<u64>().map_err(bad)
    };
    query.get("resourceVersion").map(parse).transpose()
}

/// What `resourceVersionMatch` demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Exact,
    NotOlderThan,
}

/// The options of a list or watch.
pub(super) struct ListOptions {
    pub(super) selection: Selection,
    pub(super) revision: Option<u64>,
    pub(super) matching: Option<Match>,
    pub(super) limit: Option<usize>,
    pub(super) token: Option<Continue>,
    pub(super) send_initial_events: Option<bool>,
    pub(super) bookmarks: bool,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continue {
    /// As of this revision; none for now, with what that means for consistency.
    pub(super) revision: Option<u64>,
    /// After this key.
    pub(super) after: String,
}

impl Continue {
    pub(super) fn encode(&self) -> String {
        let revision = self.revision.map_or(json!(-1), |revision| json!(revision));
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    pub(super) fn decode(token: &str) -> Result<Continue, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|error| bad(&error.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {}", value["v"])));
        }
        let revision = match value["rv"].as_i64() {
            Some(-1) => None,
            Some(revision) if revision > 0 => revision.try_into().ok(),
            _ => return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        };
        let after = value["start"].as_str().unwrap_or_default().trim_end_matches('\0').to_owned();
        if after.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        Ok(Continue { revision, after })
    }
}

impl ListOptions {
    pub(super) fn parse(call: &Call, watch: bool) -> Result<ListOptions, Status> {
        let query = &call.query;
        let matching = match query.get("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            Some(other) => {
                let path = Path::new("resourceVersionMatch");
                return Err(invalid(FieldError::not_supported(&path, other, &["Exact", "NotOlderThan", ""])));
            }
        };
        let limit: Option<i64> = query.number("limit")?;
        let options = ListOptions {
            selection: selection(call)?,
            revision: revision(query)?,
            matching,
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
            token: query.get("continue").map(Continue::decode).transpose()?,
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
        };
        options.validate(watch)?;
        Ok(options)
    }

    fn validate(&self, watch: bool) -> Result<(), Status> {
        let forbid = |field: &str, why: &str| Err(invalid(FieldError::forbidden(&Path::new(field), why)));
        if watch {
            return match (self.send_initial_events, self.matching) {
                (Some(_), Some(Match::NotOlderThan)) | (None, None) => Ok(()),
                (Some(_), _) => forbid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                (None, Some(_)) => forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
            };
        }
        if self.send_initial_events.is_some() {
            return forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        match (self.matching, self.revision) {
            (Some(_), _) if self.token.is_some() => {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
            }
            (Some(_), None) => {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
            }
            (Some(Match::Exact), Some(0)) => {
                forbid("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
            }
            (None, Some(revision)) if self.token.is_some() && revision > 0 => {
                Err(Status::bad_request("specifying resource version is not allowed when using continue"))
            }
            _ => Ok(()),
        }
    }
}

fn invalid(error: FieldError) -> Status {
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![error])
}

/// The objects a list, watch or collection deletion is about.
pub(super) fn selection(call: &Call) -> Result<Selection, Status> {
    let attributes = &call.attributes;
    let labels = call.query.get("labelSelector").map(LabelSelector::parse).transpose();
    let labels = labels.map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
    let fields = call.query.get("fieldSelector").map(FieldSelector::parse).transpose().map_err(Status::bad_request)?;
    if let Some(fields) = &fields {
        known_fields(call, fields)?;
    }
    let fields = match call.served.conversion {
        Some(conversion) => fields.map(|fields| fields.renamed(|field| conversion.stored_field(field))),
        None => fields,
    };
    let namespaced = call.served.resource.namespaced;
    let one = attributes.verb == "watch" && fields.is_none() && !attributes.name.is_empty();
    Ok(Selection {
        namespace: Some(attributes.namespace.clone()).filter(|namespace| namespaced && !namespace.is_empty()),
        name: one.then(|| attributes.name.clone()),
        labels: labels.filter(|labels| !labels.is_everything()),
        fields: fields.filter(|fields| !fields.is_everything()),
    })
}

/// 400 for fields that objects of this kind cannot be selected by.
fn known_fields(call: &Call, selector: &FieldSelector) -> Result<(), Status> {
    let own = call.served.typing.selectable(&call.served.resource);
    let known = |field: &str| matches!(field, "metadata.name" | "metadata.namespace") || own.contains(&field);
    let mut fields = selector.terms().iter().map(|term| term.field.as_str());
    if let Some(field) = fields.find(|field| !known(field)) {
        return Err(Status::bad_request(if !own.is_empty() {
            format!("field label not supported: {field}")
        } else {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens() {
        for revision in [None, Some(7)] {
            let token = Continue { revision, after: "ns/name".to_owned() };
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
        for bad in ["", "x", "e30", "%%%", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0"] {
            assert_eq!(Continue::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
