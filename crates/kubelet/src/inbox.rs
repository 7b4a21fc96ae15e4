//! What a pod worker is told: merged while it is busy, so that nothing is lost and nothing piles up.

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Has it come up?
    Startup,
    /// May it get requests?
    Readiness,
    /// Shall it be restarted?
    Liveness,
}

/// All that happened since the worker last looked.
#[derive(Default)]
pub struct News {
    /// The pod's newest specification.
    pub pod: Option<Arc<Pod>>,
    /// The object is gone from the API.
    pub deleted: bool,
    /// A ConfigMap or Secret it uses changed.
    pub objects: bool,
    /// Ids of sandboxes and containers something happened to.
    pub runtime: HashSet<String>,
    /// Runtime events were lost: list.
    pub relist: bool,
    /// Results of probes: container id, probe, success.
    pub probes: Vec<(String, ProbeKind, bool)>,
    /// The kubelet wants the worker to end, leaving everything as it is.
    pub quit: bool,
}

#[derive(Default)]
struct Inner {
    news: Mutex<News>,
    notify: Notify,
}

/// The inbox of one worker. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Inner>);

impl Inbox {
    /// Tells something.
    pub fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.0.news.lock());
        self.0.notify.notify_one();
    }

    /// Waits for news and takes all of it. Cancel safe.
    pub async fn news(&self) -> News {
        self.0.notify.notified().await;
        std::mem::take(&mut self.0.news.lock())
    }
}
