//! The compiler: a sorted list of call numbers becomes a binary search in classic BPF.

use super::{ALLOW, Action, Comparison, Condition, ERRNO, Error, Rule};
use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
/// From here on numbers are those of x32, an ABI whose calls this filter does not name.
const X32: u32 = 0x4000_0000;
/// The kernel's limit.
const LENGTH_MAX: usize = 4096;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;

/// One instruction, as the kernel lays `sock_filter` out (little endian).
fn instruction(code: u16, yes: u8, no: u8, value: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(value) << 32
}

fn give(action: Action) -> u64 {
    instruction(RETURN, 0, 0, action)
}

/// Makes a filter of rules for call numbers; the first rule of a number that applies wins, `fallback` is for the rest.
/// Calls of foreign architectures do not exist for it (`ENOSYS`), so that nothing is bypassed through them.
pub(super) fn compile(fallback: Action, rules: &[(u32, Rule)]) -> Result<Vec<u64>, Error> {
    let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for (number, rule) in rules {
        calls.entry(*number).or_default().push(rule);
    }
    let mut segments: Vec<(u32, Vec<u64>)> = vec![(0, vec![give(fallback)])];
    let mut next = 0;
    for (number, rules) in calls {
        if number != next {
            push(&mut segments, next, vec![give(fallback)]);
        }
        push(&mut segments, number, body(fallback, &rules)?);
        next = number + 1;
    }
    push(&mut segments, next, vec![give(fallback)]);
    push(&mut segments, X32, vec![give(ERRNO | libc::ENOSYS as u32)]);
    let mut program = vec![
        instruction(LOAD, 0, 0, 4),
        instruction(JUMP_EQUAL, 1, 0, ARCH),
        give(ERRNO | libc::ENOSYS as u32),
        instruction(LOAD, 0, 0, 0),
    ];
    program.extend(search(&segments));
    if program.len() > LENGTH_MAX { Err(Error::Long(program.len())) } else { Ok(program) }
}

/// Adds a segment that starts at a number; one that does what the last does is the same segment.
fn push(segments: &mut Vec<(u32, Vec<u64>)>, start: u32, code: Vec<u64>) {
    match segments.last_mut() {
        Some(last) if last.1 == code => {}
        Some(last) if last.0 == start => last.1 = code,
        _ => segments.push((start, code)),
    }
}

fn search(segments: &[(u32, Vec<u64>)]) -> Vec<u64> {
    if let [(_, code)] = segments {
        return code.clone();
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let below = search(low);
    // The conditional jump reaches only 255 instructions, the plain one any number.
    let mut code = vec![instruction(JUMP_GREATER_EQUAL, 0, 1, high[0].0), instruction(JUMP, 0, 0, below.len() as u32)];
    code.extend(below);
    code.extend(search(high));
    code
}

fn body(fallback: Action, rules: &[&Rule]) -> Result<Vec<u64>, Error> {
    let mut code = Vec::new();
    for rule in rules {
        code.extend(conditional(rule)?);
        if rule.conditions.is_empty() {
            return Ok(code);
        }
    }
    code.push(give(fallback));
    Ok(code)
}

/// Where a jump of a condition leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Yes,
    /// It does not.
    No,
}

fn conditional(rule: &Rule) -> Result<Vec<u64>, Error> {
    let parts: Vec<_> = rule.conditions.iter().map(check).collect();
    let total: usize = parts.iter().map(Vec::len).sum();
    let last = parts.len().saturating_sub(1);
    let mut code = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let after = code.len() + part.len();
        for (op, yes, no, value) in part {
            let here = code.len();
            let negated = rule.negated && index == last;
            let target = |to: To| -> Result<u8, Error> {
                let distance = match (to, negated) {
                    (To::Next, _) => 0,
                    (To::Yes, false) | (To::No, true) => after - here - 1,
                    // Past the `return` of this rule.
                    (To::No, false) | (To::Yes, true) => total + 1 - here - 1,
                };
                u8::try_from(distance).map_err(|_| Error::Long(distance))
            };
            code.push(instruction(*op, target(*yes)?, target(*no)?, *value));
        }
    }
    code.push(give(rule.action));
    Ok(code)
}

/// Compares a 64-bit argument, its upper half first.
fn check(condition: &Condition) -> Vec<(u16, To, To, u32)> {
    use To::{Next, No, Yes};
    let offset = 16 + 8 * condition.argument;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let load = |offset: u32, mask: u32| {
        let mask = (mask != u32::MAX).then_some((AND, Next, Next, mask));
        std::iter::once((LOAD, Next, Next, offset)).chain(mask)
    };
    let mut code: Vec<_> = load(offset + 4, (condition.mask >> 32) as u32).collect();
    let lower = load(offset, condition.mask as u32);
    match condition.comparison {
        Comparison::Equal => {
            code.push((JUMP_EQUAL, Next, No, high));
            code.extend(lower);
            code.push((JUMP_EQUAL, Yes, No, low));
        }
        Comparison::NotEqual => {
            code.push((JUMP_EQUAL, Next, Yes, high));
            code.extend(lower);
            code.push((JUMP_EQUAL, No, Yes, low));
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let op = if condition.comparison == Comparison::Greater { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            code.push((JUMP_GREATER, Yes, Next, high));
            code.push((JUMP_EQUAL, Next, No, high));
            code.extend(lower);
            code.push((op, Yes, No, low));
        }
    }
    code
}

/// A rule without conditions.
pub(super) fn plain(action: Action) -> Rule {
    Rule { conditions: Vec::new(), negated: false, action }
}

/// A rule that allows when these conditions hold.
pub(super) fn allow_if(conditions: Vec<Condition>) -> Rule {
    Rule { conditions, negated: false, action: ALLOW }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    pub(crate) fn run(program: &[u64], number: u32, args: [u64; 6]) -> Action {
        let mut data = [number, ARCH, 0, 0].to_vec();
        args.iter().for_each(|arg| data.extend([*arg as u32, (*arg >> 32) as u32]));
        run_on(program, &data)
    }

    fn run_on(program: &[u64], data: &[u32]) -> Action {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let word = program[at];
            let (code, k) = (word as u16, (word >> 32) as u32);
            let branch = |taken: bool| 1 + if taken { word >> 16 & 0xff } else { word >> 24 & 0xff } as usize;
            at += match code {
                LOAD => {
                    value = data[k as usize / 4];
                    1
                }
                AND => {
                    value &= k;
                    1
                }
                RETURN => return k,
                JUMP => 1 + k as usize,
                JUMP_EQUAL => branch(value == k),
                JUMP_GREATER => branch(value > k),
                JUMP_GREATER_EQUAL => branch(value >= k),
                other => panic!("unknown instruction {other:x}"),
            };
        }
    }

    #[test]
    fn each_number_gets_its_action() {
        let odd: Vec<_> = (0..400).filter(|n| n % 3 == 0).map(|n| (n, plain(ERRNO | n))).collect();
        let program = compile(ALLOW, &odd).unwrap();
        for number in 0..500 {
            let expected = if number % 3 == 0 && number < 400 { ERRNO | number } else { ALLOW };
            assert_eq!(run(&program, number, [0; 6]), expected, "{number}");
        }
        assert_eq!(run(&program, X32 + 1, [0; 6]), ERRNO | 38);
        assert_eq!(run_on(&program, &[0, 0x4000_0003, 0, 0]), ERRNO | 38, "a foreign architecture");
    }
}
