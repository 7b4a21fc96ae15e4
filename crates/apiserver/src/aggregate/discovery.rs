//! What other servers serve, put into our own discovery documents.

use super::check::Known;
use super::local;
use super::remote::Remote;
use serde_json::{Value, json};

/// The remote versions of a group, the preferred one first.
fn in_group<'a>(remotes: &'a [Remote], group: &str) -> Vec<&'a Remote> {
    let mut found: Vec<&Remote> = remotes.iter().filter(|remote| remote.group == group).collect();
    found.sort_by_key(|remote| std::cmp::Reverse(remote.version_priority));
    found
}

/// The groups of remote versions, each once.
fn groups(remotes: &[Remote]) -> Vec<&str> {
    let mut names: Vec<&str> = remotes.iter().map(|remote| &*remote.group).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Where a group belongs in a list that is ordered by priority.
fn place(list: &[Value], remotes: &[Remote], group: &str, name: impl Fn(&Value) -> String) -> usize {
    let own = in_group(remotes, group).iter().map(|remote| remote.group_priority).max().unwrap_or(0);
    let lower = |entry: &Value| {
        let name = name(entry);
        let elsewhere = in_group(remotes, &name).iter().map(|remote| remote.group_priority).max();
        local::priority(&name).or(elsewhere).unwrap_or(local::CUSTOM.0) < own
    };
    list.iter().position(lower).unwrap_or(list.len())
}

/// An `APIGroup` with the remote versions of it.
pub(super) fn group(local: Option<Value>, remotes: &[Remote], name: &str) -> Option<Value> {
    let own = in_group(remotes, name);
    if own.is_empty() {
        return local;
    }
    let entry =
        |remote: &&Remote| json!({"groupVersion": format!("{name}/{}", remote.version), "version": remote.version});
    let mut group =
        local.unwrap_or_else(|| json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": []}));
    if let Some(versions) = group["versions"].as_array_mut() {
        for new in own.iter().map(entry).filter(|new| !versions.contains(new)).collect::<Vec<_>>() {
            versions.push(new);
        }
    }
    group["preferredVersion"] = group["versions"][0].clone();
    Some(group)
}

/// An `APIGroupList` with the remote groups.
pub(super) fn group_list(list: &mut Value, remotes: &[Remote]) {
    let Some(all) = list["groups"].as_array_mut() else { return };
    for name in groups(remotes) {
        let at = all.iter().position(|entry| entry["name"] == name);
        let local = at.map(|at| all[at].clone());
        let Some(mut merged) = group(local, remotes, name) else { continue };
        if let Some(map) = merged.as_object_mut().filter(|_| at.is_none()) {
            map.remove("kind");
            map.remove("apiVersion");
        }
        match at {
            Some(at) => all[at] = merged,
            None => {
                let at = place(all, remotes, name, |entry| entry["name"].as_str().unwrap_or_default().to_owned());
                all.insert(at, merged);
            }
        }
    }
}

/// An `APIGroupDiscoveryList` with the remote groups. `known` is what servers have said.
pub(super) fn aggregated(list: &mut Value, remotes: &[Remote], known: impl Fn(&str) -> Option<Known>) {
    let Some(items) = list["items"].as_array_mut() else { return };
    for name in groups(remotes) {
        let versions: Vec<Value> =
            in_group(remotes, name).iter().map(|remote| version(remote, known(&remote.name))).collect();
        match items.iter_mut().find(|item| item["metadata"]["name"] == name) {
            Some(item) => {
                if let Some(there) = item["versions"].as_array_mut() {
                    there.extend(versions);
                }
            }
            None => {
                let named = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let at = place(items, remotes, name, named);
                items.insert(at, json!({"metadata": {"name": name}, "versions": versions}));
            }
        }
    }
}

fn version(remote: &Remote, known: Option<Known>) -> Value {
    let freshness = if remote.available && known.is_some() { "Current" } else { "Stale" };
    let list = known.unwrap_or_default().resources;
    let entries = list["resources"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let kind = |entry: &Value| {
        let or = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
        json!({"group": or(text(entry, "group"), &remote.group), "version": or(text(entry, "version"), &remote.version), "kind": text(entry, "kind")})
    };
    let resources = entries.iter().filter(|entry| !text(entry, "name").contains('/')).map(|entry| {
        let name = text(entry, "name");
        let mut resource = json!({
            "resource": name, "responseKind": kind(entry), "singularResource": text(entry, "singularName"), "verbs": entry["verbs"],
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
        });
        for field in ["shortNames", "categories"] {
            if let Some(list) = entry.get(field) {
                resource[field] = list.clone();
            }
        }
        let prefix = format!("{name}/");
        let under = entries.iter().filter_map(|sub| {
            let subresource = sub["name"].as_str()?.strip_prefix(&prefix)?;
            Some(json!({"subresource": subresource, "responseKind": kind(sub), "verbs": sub["verbs"]}))
        });
        let under: Vec<Value> = under.collect();
        if !under.is_empty() {
            resource["subresources"] = under.into();
        }
        resource
    });
    json!({"version": remote.version, "freshness": freshness, "resources": resources.collect::<Vec<_>>()})
}

/// The index of OpenAPI documents with those of other servers.
pub(super) fn openapi_index(index: &mut Value, remotes: &[Remote], known: impl Fn(&str) -> Option<Known>) {
    let Some(paths) = index["paths"].as_object_mut() else { return };
    for remote in remotes.iter().filter(|remote| remote.available) {
        if let Some(at) = known(&remote.name).and_then(|known| known.openapi) {
            paths.insert(format!("apis/{}/{}", remote.group, remote.version), json!({"serverRelativeURL": at}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(group: &str, version: &str, priorities: (i64, i64)) -> Remote {
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1,
            "service": {"namespace": "n", "name": "s"}});
        let conditions = json!([{"type": "Available", "status": "True"}]);
        Remote::read(&json!({"metadata": {"name": format!("{version}.{group}")}, "spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn names(list: &Value) -> Vec<String> {
        list["groups"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn groups_by_priority_with_all_their_versions() {
        let remotes = [
            remote("metrics.k8s.io", "v1beta1", (100, 100)),
            remote("wardle.example.com", "v1alpha1", (2000, 100)),
            remote("wardle.example.com", "v1beta1", (2000, 200)),
            remote("apps", "v9", (1, 1)),
        ];
        let entry = |name: &str, version: &str| {
            let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        };
        let mut list =
            json!({"groups": [entry("apps", "v1"), entry("discovery.k8s.io", "v1"), entry("custom.io", "v1")]});
        group_list(&mut list, &remotes);
        assert_eq!(names(&list), ["apps", "discovery.k8s.io", "wardle.example.com", "custom.io", "metrics.k8s.io"]);
        assert_eq!(list["groups"][2]["preferredVersion"]["version"], "v1beta1");
        assert_eq!(list["groups"][0]["versions"].as_array().unwrap().len(), 2);
        assert_eq!(list["groups"][0]["preferredVersion"]["version"], "v1");
        assert_eq!(group(None, &remotes, "none.io"), None);
    }

    #[test]
    fn resources_as_aggregated_discovery_has_them() {
        let remotes = [remote("wardle.example.com", "v1", (2000, 100))];
        let resources = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]},
        ]});
        let mut list = json!({"items": [{"metadata": {"name": "apps"}, "versions": []}]});
        aggregated(&mut list, &remotes, |_| Some(Known { resources: resources.clone(), openapi: None }));
        let kind = json!({"group": "wardle.example.com", "version": "v1", "kind": "Flunder"});
        assert_eq!(
            list["items"][1]["versions"][0],
            json!({"version": "v1", "freshness": "Current", "resources": [{
                "resource": "flunders", "responseKind": kind, "singularResource": "flunder", "verbs": ["get"], "scope": "Namespaced",
                "shortNames": ["fl"], "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["update"]}],
            }]})
        );
        aggregated(&mut list, &remotes, |_| None);
        assert_eq!(list["items"][1]["versions"][1]["freshness"], "Stale");
    }
}
