//! The settings: flags over one file over defaults, parsed and checked before anything starts.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What a user may set; the file has the same names in camel case.
#[derive(Clone, Debug, Default, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Port of the API server [default: 6443]
    #[arg(long, value_name = "PORT")]
    pub(crate) api_port: Option<u16>,
    /// Port of the kubelet [default: 10250]
    #[arg(long, value_name = "PORT")]
    pub(crate) kubelet_port: Option<u16>,
    /// Address the API server and the kubelet listen on [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub(crate) bind_address: Option<IpAddr>,
    /// Addresses of pods [default: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// Addresses of Services [default: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<String>,
    /// Ports of Services of type NodePort [default: 30000-32767]
    #[arg(long, value_name = "FROM-TO")]
    pub(crate) node_port_range: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Domain of the cluster [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Registry that speaks plain HTTP (repeatable); loopback always may
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    #[serde(rename = "insecureRegistries")]
    pub(crate) insecure_registries: Vec<String>,
    /// Registry to ask first for images of another (repeatable)
    #[arg(long = "mirror", value_name = "REGISTRY=URL")]
    #[serde(rename = "mirrors")]
    pub(crate) mirrors: Vec<String>,
}

/// The settings, whole and checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) bind_address: IpAddr,
    pub(crate) api_port: u16,
    pub(crate) kubelet_port: u16,
    pub(crate) pod_cidr: Cidr,
    pub(crate) service_cidr: Cidr,
    pub(crate) node_ports: RangeInclusive<u16>,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) mirrors: Vec<(String, String)>,
}

/// An IPv4 range: its first address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) first: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Cidr {
    /// Parses and checks that no host bits are set and that it holds at least 256 addresses.
    fn parse(what: &str, text: &str) -> Result<Cidr> {
        let form = || format!("{what}: {text:?} is no IPv4 range such as 10.42.0.0/16");
        let (first, prefix) = text.split_once('/').with_context(form)?;
        let cidr = Cidr { first: first.parse().with_context(form)?, prefix: prefix.parse().with_context(form)? };
        ensure!((8..=24).contains(&cidr.prefix), "{what}: {text}: the prefix length must be 8 to 24");
        let start = u32::from(cidr.first) & cidr.mask();
        ensure!(
            start == u32::from(cidr.first),
            "{what}: {text} has host bits set; {}/{} begins there",
            Ipv4Addr::from(start),
            cidr.prefix
        );
        Ok(cidr)
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// The address with this number in the range.
    pub(crate) fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + n)
    }

    fn overlaps(&self, other: &Cidr) -> bool {
        let mask = self.mask() & other.mask();
        u32::from(self.first) & mask == u32::from(other.first) & mask
    }
}

/// Where the settings of the last start are kept, for those that follow and for `reset`.
const SAVED: &str = "settings.yaml";

