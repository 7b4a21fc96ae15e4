//! A pod's names: host name, `/etc/hosts`, `/etc/resolv.conf`.

use crate::spec;
use cri::DnsConfig;
use k8s_openapi::api::core::v1::Pod;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// A host name has at most so many bytes.
const HOSTNAME_MAX: usize = 63;
/// Search domains kept.
const SEARCHES_MAX: usize = 32;
/// Name servers kept.
const SERVERS_MAX: usize = 3;

/// Host name and domain of a pod.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let s = spec::spec(pod);
    if let Some(name) = s.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let name = s.hostname.as_deref().filter(|n| !n.is_empty()).unwrap_or_else(|| spec::name(pod));
    let name = name[..name.len().min(HOSTNAME_MAX)].trim_end_matches(['-', '.']).to_owned();
    let domain = match s.subdomain.as_deref().filter(|d| !d.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    (name, domain)
}

/// The host name the kernel is told: the full one when the pod asks for it.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (name, domain) = hostname(pod, cluster_domain);
    if spec::spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}");
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

fn aliases(out: &mut String, pod: &Pod) {
    let list = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !list.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in list {
        let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
}

/// The content of a pod's `/etc/hosts`; `node_hosts` is the node's own, for pods on its network.
pub fn hosts(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let mut out = String::new();
    if spec::host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_hosts);
        aliases(&mut out, pod);
        return out;
    }
    out.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    let (name, domain) = hostname(pod, cluster_domain);
    for ip in ips {
        let _ = if domain.is_empty() {
            writeln!(out, "{ip}\t{name}")
        } else {
            writeln!(out, "{ip}\t{name}.{domain}\t{name}")
        };
    }
    aliases(&mut out, pod);
    out
}

/// Writes `/etc/hosts` when it differs, in place: running containers have it mounted.
pub fn write_hosts(path: &Path, content: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

/// The parts of a `resolv.conf`.
pub fn parse_resolv(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config.searches.retain(|s| !s.is_empty());
    config
}

fn unique(list: Vec<String>, max: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out.truncate(max);
    out
}

/// The resolver of a pod, after its policy. `node` is the node's own `resolv.conf`.
pub fn dns(pod: &Pod, cluster_dns: &[String], cluster_domain: &str, node: &str) -> DnsConfig {
    let s = spec::spec(pod);
    let policy = s.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let own = parse_resolv(node);
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let namespace = spec::namespace(pod);
        let mut searches = vec![
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        searches.extend(own.searches);
        DnsConfig { servers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".into()] }
    } else {
        own
    };
    if let Some(extra) = &s.dns_config {
        config.servers.extend(extra.nameservers.iter().flatten().cloned());
        config.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(&name));
            config.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    DnsConfig {
        servers: unique(config.servers, SERVERS_MAX),
        searches: unique(config.searches, SEARCHES_MAX),
        options: config.options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn hosts_files() {
        let p = pod(
            json!({"containers": [], "hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts(&p, &["10.0.0.5".into()], "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.0.0.5\th.s.n.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        let host = pod(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(
            hosts(&host, &[], "c", "127.0.0.1 x\n"),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n"
        );
    }

    #[test]
    fn names() {
        let p = pod(json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&p, "cluster.local").as_deref(), Ok("p.s.n.svc.cluster.local"));
        let long =
            pod(json!({"containers": [], "hostname": "x".repeat(63), "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(kernel_hostname(&long, "cluster.local").is_err());
        assert_eq!(kernel_hostname(&pod(json!({"containers": []})), "c").as_deref(), Ok("p"));
    }

    #[test]
    fn resolvers() {
        let node = "nameserver 9.9.9.9\nsearch example.org\noptions edns0\n";
        let cluster = ["10.43.0.10".to_owned()];
        let check = |spec| {
            let d = dns(&pod(spec), &cluster, "cluster.local", node);
            format!("{} | {} | {}", d.servers.join(" "), d.searches.join(" "), d.options.join(" "))
        };
        let first = "10.43.0.10 | n.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5";
        for (spec, want) in [
            (json!({"containers": []}), first),
            (json!({"containers": [], "hostNetwork": true}), "9.9.9.9 | example.org | edns0"),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), first),
            (json!({"containers": [], "dnsPolicy": "Default"}), "9.9.9.9 | example.org | edns0"),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}}),
                "1.1.1.1 | x | ndots:2 debug",
            ),
            (
                json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "10.43.0.10 | n.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:1",
            ),
        ] {
            assert_eq!(check(spec), want);
        }
    }
}
