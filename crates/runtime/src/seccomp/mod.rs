//! Seccomp profiles (the runtime's own, and Docker's JSON format) made into filters the kernel runs.

mod default;
mod filter;
mod numbers;

use crate::capability;
use serde::Deserialize;

/// Why a profile cannot be enforced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no profile.
    #[error("seccomp profile is not valid: {0}")]
    Parse(#[from] serde_json::Error),
    /// It asks for an action this runtime does not have.
    #[error("seccomp action {0:?} is not supported")]
    Action(String),
    /// It compares in a way that is not known.
    #[error("seccomp comparison {0:?} is not supported")]
    Comparison(String),
    /// The filter would be longer than the kernel takes.
    #[error("seccomp profile is too long: {0} instructions")]
    Long(usize),
}

/// What happens to a call: the filter's return value.
type Action = u32;

const ALLOW: Action = 0x7fff_0000;
const ERRNO: Action = 0x0005_0000;

/// One condition on an argument: `(argument & mask) <comparison> value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    argument: u32,
    comparison: Comparison,
    value: u64,
    mask: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
}

/// What is done with a call when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    /// Turns the last condition round (`<` is not `>=`).
    negated: bool,
    action: Action,
}

/// The filter of the runtime's default profile, for a process that keeps these capabilities.
///
/// # Errors
/// Never for the built-in list; the type is shared with [`from_json`].
pub fn default_filter(capabilities: u64) -> Result<Vec<u64>, Error> {
    filter::compile(ERRNO | libc::EPERM as u32, &default::rules(capabilities))
}

/// The filter of a profile in Docker's JSON format, for a process that keeps these capabilities.
///
/// # Errors
/// When the profile is malformed or asks for what cannot be enforced.
pub fn from_json(text: &[u8], capabilities: u64) -> Result<Vec<u64>, Error> {
    let profile: Profile = serde_json::from_slice(text)?;
    let fallback = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for group in &profile.syscalls {
        if !group.applies(capabilities) {
            continue;
        }
        let action = action(&group.action, group.errno_ret)?;
        for name in group.names.iter().chain(&group.name) {
            // Names of other architectures are usual in profiles that serve several.
            let Some(number) = number(name) else { continue };
            group.rules(action)?.into_iter().for_each(|rule| rules.push((number, rule)));
        }
    }
    filter::compile(fallback, &rules)
}

fn number(name: &str) -> Option<u32> {
    let found = numbers::TABLE.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(numbers::TABLE[found].1)
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, Error> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno.unwrap_or(libc::EPERM as u32) & 0xffff,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        other => return Err(Error::Action(other.to_owned())),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    name: Option<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Scope,
    #[serde(default)]
    excludes: Scope,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Scope {
    caps: Vec<String>,
    arches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Group {
    /// Whether it is for processes with these capabilities on this architecture.
    fn applies(&self, capabilities: u64) -> bool {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let held = |cap: &String| capability::bit(cap).is_some_and(|bit| capabilities & bit != 0);
        let here = |name: &String| name == arch;
        self.includes.caps.iter().all(held)
            && (self.includes.arches.is_empty() || self.includes.arches.iter().any(here))
            && !self.excludes.caps.iter().any(held)
            && !self.excludes.arches.iter().any(here)
    }

    /// Conditions on different arguments hold together; several on one argument are alternatives, as runc reads them.
    fn rules(&self, action: Action) -> Result<Vec<Rule>, Error> {
        let args = self.args.as_deref().unwrap_or_default();
        let conditions = args.iter().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        let twice = args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|other| other.index == arg.index));
        let together = conditions.iter().all(|(_, negated)| !negated) && !twice;
        if conditions.is_empty() || together {
            let conditions = conditions.into_iter().map(|(condition, _)| condition).collect();
            return Ok(vec![Rule { conditions, negated: false, action }]);
        }
        if twice || conditions.len() == 1 {
            let rule = |(condition, negated)| Rule { conditions: vec![condition], negated, action };
            return Ok(conditions.into_iter().map(rule).collect());
        }
        Err(Error::Comparison("SCMP_CMP_LT or SCMP_CMP_LE beside others".to_owned()))
    }
}

