//! Taking another's place: `Impersonate-User`, `-Group`, `-Uid` and `-Extra-…`, each subject to authorization.

use crate::chain::refusal;
use crate::context::{Attributes, Authorizer, Decision, UserInfo};
use http::{HeaderMap, HeaderValue};
use machinery::Status;
use std::collections::BTreeMap;
use std::sync::Arc;

const EXTRA_PREFIX: &str = "impersonate-extra-";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

pub(super) fn impersonate(
    user: UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, Status> {
    let first = |name: &str| headers.get(name).map_or(Ok(String::new()), text);
    let groups = headers.get_all("impersonate-group").iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let extra = extra(headers)?;
    let (name, uid) = (first("impersonate-user")?, first("impersonate-uid")?);
    if name.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request(
            "requested impersonation of groups, uid or extra without impersonating a user",
        ));
    }
    let may = Asked { user: Arc::new(user), authorizer };
    match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => may.impersonate("", "serviceaccounts", "", namespace, account)?,
        None => may.impersonate("", "users", "", "", &name)?,
    }
    for group in &groups {
        may.impersonate("", "groups", "", "", group)?;
    }
    for (key, values) in &extra {
        for value in values {
            may.impersonate("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !uid.is_empty() {
        may.impersonate("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    let groups = default_groups(&name, groups);
    Ok(super::authenticated(UserInfo { name, uid, groups, extra }))
}

/// A service account belongs to its groups even when only its name is given.
fn default_groups(name: &str, groups: Vec<String>) -> Vec<String> {
    match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, _)) if groups.is_empty() => {
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
        }
        _ if name == super::ANONYMOUS && groups.is_empty() => vec![super::UNAUTHENTICATED.to_owned()],
        _ => groups,
    }
}

/// A header's value. 400 when it is no text: to pass over it would leave the client with the rights it meant to put down.
fn text(value: &HeaderValue) -> Result<String, Status> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned).map_err(|_| Status::bad_request("an impersonation header is not UTF-8"))
}

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Status> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            let key = crate::connect::percent_decode(key).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(text(value)?);
        }
    }
    Ok(extra)
}

struct Asked<'a> {
    user: Arc<UserInfo>,
    authorizer: &'a dyn Authorizer,
}

impl Asked<'_> {
    fn impersonate(&self, group: &str, resource: &str, sub: &str, namespace: &str, name: &str) -> Result<(), Status> {
        let attributes = Attributes {
            user: self.user.clone(),
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: sub.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            resource_request: true,
            ..Attributes::default()
        };
        match self.authorizer.authorize(&attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(refusal(&attributes, &reason)),
        }
    }
}
