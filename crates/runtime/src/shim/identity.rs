//! Who a process is: names looked up in the container's own `/etc/passwd` and `/etc/group`.

use crate::spec::User;
use std::io::Read;

/// The most that is read of either file: an image's content is not trusted.
const FILE_SIZE_MAX: u64 = 4 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Looks a user up in the files of the root this process is in.
pub(super) fn resolve(user: &User) -> Result<Identity, String> {
    let read = |path: &str| {
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(path) {
            let _partial = file.take(FILE_SIZE_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    lookup(user, &read("/etc/passwd"), &read("/etc/group"))
}

fn lookup(user: &User, passwd: &str, group: &str) -> Result<Identity, String> {
    let (who, group_asked) = match user.name.split_once(':') {
        Some((who, group)) => (who, Some(group).filter(|g| !g.is_empty())),
        None => (user.name.as_str(), None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let number = who.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6 && (fields[0] == who || number.is_some() && fields[2].parse() == Ok(number.unwrap_or(0)))
    });
    let mut found = Identity { home: "/".to_owned(), ..Identity::default() };
    let mut name = None;
    match (&entry, number) {
        (Some(fields), _) => {
            found.uid = fields[2].parse().map_err(|_| format!("user {who}: bad number in /etc/passwd"))?;
            found.gid = fields[3].parse().unwrap_or(0);
            found.home = if fields[5].is_empty() { "/".to_owned() } else { fields[5].to_owned() };
            name = Some(fields[0]);
        }
        (None, Some(number)) => found.uid = number,
        (None, None) => return Err(format!("unable to find user {who}: no matching entries in passwd file")),
    }
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    if let Some(asked) = group_asked {
        let known = groups().find(|fields| fields[0] == asked).and_then(|fields| fields[2].parse().ok());
        found.gid = known
            .or_else(|| asked.parse().ok())
            .ok_or_else(|| format!("unable to find group {asked}: no matching entries in group file"))?;
    }
    if let Some(gid) = user.gid {
        found.gid = gid;
    }
    found.groups = user.groups.clone();
    if let (Some(name), false) = (name, user.strict_groups) {
        let member = groups().filter(|fields| fields[3].split(',').any(|member| member == name));
        found.groups.extend(member.filter_map(|fields| fields[2].parse::<u32>().ok()));
    }
    found.groups.push(found.gid);
    found.groups.sort_unstable();
    found.groups.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web:/srv:/bin/false\nodd:x:no\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:7:web,root\nadm:x:4:other\n";

    fn check(name: &str, change: impl FnOnce(&mut User), expected: Result<(u32, u32, &[u32], &str), &str>) {
        let mut user = User { name: name.to_owned(), ..User::default() };
        change(&mut user);
        let found = lookup(&user, PASSWD, GROUP);
        let found =
            found.as_ref().map(|i| (i.uid, i.gid, i.groups.as_slice(), i.home.as_str())).map_err(String::as_str);
        assert_eq!(found, expected, "{user:?}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let same = |_: &mut User| {};
        check("", same, Ok((0, 0, &[0, 7], "/root")));
        check("web", same, Ok((101, 102, &[7, 102], "/srv")));
        check("101", same, Ok((101, 102, &[7, 102], "/srv")));
        check("101:adm", same, Ok((101, 4, &[4, 7], "/srv")));
        check("5000", same, Ok((5000, 0, &[0], "/")));
        check("5000:77", same, Ok((5000, 77, &[77], "/")));
        check("web", |u| u.gid = Some(9), Ok((101, 9, &[7, 9], "/srv")));
        check("web", |u| u.groups = vec![1, 2], Ok((101, 102, &[1, 2, 7, 102], "/srv")));
        check("web", |u| u.strict_groups = true, Ok((101, 102, &[102], "/srv")));
        check("nobody", same, Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", same, Err("unable to find group none: no matching entries in group file"));
    }
}