impl Argument {
    fn condition(&self) -> Result<(Condition, bool), Error> {
        let (comparison, negated) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (Comparison::Equal, false),
            "SCMP_CMP_NE" => (Comparison::NotEqual, false),
            "SCMP_CMP_GT" => (Comparison::Greater, false),
            "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, false),
            "SCMP_CMP_LT" => (Comparison::GreaterOrEqual, true),
            "SCMP_CMP_LE" => (Comparison::Greater, true),
            "SCMP_CMP_MASKED_EQ" => {
                let condition = Condition {
                    argument: self.index,
                    comparison: Comparison::Equal,
                    value: self.value_two,
                    mask: self.value,
                };
                return Ok((condition, false));
            }
            other => return Err(Error::Comparison(other.to_owned())),
        };
        if self.index > 5 {
            return Err(Error::Comparison(format!("argument {}", self.index)));
        }
        Ok((Condition { argument: self.index, comparison, value: self.value, mask: u64::MAX }, negated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filter::tests::run;

    fn check(filter: &[u64], name: &str, args: [u64; 6], expected: Action) {
        assert_eq!(run(filter, number(name).unwrap(), args), expected, "{name} {args:x?}");
    }

    #[test]
    fn the_default_profile_allows_by_capability() {
        let plain = default_filter(capability::set(false, &[], &[]).unwrap()).unwrap();
        let admin = default_filter(capability::ALL).unwrap();
        let denied = ERRNO | 1;
        let none = [0; 6];
        for name in ["read", "openat", "execve", "setresuid", "capset", "prctl", "chroot", "futex", "exit_group"] {
            check(&plain, name, none, ALLOW);
            check(&admin, name, none, ALLOW);
        }
        for name in ["mount", "unshare", "setns", "bpf", "reboot", "init_module", "settimeofday", "open_by_handle_at"] {
            check(&plain, name, none, denied);
            check(&admin, name, none, ALLOW);
        }
        for name in ["keyctl", "add_key", "kexec_load", "swapon", "userfaultfd", "io_uring_setup"] {
            check(&plain, name, none, denied);
            check(&admin, name, none, denied);
        }
        check(&plain, "clone3", none, ERRNO | 38);
        check(&plain, "clone", [0x11, 0, 0, 0, 0, 0], ALLOW);
        check(&plain, "clone", [0x1000_0000, 0, 0, 0, 0, 0], denied);
        check(&plain, "socket", [2, 1, 0, 0, 0, 0], ALLOW);
        check(&plain, "socket", [40, 1, 0, 0, 0, 0], denied);
        check(&plain, "personality", [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW);
        check(&plain, "personality", [0x40, 0, 0, 0, 0, 0], denied);
    }

    #[test]
    fn profiles_are_read_as_docker_writes_them() {
        let text = br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"name": "kill", "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["dup2"], "action": "SCMP_ACT_LOG", "args": [{"index": 1, "value": 4294967296, "op": "SCMP_CMP_GT"}]},
            {"names": ["dup3"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_LT"}]},
            {"names": ["open"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}}]}"#;
        let filter = from_json(text, 1).unwrap();
        check(&filter, "mkdir", [0; 6], ERRNO | 13);
        check(&filter, "read", [0; 6], ALLOW);
        check(&filter, "kill", [1, 9, 0, 0, 0, 0], 0x8000_0000);
        check(&filter, "kill", [1, 9 | 1 << 40, 0, 0, 0, 0], ALLOW);
        check(&filter, "dup2", [0, 1 << 32, 0, 0, 0, 0], ALLOW);
        check(&filter, "dup2", [0, 1 << 33, 0, 0, 0, 0], 0x7ffc_0000);
        check(&filter, "dup2", [0, (1 << 32) + 1, 0, 0, 0, 0], 0x7ffc_0000);
        check(&filter, "dup3", [4, 0, 0, 0, 0, 0], 0x0003_0000);
        check(&filter, "dup3", [5, 0, 0, 0, 0, 0], ALLOW);
        check(&filter, "open", [0; 6], ALLOW);
        check(&from_json(text, 0).unwrap(), "open", [0; 6], ERRNO | 1);
        for bad in ["{}", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "nonsense"] {
            assert!(from_json(bad.as_bytes(), 0).is_err(), "{bad}");
        }
    }
}
