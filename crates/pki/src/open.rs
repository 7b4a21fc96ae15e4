//! Opening a cluster's directory of certificates, and renewing them while it runs.

use crate::service_account::{self, Pending, ServiceAccountKey};
use crate::{Authority, Error, Identity, Names, Profile, Swap, file};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The leaf certificates every cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// What the API server shows its clients.
    ApiServer,
    /// What the kubelet shows its clients.
    Kubelet,
    /// The administrator: group `system:masters`.
    Admin,
    /// The API server towards kubelets, which know it by name. It is nobody at the API server: a node says itself where its
    /// kubelet is, and might say that it is there.
    ApiServerKubeletClient,
    /// The API server towards extension API servers, signed by an authority of its own.
    FrontProxyClient,
}

const LEAVES: [Leaf; 5] =
    [Leaf::ApiServer, Leaf::Kubelet, Leaf::Admin, Leaf::ApiServerKubeletClient, Leaf::FrontProxyClient];

impl Leaf {
    fn file(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver.pem",
            Self::Kubelet => "kubelet.pem",
            Self::Admin => "admin.pem",
            Self::ApiServerKubeletClient => "apiserver-kubelet-client.pem",
            Self::FrontProxyClient => "front-proxy-client.pem",
        }
    }

    fn profile(self, names: &Names) -> Profile {
        match self {
            Self::ApiServer => Profile::api_server(names),
            Self::Kubelet => Profile::kubelet(names),
            Self::Admin => Profile::client("kubernetes-admin", &["system:masters"]),
            Self::ApiServerKubeletClient => Profile::client("kube-apiserver-kubelet-client", &[]),
            Self::FrontProxyClient => Profile::client("front-proxy-client", &[]),
        }
    }
}

struct Held {
    leaf: Leaf,
    identity: Identity,
    swap: Arc<Swap>,
}

