//! Which names a definition gets, and the conditions that say so.

use super::definition::{Condition, Definition, Names};
use super::status::condition;
use std::collections::HashMap;

/// The names that the definitions of a group have, with how many of them have each.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    resources: HashMap<String, u32>,
    kinds: HashMap<String, u32>,
}

impl Claimed {
    pub(super) fn add(&mut self, names: &Names) {
        resources(names).for_each(|name| *self.resources.entry(name.clone()).or_default() += 1);
        kinds(names).for_each(|name| *self.kinds.entry(name.clone()).or_default() += 1);
    }

    pub(super) fn remove(&mut self, names: &Names) {
        resources(names).for_each(|name| forget(&mut self.resources, name));
        kinds(names).for_each(|name| forget(&mut self.kinds, name));
    }
}

fn resources(names: &Names) -> impl Iterator<Item = &String> {
    [&names.plural, &names.singular].into_iter().chain(&names.short_names)
}

fn kinds(names: &Names) -> impl Iterator<Item = &String> {
    [&names.kind, &names.list_kind].into_iter()
}

fn forget(claimed: &mut HashMap<String, u32>, name: &str) {
    if let Some(count) = claimed.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            claimed.remove(name);
        }
    }
}

/// What a definition's status is to say of its names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) names: Names,
    pub(super) accepted: Condition,
    pub(super) established: Condition,
}

/// Decides on names; `claimed` are those of the group, its own among them. What is established stays so.
pub(super) fn judge(definition: &Definition, claimed: &Claimed) -> Verdict {
    let (wanted, had) = (&definition.spec.names, &definition.status.accepted_names);
    let mut names = had.clone();
    let taken = |wanted: &String, had: &str, used: &HashMap<String, u32>| wanted != had && used.contains_key(wanted);
    // Of several conflicts the last one is told, as upstream.
    let mut conflict = None;
    let in_use = |name: &String| format!("{name:?} is already in use");
    for (name, wanted, used, reason) in [
        (&mut names.plural, &wanted.plural, &claimed.resources, "PluralConflict"),
        (&mut names.singular, &wanted.singular, &claimed.resources, "SingularConflict"),
    ] {
        match taken(wanted, name, used) {
            true => conflict = Some((reason, in_use(wanted))),
            false => name.clone_from(wanted),
        }
    }
    let new = wanted.short_names.iter().filter(|name| !had.short_names.contains(name));
    let refused: Vec<String> = new.filter(|name| claimed.resources.contains_key(*name)).map(in_use).collect();
    match refused.as_slice() {
        [] => names.short_names.clone_from(&wanted.short_names),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    for (name, wanted, reason) in
        [(&mut names.kind, &wanted.kind, "KindConflict"), (&mut names.list_kind, &wanted.list_kind, "ListKindConflict")]
    {
        match taken(wanted, name, &claimed.kinds) {
            true => conflict = Some((reason, in_use(wanted))),
            false => name.clone_from(wanted),
        }
    }
    names.categories.clone_from(&wanted.categories);
    let accepted = match conflict {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", false, reason, message),
    };
    let established = if definition.is("Established") || accepted.status == "True" {
        condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
    } else {
        condition("Established", false, "NotAccepted", "not all names are accepted")
    };
    Verdict { names, accepted, established }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Definition {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short});
        Definition::read(json!({"spec": {"group": "x.io", "names": names}}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn names_are_taken_once() {
        let mut claimed = Claimed::default();
        claimed.add(&definition("apples", "Apple", &["ap"]).spec.names);
        for (definition, status, reason, message) in [
            (definition("pears", "Pear", &["p"]), "True", "NoConflicts", "no conflicts found"),
            (definition("apples", "Pear", &[]), "False", "PluralConflict", "\"apples\" is already in use"),
            (definition("pears", "Apple", &[]), "False", "ListKindConflict", "\"AppleList\" is already in use"),
            (definition("pears", "Pear", &["ap"]), "False", "ShortNamesConflict", "\"ap\" is already in use"),
        ] {
            let verdict = judge(&definition, &claimed);
            let accepted = &verdict.accepted;
            assert_eq!((&*accepted.status, &*accepted.reason, &*accepted.message), (status, reason, message));
            assert_eq!(verdict.established.status, status);
        }
        // What is given back is free, unless another has it as well.
        claimed.add(&definition("plums", "Plum", &["ap"]).spec.names);
        claimed.remove(&definition("plums", "Plum", &["ap"]).spec.names);
        assert_eq!(judge(&definition("pears", "Pear", &["ap"]), &claimed).accepted.status, "False");
        assert_eq!(judge(&definition("plums", "Plum", &[]), &claimed).accepted.status, "True");
        // Its own names are no conflict, and what is established stays so.
        let mut own = definition("apples", "Apple", &["ap"]);
        own.status.accepted_names = own.spec.names.clone();
        assert_eq!(judge(&own, &claimed).accepted.status, "True");
    }
}