impl Config {
    /// Reads the settings of the last start, lays the file (when there is one) and the flags over them, fills in defaults,
    /// and checks all of it.
    pub(crate) fn load(data_dir: &Path, file: Option<&Path>, flags: Settings) -> Result<Config> {
        let saved = data_dir.join(SAVED);
        let mut settings = if saved.exists() { read_file(&saved)? } else { Settings::default() };
        if let Some(path) = file {
            settings = overlay(settings, read_file(path)?);
        }
        let settings = overlay(settings, flags);
        let pod_cidr = Cidr::parse("pod-cidr", settings.pod_cidr.as_deref().unwrap_or("10.42.0.0/16"))?;
        let service_cidr = Cidr::parse("service-cidr", settings.service_cidr.as_deref().unwrap_or("10.43.0.0/16"))?;
        ensure!(!pod_cidr.overlaps(&service_cidr), "pod-cidr {pod_cidr} and service-cidr {service_cidr} overlap");
        let api_port = settings.api_port.unwrap_or(6443);
        let kubelet_port = settings.kubelet_port.unwrap_or(10250);
        ensure!(api_port != kubelet_port, "api-port and kubelet-port are both {api_port}");
        let node_name = settings.node_name.unwrap_or_else(default_node_name);
        if let Some(problem) = machinery::name::dns1123_subdomain(&node_name).first() {
            bail!("node-name: {node_name:?}: {problem}");
        }
        let cluster_domain = settings.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned());
        if let Some(problem) = machinery::name::dns1123_subdomain(&cluster_domain).first() {
            bail!("cluster-domain: {cluster_domain:?}: {problem}");
        }
        Ok(Config {
            data_dir: data_dir.to_owned(),
            bind_address: settings.bind_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            api_port,
            kubelet_port,
            node_ports: parse_ports(settings.node_port_range.as_deref().unwrap_or("30000-32767"))?,
            node_ip: settings.node_ip.or_else(default_node_ip).unwrap_or_else(|| pod_cidr.nth(1).into()),
            node_name,
            pod_cidr,
            service_cidr,
            cluster_domain,
            insecure_registries: settings.insecure_registries,
            mirrors: settings.mirrors.iter().map(|m| parse_mirror(m)).collect::<Result<_>>()?,
        })
    }

    /// Keeps the settings for the next start and for `reset`. The ranges are fixed by the first start: addresses of them are in use.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.data_dir.join(SAVED);
        let mirrors = self.mirrors.iter().map(|(registry, url)| format!("{registry}={url}")).collect();
        let settings = Settings {
            api_port: Some(self.api_port),
            kubelet_port: Some(self.kubelet_port),
            bind_address: Some(self.bind_address),
            pod_cidr: Some(self.pod_cidr.to_string()),
            service_cidr: Some(self.service_cidr.to_string()),
            node_port_range: Some(format!("{}-{}", self.node_ports.start(), self.node_ports.end())),
            node_name: Some(self.node_name.clone()),
            node_ip: None,
            cluster_domain: Some(self.cluster_domain.clone()),
            insecure_registries: self.insecure_registries.clone(),
            mirrors,
        };
        if let Ok(before) = read_file(&path) {
            let fixed = [
                ("pod-cidr", before.pod_cidr, &settings.pod_cidr),
                ("service-cidr", before.service_cidr, &settings.service_cidr),
                ("cluster-domain", before.cluster_domain, &settings.cluster_domain),
                ("node-name", before.node_name, &settings.node_name),
            ];
            for (name, before, now) in fixed {
                ensure!(
                    before.is_none() || before == *now,
                    "{name} was {} when this cluster was first started and cannot be changed to {}; `kijabi reset` removes the cluster",
                    before.unwrap_or_default(),
                    now.as_deref().unwrap_or_default()
                );
            }
        }
        // JSON is YAML.
        std::fs::write(&path, serde_json::to_vec_pretty(&settings)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The address of the API server for clients on this machine.
    pub(crate) fn server_url(&self) -> String {
        let host = if self.bind_address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.bind_address };
        format!("https://{}", std::net::SocketAddr::new(host, self.api_port))
    }

    /// The address of the `kubernetes` Service.
    pub(crate) fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(1)
    }

    /// The address of the `kube-dns` Service.
    pub(crate) fn dns_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(10)
    }
}

fn read_file(path: &Path) -> Result<Settings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("the configuration {} is wrong: {e}", path.display()))
}

