//! What each certificate of the cluster says.

use std::net::{IpAddr, Ipv4Addr};

/// The names a cluster's servers are reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The node's name.
    pub node: String,
    /// The cluster's DNS zone, `cluster.local` as a rule.
    pub cluster_domain: String,
    /// Address of the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// Addresses of the node.
    pub node_ips: Vec<IpAddr>,
    /// Further names and addresses users reach the API server by.
    pub extra: Vec<String>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The server side of TLS.
    Server,
    /// The client side of TLS.
    Client,
}

/// What a certificate shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Common name.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// For which side.
    pub usage: Usage,
}

impl Profile {
    /// A client's: common name is the user, organizations are its groups.
    pub fn client(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|o| (*o).to_owned()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// The API server's.
    pub fn api_server(names: &Names) -> Self {
        let mut dns: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
        dns.push(format!("kubernetes.default.svc.{}", names.cluster_domain));
        dns.push(names.node.clone());
        let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), names.service_ip];
        ips.extend(&names.node_ips);
        for extra in &names.extra {
            match extra.parse() {
                Ok(ip) => ips.push(ip),
                Err(_) => dns.push(extra.clone()),
            }
        }
        Self::server("kube-apiserver", &[], dns, ips)
    }

    /// The kubelet's serving certificate.
    pub fn kubelet(names: &Names) -> Self {
        let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        ips.extend(&names.node_ips);
        let dns = vec![names.node.clone(), "localhost".to_owned()];
        Self::server(&format!("system:node:{}", names.node), &["system:nodes"], dns, ips)
    }

    fn server(common_name: &str, organizations: &[&str], mut dns: Vec<String>, mut ips: Vec<IpAddr>) -> Self {
        dns.sort();
        dns.dedup();
        ips.sort();
        ips.dedup();
        Self { dns, ips, usage: Usage::Server, ..Self::client(common_name, organizations) }
    }
}
