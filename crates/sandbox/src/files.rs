//! Files of a sandbox's folder: replaced whole, never half written.

use crate::state::{ContainerFile, Pod, PodFile, internal, lock};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

const POD: &str = "sandbox.json";

/// Writes a file whole. Not flushed: after a power loss no process of the sandbox is left, and it is thrown away.
fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, serde_json::to_vec(content)?)?;
    std::fs::rename(&draft, path)
}

pub(crate) fn container_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

pub(crate) fn write_pod(dir: &Path, file: &PodFile) -> cri::Result<()> {
    replace(&dir.join(POD), file).map_err(|e| internal("write sandbox state", &e))
}

pub(crate) fn save_pod(pod: &Pod) -> cri::Result<()> {
    let file = lock(&pod.file).clone();
    write_pod(&pod.dir, &file)
}

pub(crate) fn read_pod(dir: &Path) -> io::Result<PodFile> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join(POD))?)?)
}

pub(crate) fn write_container(dir: &Path, file: &ContainerFile) -> cri::Result<()> {
    replace(&container_path(dir, &file.status.id), file).map_err(|e| internal("write container state", &e))
}

pub(crate) fn read_container(dir: &Path, id: &str) -> io::Result<ContainerFile> {
    Ok(serde_json::from_slice(&std::fs::read(container_path(dir, id))?)?)
}

/// The ids of the containers whose files are in a folder.
pub(crate) fn container_ids(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".json").filter(|id| id.len() == 64).map(str::to_owned)).collect()
}

/// The content of `/etc/resolv.conf`.
pub(crate) fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn resolv_conf_is_written_as_resolvers_read_it() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let dns = cri::DnsConfig {
            servers: list(&["10.43.0.10", "1.1.1.1"]),
            searches: list(&["a.svc.cluster.local", "cluster.local"]),
            options: list(&["ndots:5"]),
        };
        let expected =
            "search a.svc.cluster.local cluster.local\nnameserver 10.43.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(super::resolv_conf(&dns), expected);
        assert_eq!(super::resolv_conf(&cri::DnsConfig::default()), "");
    }
}
