//! Capabilities by name.

/// Names by bit number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All that there are.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// What a container has when nobody says otherwise, as Docker and containerd have it.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The bit of a capability, written with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|known| *known == name).map(|bit| 1 << bit)
}

/// A container's set: all when privileged; otherwise the default without `drop` and with `add`. `ALL` stands for all.
pub fn set(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, String> {
    if privileged {
        return Ok(ALL);
    }
    let parse = |name: &String| match name.to_ascii_uppercase().as_str() {
        "ALL" | "CAP_ALL" => Ok(ALL),
        _ => bit(name).ok_or_else(|| format!("unknown capability {name:?}")),
    };
    let union = |names: &[String]| names.iter().try_fold(0, |set, name| Ok::<_, String>(set | parse(name)?));
    let default = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
    // `add: ALL, drop: X` means all but X; `drop: ALL, add: X` means X alone.
    let (added, dropped) = (union(add)?, union(drop)?);
    Ok(if added == ALL { ALL & !dropped } else { default & !dropped | added })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_made_as_users_expect() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |add: &[&str], drop: &[&str], expected: u64| {
            assert_eq!(set(false, &names(add), &names(drop)), Ok(expected), "+{add:?} -{drop:?}");
        };
        let default = 0x0000_0000_a804_25fb;
        check(&[], &[], default);
        check(&["NET_ADMIN"], &[], default | 1 << 12);
        check(&["cap_sys_time"], &["ALL"], 1 << 25);
        check(&[], &["KILL", "CAP_CHOWN"], default & !(1 << 5) & !1);
        check(&["ALL"], &["SYS_ADMIN"], ALL & !(1 << 21));
        assert_eq!(set(true, &[], &[]), Ok(ALL));
        assert!(set(false, &names(&["FLY"]), &[]).is_err());
    }
}
