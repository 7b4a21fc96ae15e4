//! One quota's account, and what a request demands of it.

use super::scope::{self, Facts, Scope};
use super::usage::{self, Amounts, Source};
use crate::admission::amounts;
use crate::context::{AdmissionRequest, Operation};
use crate::meta;
use machinery::quantity::Quantity;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a request would take.
#[derive(Clone)]
pub(super) struct Demand {
    source: Source,
    usage: Amounts,
    facts: Facts,
    /// What the object takes already, on updates.
    before: Option<(Amounts, Facts)>,
    /// Resources that every container must name, with those that do not.
    missing: BTreeMap<&'static str, Vec<String>>,
    /// What has happened already: it is charged even when there is not enough.
    unavoidable: bool,
}

impl Demand {
    /// What the write of `object` takes.
    pub(super) fn new(source: Source, object: &Value, request: &AdmissionRequest<'_>) -> Demand {
        let facts = |object: &Value| match source {
            Source::Pods => Facts::of_pod(object),
            Source::Claims => Facts::of_claim(object),
            _ => Facts::None,
        };
        let old = request.old_object.filter(|_| request.operation == Operation::Update);
        Demand {
            usage: source.usage(object),
            facts: facts(object),
            before: old.map(|old| (source.usage(old), facts(old))),
            missing: if source == Source::Pods { usage::missing(object) } else { BTreeMap::new() },
            unavoidable: request.attributes.subresource == "status",
            source,
        }
    }

    /// What is to be charged to a quota: on updates of what it is about already, only what is new.
    fn delta(&self, scopes: &[Scope]) -> Amounts {
        let mut delta = self.usage.clone();
        if let Some((before, facts)) = &self.before
            && facts.are_in(scopes)
        {
            for (name, amount) in &mut delta {
                *amount -= before.get(name).copied().unwrap_or(Quantity::ZERO);
            }
        }
        delta.retain(|_, amount| amount.signum() > 0);
        delta
    }
}

/// A quota as its status has it, and what is charged to it on top.
pub(super) struct Account {
    name: String,
    scopes: Vec<Scope>,
    hard: Amounts,
    used: Amounts,
    /// Something was charged.
    pub(super) changed: bool,
}

impl Account {
    pub(super) fn read(quota: &Value) -> Account {
        Account {
            name: meta::name(quota).to_owned(),
            scopes: scope::of_quota(quota),
            hard: amounts(meta::at(quota, &["status", "hard"])),
            used: amounts(meta::at(quota, &["status", "used"])),
            changed: false,
        }
    }

    /// Whether a demand is any business of this quota.
    fn concerns(&self, demand: &Demand) -> bool {
        self.hard.keys().any(|name| demand.source.takes(name)) && demand.facts.are_in(&self.scopes)
    }

    /// What is to be charged; none when this is not about the demand or nothing is to be charged. Upstream's words when there is
    /// not enough.
    pub(super) fn check(&self, demand: &Demand) -> Result<Option<Amounts>, String> {
        if !self.concerns(demand) {
            return Ok(None);
        }
        let limited = || self.hard.keys().filter(|name| demand.source.takes(name));
        let missing = demand.missing.iter().filter(|(name, _)| self.hard.contains_key(**name));
        let missing: Vec<String> =
            missing.map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
        if !missing.is_empty() {
            return Err(format!("failed quota: {}: must specify {}", self.name, missing.join("; ")));
        }
        if limited().any(|name| !self.used.contains_key(name)) {
            let names = limited().map(String::as_str).collect::<Vec<_>>().join(",");
            return Err(format!("status unknown for quota: {}, resources: {names}", self.name));
        }
        let negative = demand.usage.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| &**name);
        let negative: Vec<&str> = negative.collect();
        if !negative.is_empty() {
            return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
        }
        let mut delta = demand.delta(&self.scopes);
        delta.retain(|name, _| self.hard.contains_key(name));
        if !demand.unavoidable {
            self.affords(&delta)?;
        }
        Ok(Some(delta).filter(|delta| !delta.is_empty()))
    }

    fn affords(&self, delta: &Amounts) -> Result<(), String> {
        let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(Quantity::ZERO);
        let exceeded = delta.iter().filter(|(name, amount)| of(&self.used, name) + **amount > of(&self.hard, name));
        let exceeded: Vec<&str> = exceeded.map(|(name, _)| &**name).collect();
        if exceeded.is_empty() {
            return Ok(());
        }
        let list = |amounts: &Amounts| {
            exceeded.iter().map(|name| format!("{name}={}", of(amounts, name))).collect::<Vec<_>>().join(",")
        };
        Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            self.name,
            list(delta),
            list(&self.used),
            list(&self.hard)
        ))
    }

    /// Charges what [`Account::check`] said.
    pub(super) fn charge(&mut self, delta: &Amounts) {
        usage::add(&mut self.used, delta);
        self.changed = true;
    }

    /// Puts what is used into the quota's status.
    pub(super) fn write(&self, quota: &mut Value) {
        let used: BTreeMap<&str, String> = self.used.iter().map(|(name, q)| (&**name, q.to_string())).collect();
        meta::member(quota, "status").insert("used".to_owned(), json!(used));
    }
}
