//! A table of ours in the kernel, kept equal to a description by transactions that hold only what changed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::encode::{
    DELETE_CHAIN, DELETE_SET, DELETE_TABLE, GET_CHAIN, GET_TABLE, Holds, NETFILTER_IPV4, NEW_CHAIN, NEW_TABLE,
    SET_EVALUATED, SET_TIMEOUT, SUBSYSTEM, Transaction, owns_set,
};
use super::expr::{Data, Kind, Rule};
use crate::netlink::{Batch, CREATE, DUMP, Protocol, Refusal, Socket, attribute};

/// Names a fragment.
pub type FragmentId = Arc<str>;

/// Where in a packet's way a base chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Just arrived, before routing.
    Prerouting = 0,
    /// For this node.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// Made by this node.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Where it is.
    pub point: HookPoint,
    /// Its order among all base chains there: smaller is earlier.
    pub priority: i32,
    /// Whether it rewrites addresses (type `nat`) or only filters.
    pub nat: bool,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique in the table.
    pub name: Arc<str>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// Its name, unique in the table.
    pub name: Arc<str>,
    /// The fields of its keys.
    pub keys: Vec<Kind>,
    /// What it holds.
    pub holds: SetHolds,
    /// When rules put elements in (and not fragments): how long one stays.
    pub timeout_ms: Option<u64>,
}

/// What a named set holds besides its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetHolds {
    /// Nothing: it is a set.
    Nothing,
    /// Fields.
    Values(Vec<Kind>),
    /// Verdicts.
    Verdicts,
}

/// An element of a named set of the skeleton. When several fragments have one with the same key, the one with the
/// smallest fragment id counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The set.
    pub set: &'static str,
    /// The key.
    pub key: Box<[u8]>,
    /// What it holds, in a map.
    pub data: Option<Data>,
}

/// The fixed part of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skeleton {
    /// Sets and maps.
    pub sets: Vec<SetSpec>,
    /// Chains, each with its hook when it is a base chain.
    pub chains: Vec<(Option<Hook>, Chain)>,
}

/// A part of a table that comes and goes as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Its chains. Rules refer to chains of the skeleton and of this fragment only.
    pub chains: Vec<Chain>,
    /// Its own sets.
    pub sets: Vec<SetSpec>,
    /// Its elements in the skeleton's sets.
    pub elements: Vec<Element>,
}

/// A transaction the kernel refused, or no socket to send it by.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The netfilter socket could not be opened.
    #[error("cannot open a netfilter socket (does the kernel have nf_tables?)")]
    Open(#[source] io::Error),
    /// The kernel refused a transaction.
    #[error("the kernel refused an nftables request about table {table:?}")]
    Refused {
        /// The table.
        table: String,
        /// Why.
        source: Refusal,
    },
}

/// What a table has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Transactions that held a difference.
    pub updates: u64,
    /// Transactions that wrote the whole table.
    pub rewrites: u64,
    /// Operations of the last transaction.
    pub last_operations: usize,
}

