//! What a kubelet is given.

use client::Client;
use cri::{ImageService, RuntimeService};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the kubelet's HTTPS server listens, and with which certificates.
pub struct Server {
    /// Bound already; its port is what the node announces.
    pub listener: tokio::net::TcpListener,
    /// Certificate of this node, and the authority client certificates must come from.
    pub tls: Arc<rustls::ServerConfig>,
    /// Common names that may call: `kube-apiserver-kubelet-client`. Members of `system:masters` may, too.
    pub allowed_names: Vec<String>,
}

/// Configuration of one kubelet. Everything is decided before it starts.
pub struct Config {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node, the primary first.
    pub node_ips: Vec<String>,
    /// The kubelet's folder: `pods/`, `seccomp/`.
    pub root_dir: PathBuf,
    /// Where the folders of container logs are.
    pub log_dir: PathBuf,
    /// A client with the identity `system:node:<name>`.
    pub client: Client,
    /// Runs pods.
    pub runtime: Arc<dyn RuntimeService>,
    /// Has images.
    pub images: Arc<dyn ImageService>,
    /// Name servers of the cluster.
    pub cluster_dns: Vec<String>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The HTTPS server, or none (simulated nodes).
    pub server: Option<Server>,
    /// A folder of static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// Most pods at one time.
    pub max_pods: u32,
    /// Most processes of one pod; 0 for no limit.
    pub pod_pids_limit: i64,
    /// A log file is rotated when it is larger.
    pub log_bytes_max: u64,
    /// Log files kept of one container.
    pub log_files_max: u32,
    /// Labels the node gets beside the usual ones (`node-role.kubernetes.io/control-plane`).
    pub labels: BTreeMap<String, String>,
    /// The Kubernetes version to report, `v1.37.2`.
    pub version: String,
    /// What the node has; read from the machine when none.
    pub capacity: Option<crate::node::Capacity>,
}

impl Config {
    /// A configuration with the usual limits.
    pub fn new(
        node_name: &str,
        client: Client,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
    ) -> Config {
        Config {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            root_dir: PathBuf::from("/var/lib/kubelet"),
            log_dir: PathBuf::from("/var/log/pods"),
            client,
            runtime,
            images,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            server: None,
            static_pod_dir: None,
            max_pods: 110,
            pod_pids_limit: 0,
            log_bytes_max: 10 << 20,
            log_files_max: 5,
            labels: BTreeMap::new(),
            version: "v1.37.2".into(),
            capacity: None,
        }
    }
}
