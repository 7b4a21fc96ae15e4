//! The policies in force, with their bindings: read once for each change of one of them.

use super::definition::{Binding, Policy, version};
use crate::meta;
use crate::storage::{KindStore, Storage};
use machinery::Status;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// A policy with its bindings.
pub(super) struct Hook {
    pub(super) policy: Arc<Policy>,
    pub(super) bindings: Vec<Binding>,
}

/// Policies of one kind, by name.
pub(super) struct Source {
    policies: Arc<KindStore>,
    bindings: Arc<KindStore>,
    read: RwLock<Read>,
}

struct Read {
    /// The last changes of policies and bindings that were seen.
    changes: (u64, u64),
    hooks: Arc<[Hook]>,
}

impl Source {
    /// Of `validatingadmissionpolicies` or `mutatingadmissionpolicies`.
    pub(super) fn new(storage: &Storage, policies: &str, bindings: &str) -> Result<Source, Status> {
        Ok(Source {
            policies: storage.kind(super::GROUP, policies)?,
            bindings: storage.kind(super::GROUP, bindings)?,
            read: RwLock::new(Read { changes: (u64::MAX, u64::MAX), hooks: Arc::new([]) }),
        })
    }

    /// Those in force now. Costs two reads of a number unless something changed.
    pub(super) fn now(&self) -> Arc<[Hook]> {
        // The changes are asked for first: what is read later may be newer, and is then read once more.
        let changes = (self.policies.last_change(), self.bindings.last_change());
        let read = self.read.read();
        if read.changes == changes {
            return Arc::clone(&read.hooks);
        }
        let known = Arc::clone(&read.hooks);
        drop(read);
        let hooks = self.build(&known);
        *self.read.write() = Read { changes, hooks: Arc::clone(&hooks) };
        hooks
    }

    /// What is compiled stays as it is where the policy's generation does.
    fn build(&self, known: &[Hook]) -> Arc<[Hook]> {
        let mut bindings: HashMap<String, Vec<Binding>> = HashMap::new();
        for entry in self.bindings.list(None) {
            let binding = Binding::read(&entry.value());
            bindings.entry(binding.policy.clone()).or_default().push(binding);
        }
        let mut hooks = Vec::new();
        for entry in self.policies.list(None) {
            let object = entry.value();
            // A policy that nothing binds is not in force.
            let Some(bindings) = bindings.remove(meta::name(&object)) else { continue };
            let version = version(&object);
            let same = known.iter().find(|hook| hook.policy.version == version);
            let policy = same.map_or_else(|| Arc::new(Policy::read(&object)), |hook| Arc::clone(&hook.policy));
            hooks.push(Hook { policy, bindings });
        }
        hooks.into()
    }
}