/// The certificates and keys of one cluster.
pub struct Pki {
    dir: PathBuf,
    names: Names,
    cluster: Authority,
    front_proxy: Authority,
    leaves: Mutex<Vec<Held>>,
    service_account: Pending,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Pki {
    /// Opens the directory, makes what is missing and renews what is due. Takes a few milliseconds; a missing
    /// service-account key is searched for in the background.
    pub fn open_or_create(dir: &Path, names: &Names) -> Result<Self, Error> {
        Self::open_at(dir, names, SystemTime::now())
    }

    /// As `open_or_create`, at a given time.
    pub fn open_at(dir: &Path, names: &Names, now: SystemTime) -> Result<Self, Error> {
        file::private_dir(dir)?;
        let service_account = service_account::open(dir.join("service-account.pem"))?;
        // Side by side: each waits for the disk.
        let (cluster, front_proxy) = std::thread::scope(|scope| {
            let front_proxy = scope.spawn(|| authority(&dir.join("front-proxy-ca.pem"), "front-proxy-ca", now));
            let cluster = authority(&dir.join("ca.pem"), "kubernetes", now);
            (cluster, front_proxy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (cluster, front_proxy) = (cluster?, front_proxy?);
        let pki = Self {
            dir: dir.to_owned(),
            names: names.clone(),
            cluster,
            front_proxy,
            leaves: Mutex::new(Vec::new()),
            service_account,
        };
        let held = LEAVES.into_iter().map(|leaf| pki.open_leaf(leaf, now)).collect::<Result<Vec<_>, _>>()?;
        *pki.leaves.lock().unwrap_or_else(PoisonError::into_inner) = held;
        // For users and scripts: the certificate alone, nothing secret.
        let public = dir.join("ca.crt");
        if file::read(&public)?.as_deref() != Some(pki.cluster.certificate_pem()) {
            file::write(&public, pki.cluster.certificate_pem())?;
        }
        file::sync_dir(dir)?;
        Ok(pki)
    }

    /// The cluster's authority: signs servers and clients.
    pub fn authority(&self) -> &Authority {
        &self.cluster
    }

    /// The authority for front proxies.
    pub fn front_proxy_authority(&self) -> &Authority {
        &self.front_proxy
    }

    /// A leaf's certificate and key as they are now.
    pub fn identity(&self, leaf: Leaf) -> Identity {
        self.with(leaf, |held| held.identity.clone())
    }

    /// The resolver that shows a leaf in TLS handshakes, and follows its renewal.
    pub fn swap(&self, leaf: Leaf) -> Arc<Swap> {
        self.with(leaf, |held| held.swap.clone())
    }

    /// A client certificate for any user. Not kept: renewing it is the caller's matter.
    pub fn issue(&self, profile: &Profile) -> Result<Identity, Error> {
        self.cluster.issue(profile, SystemTime::now())
    }

    /// A kubeconfig for the administrator.
    pub fn admin_kubeconfig(&self, cluster: &str, server: &str) -> String {
        crate::kubeconfig(cluster, server, self.cluster.certificate_pem(), &self.identity(Leaf::Admin))
    }

    /// The key of service-account tokens; waits until it is found.
    pub async fn service_account_key(&self) -> Result<Arc<ServiceAccountKey>, Arc<Error>> {
        let mut pending = self.service_account.clone();
        let gone = || Arc::new(Error::ServiceAccountKey("the search was broken off".into()));
        let found = pending.wait_for(Option::is_some).await.map_err(|_| gone())?;
        found.clone().unwrap_or_else(|| Err(gone()))
    }

    /// When the next certificate ought to be renewed.
    pub fn certificates_due(&self) -> SystemTime {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let due = leaves.iter().filter_map(|held| held.identity.renew_at().ok()).min();
        due.unwrap_or_else(SystemTime::now)
    }

    /// Renews what is due at `now`; TLS configurations follow. Gives the leaves that were renewed.
    pub fn renew(&self, now: SystemTime) -> Result<Vec<Leaf>, Error> {
        let mut renewed = Vec::new();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        for held in leaves.iter_mut() {
            if held.identity.renew_at()? > now || self.issuer(held.leaf).not_after() <= now {
                continue;
            }
            held.identity = self.issue_leaf(held.leaf, now)?;
            held.swap.replace(&held.identity)?;
            renewed.push(held.leaf);
        }
        if !renewed.is_empty() {
            file::sync_dir(&self.dir)?;
        }
        Ok(renewed)
    }

    fn with<T>(&self, leaf: Leaf, take: impl FnOnce(&Held) -> T) -> T {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        take(leaves.iter().find(|held| held.leaf == leaf).expect("opening made every leaf"))
    }

    fn issuer(&self, leaf: Leaf) -> &Authority {
        if leaf == Leaf::FrontProxyClient { &self.front_proxy } else { &self.cluster }
    }

    fn issue_leaf(&self, leaf: Leaf, now: SystemTime) -> Result<Identity, Error> {
        let identity = self.issuer(leaf).issue(&leaf.profile(&self.names), now)?;
        file::write(&self.dir.join(leaf.file()), &identity.to_pem())?;
        Ok(identity)
    }

    fn open_leaf(&self, leaf: Leaf, now: SystemTime) -> Result<Held, Error> {
        let stored = file::read(&self.dir.join(leaf.file()))?;
        let usable = stored.and_then(|pem| match Identity::from_pem(&pem) {
            Ok(identity) => self.still_good(leaf, &identity, now).unwrap_or(false).then_some(identity),
            Err(error) => {
                tracing::warn!(file = leaf.file(), %error, "a certificate is damaged and is made anew");
                None
            }
        });
        let identity = match usable {
            Some(identity) => identity,
            None => self.issue_leaf(leaf, now)?,
        };
        let swap = Arc::new(Swap::new(&identity)?);
        Ok(Held { leaf, identity, swap })
    }

    fn still_good(&self, leaf: Leaf, identity: &Identity, now: SystemTime) -> Result<bool, Error> {
        let profile = leaf.profile(&self.names);
        let subject = identity.subject()?;
        Ok(self.issuer(leaf).signed(&identity.certificate()?)?
            && subject.common_name == profile.common_name
            && subject.organizations == profile.organizations
            && identity.covers(&profile.dns, &profile.ips)?
            && identity.validity()?.0 <= now
            && identity.renew_at()? > now)
    }
}

/// Reads an authority or makes one. A damaged or expired one is the user's to decide on: all trust hangs on it.
fn authority(path: &Path, common_name: &str, now: SystemTime) -> Result<Authority, Error> {
    let damaged = |e: Error| Error::Damaged { path: path.to_owned(), problem: e.to_string() };
    let Some(pem) = file::read(path)? else {
        let authority = Authority::create(common_name, now)?;
        file::write_durably(path, &authority.identity().to_pem())?;
        return Ok(authority);
    };
    let authority = Identity::from_pem(&pem).and_then(Authority::from_identity).map_err(damaged)?;
    if authority.not_after() <= now {
        return Err(Error::Expired { path: path.to_owned() });
    }
    Ok(authority)
}