/// Flags win over the file; a list that is given replaces the other.
fn overlay(file: Settings, flags: Settings) -> Settings {
    let either = |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
    Settings {
        api_port: flags.api_port.or(file.api_port),
        kubelet_port: flags.kubelet_port.or(file.kubelet_port),
        bind_address: flags.bind_address.or(file.bind_address),
        pod_cidr: flags.pod_cidr.or(file.pod_cidr),
        service_cidr: flags.service_cidr.or(file.service_cidr),
        node_port_range: flags.node_port_range.or(file.node_port_range),
        node_name: flags.node_name.or(file.node_name),
        node_ip: flags.node_ip.or(file.node_ip),
        cluster_domain: flags.cluster_domain.or(file.cluster_domain),
        insecure_registries: either(flags.insecure_registries, file.insecure_registries),
        mirrors: either(flags.mirrors, file.mirrors),
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>> {
    let form = || format!("node-port-range: {text:?} is no range such as 30000-32767");
    let (from, to) = text.split_once('-').with_context(form)?;
    let (from, to): (u16, u16) = (from.parse().with_context(form)?, to.parse().with_context(form)?);
    ensure!(
        from > 0 && from <= to,
        "node-port-range: {text}: the first port must be at least 1 and not above the last"
    );
    Ok(from..=to)
}

fn parse_mirror(text: &str) -> Result<(String, String)> {
    let (registry, url) = text.split_once('=').with_context(|| format!("mirror: {text:?} is not REGISTRY=URL"))?;
    ensure!(!registry.is_empty() && !url.is_empty(), "mirror: {text:?} is not REGISTRY=URL");
    Ok((registry.to_owned(), url.to_owned()))
}

fn default_node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if name.is_empty() || name == "(none)" { "node".to_owned() } else { name }
}

/// The address that the machine would use to reach the world. Nothing is sent.
fn default_node_ip() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 123), 9)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: Settings, file: Option<&str>) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        Config::load(folder.path(), file.map(|_| path.as_path()), flags).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_over_file_over_defaults() {
        let flags = Settings { api_port: Some(1), ..Settings::default() };
        let config =
            load(flags, Some("apiPort: 2\nkubeletPort: 3\nnodeName: n1\nmirrors: ['docker.io=http://m']\n")).unwrap();
        assert_eq!((config.api_port, config.kubelet_port, config.node_name.as_str()), (1, 3, "n1"));
        assert_eq!(config.pod_cidr.to_string(), "10.42.0.0/16");
        assert_eq!(config.dns_ip(), Ipv4Addr::new(10, 43, 0, 10));
        assert_eq!(config.mirrors, [("docker.io".to_owned(), "http://m".to_owned())]);
    }

    #[test]
    fn ranges_stay_as_the_first_start_had_them() {
        let folder = tempfile::tempdir().unwrap();
        let load = |flags| Config::load(folder.path(), None, flags).unwrap();
        load(Settings { pod_cidr: Some("10.62.0.0/16".to_owned()), api_port: Some(1), ..Settings::default() })
            .save()
            .unwrap();
        let again = load(Settings::default());
        assert_eq!((again.pod_cidr.to_string(), again.api_port), ("10.62.0.0/16".to_owned(), 1));
        load(Settings { api_port: Some(2), ..Settings::default() }).save().unwrap();
        let changed = load(Settings { pod_cidr: Some("10.64.0.0/16".to_owned()), ..Settings::default() }).save();
        assert!(changed.unwrap_err().to_string().contains("cannot be changed to 10.64.0.0/16"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let flags = |pod: &str| Settings { pod_cidr: Some(pod.to_owned()), ..Settings::default() };
        for (result, part) in [
            (load(flags("10.42.0.0"), None), "is no IPv4 range"),
            (load(flags("10.42.0.1/16"), None), "host bits"),
            (load(flags("10.42.0.0/30"), None), "8 to 24"),
            (load(flags("10.43.128.0/17"), None), "overlap"),
            (load(Settings::default(), Some("apiport: 1")), "apiport"),
            (load(Settings::default(), Some("nodeName: -x")), "node-name"),
            (load(Settings::default(), Some("nodePortRange: 5-4")), "node-port-range"),
            (load(Settings::default(), Some("mirrors: [x]")), "REGISTRY=URL"),
            (load(Settings { kubelet_port: Some(6443), ..Settings::default() }, None), "both 6443"),
        ] {
            let error = result.expect_err(part);
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
}