type Key = (&'static str, Box<[u8]>);

/// A table in the kernel. Not shared: one owner applies changes in order.
pub struct Table {
    name: String,
    socket: Socket,
    skeleton: Skeleton,
    fragments: BTreeMap<FragmentId, Fragment>,
    /// Who has an element of each key; the first counts.
    owners: HashMap<Key, Vec<(FragmentId, Option<Data>)>>,
    /// Whether the kernel has what `skeleton` and `fragments` say, as far as is known.
    written: bool,
    stats: TableStats,
}

impl Table {
    /// A table of this name in the calling thread's network namespace. Nothing is written until the first
    /// [`Table::apply`], and what the kernel has under the name stays in force until then.
    pub fn open(name: impl Into<String>, skeleton: Skeleton) -> Result<Table, NftError> {
        Ok(Table {
            name: name.into(),
            socket: Socket::open(Protocol::Netfilter).map_err(NftError::Open)?,
            skeleton,
            fragments: BTreeMap::new(),
            owners: HashMap::new(),
            written: false,
            stats: TableStats::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has done so far.
    pub fn stats(&self) -> TableStats {
        self.stats
    }

    /// Replaces the fixed part: the next [`Table::apply`] writes the whole table.
    pub fn set_skeleton(&mut self, skeleton: Skeleton) {
        if self.skeleton != skeleton {
            self.skeleton = skeleton;
            self.written = false;
        }
    }

    /// Makes the next [`Table::apply`] write the whole table.
    pub fn invalidate(&mut self) {
        self.written = false;
    }

    /// Sets (`Some`) or removes (`None`) fragments, in one transaction of what differs; the whole table when it was
    /// not written yet or the kernel's copy turns out to be another. On an error nothing changed in the kernel,
    /// and the next call tries again to bring the whole table there.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (FragmentId, Option<Fragment>)>) -> Result<(), NftError> {
        let mut difference = Difference::default();
        // Of several changes of one fragment the last counts.
        let changes: BTreeMap<FragmentId, Option<Fragment>> = changes.into_iter().collect();
        for (id, new) in changes {
            self.exchange(id, new, &mut difference);
        }
        if self.written {
            let transaction = self.difference(&difference);
            let operations = transaction.operations();
            if operations == 0 {
                return Ok(());
            }
            let batch = transaction.finish();
            match self.socket.execute(batch) {
                Ok(()) => {
                    self.stats.updates += 1;
                    self.stats.last_operations = operations;
                    return Ok(());
                }
                Err(refusal) => {
                    tracing::warn!(table = self.name, %refusal, "rewriting the nftables table");
                    self.written = false;
                }
            }
        }
        self.rewrite()
    }

    /// Whether the kernel still has the table with everything in it, judged by the number of its chains, sets and maps:
    /// one cheap request, for when somebody else may have removed it (`nft flush ruleset`). If not, the next
    /// [`Table::apply`] writes it anew.
    pub fn check(&mut self) -> Result<bool, NftError> {
        if !self.written {
            return Ok(false);
        }
        let mut request = Batch::default();
        let name = self.name.as_str();
        request.message(SUBSYSTEM << 8 | GET_TABLE, 0, &[NETFILTER_IPV4, 0, 0, 0], |attrs| {
            attrs.text(1, name);
        });
        let mut parts = None;
        let answer = self.socket.query_one(&request, |_, payload| {
            const USE: u16 = 3;
            let count = payload.get(4..).and_then(|attrs| attribute(attrs, USE));
            parts = count.and_then(|count| Some(u32::from_be_bytes(count.try_into().ok()?)));
        });
        match answer {
            Err(refusal) if refusal.errno != Errno::NOENT => return Err(self.refused(refusal)),
            _ => self.written = parts == Some(self.parts()),
        }
        Ok(self.written)
    }

    /// How many chains, sets and maps the table has, those of rules included.
    fn parts(&self) -> u32 {
        let fragments = self.fragments.values();
        let chains = self.skeleton.chains.iter().map(|(_, chain)| chain);
        let chains = chains.chain(fragments.clone().flat_map(|part| &part.chains));
        let count = |chain: &Chain| 1 + chain.rules.iter().flat_map(|rule| &rule.0).filter(|e| owns_set(e)).count();
        let sets = self.skeleton.sets.len() + fragments.map(|part| part.sets.len()).sum::<usize>();
        (sets + chains.map(count).sum::<usize>()) as u32
    }

    /// Removes the table from the kernel, and every fragment.
    pub fn destroy(&mut self) -> Result<(), NftError> {
        self.fragments.clear();
        self.owners.clear();
        self.written = false;
        let mut transaction = Transaction::new(&self.name);
        add_table(&mut transaction);
        delete_table(&mut transaction);
        let batch = transaction.finish();
        self.execute(batch)
    }

    fn execute(&mut self, batch: Batch) -> Result<(), NftError> {
        self.socket.execute(batch).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: Refusal) -> NftError {
        NftError::Refused { table: self.name.clone(), source }
    }

    /// Puts a fragment in place of the one of its id and notes what may differ.
    fn exchange(&mut self, id: FragmentId, new: Option<Fragment>, difference: &mut Difference) {
        let old = self.fragments.get(&id);
        if old == new.as_ref() {
            return;
        }
        let old = old.cloned().unwrap_or_default();
        for element in old.elements {
            let key = (element.set, element.key);
            let owners = self.owners.entry(key.clone()).or_default();
            difference.note(&key, owners);
            owners.retain(|(owner, _)| *owner != id);
            if owners.is_empty() {
                self.owners.remove(&key);
            }
        }
        for element in new.iter().flat_map(|new| &new.elements) {
            let key = (element.set, element.key.clone());
            let owners = self.owners.entry(key.clone()).or_default();
            difference.note(&key, owners);
            let at = owners.partition_point(|(owner, _)| *owner < id);
            owners.insert(at, (id.clone(), element.data.clone()));
        }
        difference.chains(old.chains, new.as_ref());
        difference.sets(old.sets, new.as_ref());
        match new {
            Some(new) => self.fragments.insert(id, new),
            None => self.fragments.remove(&id),
        };
    }

    /// Elements go first and come last, so that no element ever refers to a chain that is not there.
    fn difference(&self, difference: &Difference) -> Transaction<'_> {
        let mut transaction = Transaction::new(&self.name);
        let mut gone = Elements::new();
        let mut come = Elements::new();
        for (key, before) in &difference.elements {
            let now = self.owners.get(key).and_then(|owners| owners.first());
            let now = now.map(|(_, data)| data);
            if before.as_ref() != now {
                if before.is_some() {
                    gone.entry(key.0).or_default().push((&key.1, None));
                }
                if let Some(now) = now {
                    come.entry(key.0).or_default().push((&key.1, now.as_ref()));
                }
            }
        }
        for (set, elements) in gone {
            transaction.delete_elements(set, elements.into_iter());
        }
        for chain in &difference.flushed_chains {
            transaction.flush_chain(chain);
        }
        for set in &difference.gone_sets {
            delete_named(&mut transaction, DELETE_SET, 2, set);
        }
        for chain in &difference.gone_chains {
            delete_named(&mut transaction, DELETE_CHAIN, 3, chain);
        }
        for set in &difference.new_sets {
            add_set(&mut transaction, set);
        }
        for chain in &difference.new_chains {
            add_chain(&mut transaction, chain, None);
        }
        for chain in &difference.filled_chains {
            add_rules(&mut transaction, chain);
        }
        for (set, elements) in come {
            transaction.new_elements(set, None, elements.into_iter());
        }
        transaction
    }

    fn rewrite(&mut self) -> Result<(), NftError> {
        let mut transaction = Transaction::new(&self.name);
        add_table(&mut transaction);
        delete_table(&mut transaction);
        add_table(&mut transaction);
        let fragments = self.fragments.values();
        let sets = self.skeleton.sets.iter().chain(fragments.clone().flat_map(|part| &part.sets));
        sets.for_each(|set| add_set(&mut transaction, set));
        for (hook, chain) in &self.skeleton.chains {
            add_chain(&mut transaction, &chain.name, *hook);
        }
        let chains = || fragments.clone().flat_map(|part| &part.chains);
        chains().for_each(|chain| add_chain(&mut transaction, &chain.name, None));
        for chain in self.skeleton.chains.iter().map(|(_, chain)| chain).chain(chains()) {
            add_rules(&mut transaction, chain);
        }
        let mut elements = Elements::new();
        for ((set, key), owners) in &self.owners {
            if let Some((_, data)) = owners.first() {
                elements.entry(set).or_default().push((key, data.as_ref()));
            }
        }
        for (set, elements) in elements {
            transaction.new_elements(set, None, elements.into_iter());
        }
        let operations = transaction.operations();
        let batch = transaction.finish();
        self.execute(batch)?;
        self.written = true;
        self.stats.rewrites += 1;
        self.stats.last_operations = operations;
        Ok(())
    }
}

type Elements<'a> = BTreeMap<&'static str, Vec<(&'a [u8], Option<&'a Data>)>>;

/// What may differ between the kernel's copy and ours after some fragments were exchanged.
#[derive(Default)]
struct Difference {
    /// What the kernel has for each touched key.
    elements: HashMap<Key, Option<Option<Data>>>,
    flushed_chains: Vec<Arc<str>>,
    gone_chains: Vec<Arc<str>>,
    new_chains: Vec<Arc<str>>,
    filled_chains: Vec<Chain>,
    gone_sets: Vec<Arc<str>>,
    new_sets: Vec<SetSpec>,
}

impl Difference {
    /// Remembers what counted for a key before its first change.
    fn note(&mut self, key: &Key, owners: &[(FragmentId, Option<Data>)]) {
        if !self.elements.contains_key(key) {
            let before = owners.first().map(|(_, data)| data.clone());
            self.elements.insert(key.clone(), before);
        }
    }

    fn chains(&mut self, old: Vec<Chain>, new: Option<&Fragment>) {
        let new = new.map_or(&[][..], |new| &new.chains);
        for chain in &old {
            match new.iter().find(|other| other.name == chain.name) {
                Some(other) if other == chain => {}
                Some(_) => self.flushed_chains.push(chain.name.clone()),
                None => {
                    self.flushed_chains.push(chain.name.clone());
                    self.gone_chains.push(chain.name.clone());
                }
            }
        }
        for chain in new {
            let before = old.iter().find(|other| other.name == chain.name);
            if before.is_none() {
                self.new_chains.push(chain.name.clone());
            }
            if before != Some(chain) {
                self.filled_chains.push(chain.clone());
            }
        }
    }

    fn sets(&mut self, old: Vec<SetSpec>, new: Option<&Fragment>) {
        let new = new.map_or(&[][..], |new| &new.sets);
        let gone = old.iter().filter(|set| !new.contains(set));
        self.gone_sets.extend(gone.map(|set| set.name.clone()));
        self.new_sets.extend(new.iter().filter(|set| !old.contains(set)).cloned());
    }
}

/// The base chains in the calling thread's network namespace that drop forwarded packets by default, as
/// `family table chain`. (Rules of the old iptables interface cannot be seen this way.)
pub fn forward_blockers() -> Result<Vec<String>, NftError> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    let mut socket = Socket::open(Protocol::Netfilter).map_err(NftError::Open)?;
    let mut request = Batch::default();
    request.message(SUBSYSTEM << 8 | GET_CHAIN, DUMP, &[0, 0, 0, 0], |_| {});
    let mut found = Vec::new();
    let each = |_: u16, payload: &[u8]| {
        let parse = || {
            let family = match payload.first()? {
                1 => "inet",
                2 => "ip",
                _ => return None,
            };
            let attributes = payload.get(4..)?;
            let hook = attribute(attribute(attributes, HOOK)?, HOOK_NUMBER)?;
            let forward = hook == (HookPoint::Forward as u32).to_be_bytes();
            let drops = attribute(attributes, POLICY)? == 0u32.to_be_bytes();
            let text = |kind| Some(String::from_utf8_lossy(attribute(attributes, kind)?).replace('\0', ""));
            (forward && drops).then_some(format!("{family} {} {}", text(TABLE)?, text(NAME)?))
        };
        found.extend(parse());
    };
    let table = String::new();
    socket.query(&request, each).map_err(|source| NftError::Refused { table, source })?;
    Ok(found)
}

fn add_table(transaction: &mut Transaction<'_>) {
    let table = transaction.table;
    transaction.message(NEW_TABLE, CREATE, |attrs| {
        attrs.text(1, table).be32(2, 0);
    });
}

fn delete_table(transaction: &mut Transaction<'_>) {
    let table = transaction.table;
    transaction.message(DELETE_TABLE, 0, |attrs| {
        attrs.text(1, table);
    });
}

fn delete_named(transaction: &mut Transaction<'_>, kind: u16, attribute: u16, name: &str) {
    let table = transaction.table;
    transaction.message(kind, 0, |attrs| {
        attrs.text(1, table).text(attribute, name);
    });
}

fn add_set(transaction: &mut Transaction<'_>, set: &SetSpec) {
    let flags = set.timeout_ms.map_or(0, |_| SET_TIMEOUT | SET_EVALUATED);
    let holds = match &set.holds {
        SetHolds::Nothing => Holds::Nothing,
        SetHolds::Values(kinds) => Holds::Values(kinds),
        SetHolds::Verdicts => Holds::Verdicts,
    };
    transaction.new_set(&set.name, flags, &set.keys, holds, set.timeout_ms);
}

fn add_chain(transaction: &mut Transaction<'_>, name: &str, hook: Option<Hook>) {
    let table = transaction.table;
    transaction.message(NEW_CHAIN, CREATE, |attrs| {
        attrs.text(1, table).text(3, name);
        if let Some(hook) = hook {
            attrs.nest(4, |nest| {
                nest.be32(1, hook.point as u32).be32(2, hook.priority as u32);
            });
            attrs.text(7, if hook.nat { "nat" } else { "filter" });
        }
    });
}

fn add_rules(transaction: &mut Transaction<'_>, chain: &Chain) {
    for rule in &chain.rules {
        transaction.new_rule(&chain.name, rule);
    }
}
