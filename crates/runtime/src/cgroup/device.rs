//! Which devices a container may use: a small BPF program on its cgroup of version 2.

use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::io;
use std::path::Path;

/// Devices that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// `c` or `b`.
    pub kind: char,
    /// Major number; all when none.
    pub major: Option<u32>,
    /// Minor number; all when none.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made.
    pub mknod: bool,
}

impl DeviceRule {
    /// What every container may do: make nodes of any device (not open them), and use the harmless ones.
    pub fn usual() -> Vec<DeviceRule> {
        let make = |kind| DeviceRule { kind, major: None, minor: None, read: false, write: false, mknod: true };
        let use_ = |major, minor| DeviceRule::all('c', major, minor);
        let harmless = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
        let mut rules = vec![make('c'), make('b'), use_(136, None)];
        rules.extend(harmless.map(|(major, minor)| use_(major, Some(minor))));
        rules
    }

    /// All uses of a device.
    pub fn all(kind: char, major: u32, minor: Option<u32>) -> DeviceRule {
        DeviceRule { kind, major: Some(major), minor, read: true, write: true, mknod: true }
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{} {}:{} ", self.kind, number(self.major), number(self.minor))?;
        for (may, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            f.write_str(if may { letter } else { "" })?;
        }
        Ok(())
    }
}

/// One instruction of extended BPF.
fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let registers = to | from << 4;
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(value as u32) << 32
}

const LOAD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program: the kernel gives kind and access (`access << 16 | kind`), major and minor; it answers 1 for yes.
fn program(rules: &[DeviceRule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let access = i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let mut checks: Vec<(u8, u8, u8, i32)> = vec![(JUMP_UNEQUAL, 2, 0, kind)];
        checks.extend(rule.major.map(|major| (JUMP_UNEQUAL, 4, 0, major as i32)));
        checks.extend(rule.minor.map(|minor| (JUMP_UNEQUAL, 5, 0, minor as i32)));
        // Compute what of the access is allowed, then each check skips to the end of this rule.
        code.extend([instruction(COPY, 0, 3, 0, 0), instruction(AND, 0, 0, 0, access)]);
        checks.push((JUMP_UNEQUAL_REGISTER, 0, 3, 0));
        let count = checks.len();
        for (index, (op, to, from, value)) in checks.into_iter().enumerate() {
            code.push(instruction(op, to, from, (count - index - 1 + 2) as i16, value));
        }
        code.extend([instruction(MOVE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    }
    code.extend([instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// Attaches the program to a cgroup's folder.
pub(super) fn restrict(folder: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let cgroup = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    crate::syscall::attach_device_program(&program(rules), cgroup)
}
