//! Which resources are served: the catalogue of groups, versions, resources and subresources.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Recorded from upstream's discovery by `tools/discovery` and `tools/schemagen`.
pub(crate) const TEXT: &str = include_str!("../data/catalogue.txt");

/// A text of the catalogue: part of the program for built-in kinds, owned for custom ones.
pub type Text = Cow<'static, str>;

/// A resource of one group and version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: Text,
    /// API version.
    pub version: Text,
    /// The name in paths: `pods`.
    pub plural: Text,
    /// `pod`.
    pub singular: Text,
    /// `Pod`.
    pub kind: Text,
    /// `PodList`.
    pub list_kind: Text,
    /// `po`.
    pub short_names: Vec<Text>,
    /// `all`.
    pub categories: Vec<Text>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What clients may do, sorted.
    pub verbs: Vec<&'static str>,
    /// Its subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Identifies the stored version, as discovery shows it; empty for what is not stored.
    pub storage_version_hash: Text,
}

/// A subresource.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// The name in paths: `status`.
    pub name: &'static str,
    /// The group of what is read and written.
    pub group: Text,
    /// The version of what is read and written.
    pub version: Text,
    /// The kind of what is read and written: `Scale`.
    pub kind: Text,
    /// What clients may do, sorted.
    pub verbs: Vec<&'static str>,
}

/// An API group and its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name; empty for the core group.
    pub name: &'static str,
    /// The versions in order of preference.
    pub versions: Vec<&'static str>,
}

impl Resource {
    /// Whether clients may do this.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether its objects are stored; the others are only asked (`TokenReview`) or computed (`ComponentStatus`).
    pub fn is_stored(&self) -> bool {
        !self.storage_version_hash.is_empty()
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The other group that serves the same stored objects, with its version: events are in the core group and their own.
    pub fn storage_group(&self) -> (&str, &str) {
        match (&*self.group, &*self.plural) {
            ("events.k8s.io", "events") => ("", "v1"),
            ("autoscaling", "horizontalpodautoscalers") => ("autoscaling", "v2"),
            _ => (&self.group, &self.version),
        }
    }
}

/// `group/version`, or only the version for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`.
pub fn split_api_version(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

/// Every resource, in the order of discovery.
pub fn all() -> &'static [Arc<Resource>] {
    &catalogue().resources
}

/// Every group, in the order of discovery, the core group first.
pub fn groups() -> &'static [Group] {
    &catalogue().groups
}

/// The resource of a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Resource>> {
    let catalogue = catalogue();
    catalogue.by_plural.get(&(group, version, plural)).map(|at| &catalogue.resources[*at])
}

/// The resource whose objects are of a kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Resource>> {
    all().iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

/// The resources of a group and version, in the order of discovery.
pub fn in_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Arc<Resource>> + 'a {
    all().iter().filter(move |r| r.group == group && r.version == version)
}

struct Catalogue {
    resources: Vec<Arc<Resource>>,
    groups: Vec<Group>,
    by_plural: HashMap<(&'static str, &'static str, &'static str), usize>,
}

fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| parse(TEXT))
}

fn parse(text: &'static str) -> Catalogue {
    let mut catalogue = Catalogue { resources: Vec::new(), groups: Vec::new(), by_plural: HashMap::new() };
    let (mut group, mut version) = ("", "");
    for line in text.lines() {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        match next() {
            "G" => {
                (group, version) = (next(), next());
                match catalogue.groups.iter_mut().find(|g| g.name == group) {
                    Some(known) => known.versions.push(version),
                    None => catalogue.groups.push(Group { name: group, versions: vec![version] }),
                }
            }
            "R" => {
                let (plural, singular, _, _, kind, scope) = (next(), next(), next(), next(), next(), next());
                let (verbs, short_names, categories) = (words(next()), words(next()), words(next()));
                catalogue.by_plural.insert((group, version, plural), catalogue.resources.len());
                let (namespaced, subresources, storage_version_hash) = (scope == "N", Vec::new(), next().into());
                catalogue.resources.push(Arc::new(Resource {
                    group: group.into(),
                    version: version.into(),
                    plural: plural.into(),
                    singular: singular.into(),
                    kind: kind.into(),
                    list_kind: format!("{kind}List").into(),
                    short_names: short_names.into_iter().map(Cow::Borrowed).collect(),
                    categories: categories.into_iter().map(Cow::Borrowed).collect(),
                    namespaced,
                    verbs,
                    subresources,
                    storage_version_hash,
                }));
            }
            "S" => {
                let (name, group, version, kind, verbs) = (next(), next(), next(), next(), words(next()));
                if let Some(resource) = catalogue.resources.last_mut().and_then(Arc::get_mut) {
                    let (group, version, kind) = (group.into(), version.into(), kind.into());
                    resource.subresources.push(Subresource { name, group, version, kind, verbs });
                }
            }
            other => unreachable!("a line of kind {other:?} in the catalogue"),
        }
    }
    catalogue
}

fn words(list: &'static str) -> Vec<&'static str> {
    list.split(',').filter(|w| !w.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::schema::Schema;

    #[test]
    fn a_resource_and_its_subresources() {
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!((&*pods.kind, &*pods.singular, pods.namespaced), ("Pod", "pod", true));
        assert_eq!(pods.short_names, ["po"]);
        assert_eq!(pods.categories, ["all"]);
        assert!(pods.allows("watch") && pods.is_stored());
        assert_eq!(pods.subresource("eviction").map(|s| (&*s.group, &*s.kind)), Some(("policy", "Eviction")));
        assert!(!find("authentication.k8s.io", "v1", "tokenreviews").unwrap().is_stored());
        assert!(find("apps", "v1beta1", "deployments").is_none());
    }

    #[test]
    fn groups_in_the_order_of_discovery() {
        assert_eq!(groups()[0].name, "");
        let autoscaling = groups().iter().find(|g| g.name == "autoscaling").unwrap();
        assert_eq!(autoscaling.versions, ["v2", "v1"]);
    }

    #[test]
    fn every_kind_is_in_the_schema() {
        let schema = Schema::builtin();
        for r in all() {
            assert!(schema.kind(&r.group, &r.version, &r.kind).is_some(), "{} {}", r.api_version(), r.kind);
            if r.allows("list") {
                assert!(
                    schema.kind(&r.group, &r.version, &r.list_kind).is_some(),
                    "{} {}",
                    r.api_version(),
                    r.list_kind
                );
            }
            for s in &r.subresources {
                assert!(schema.kind(&s.group, &s.version, &s.kind).is_some(), "{}/{}", r.plural, s.name);
            }
        }
    }
}
