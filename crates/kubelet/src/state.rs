//! What a pod worker remembers of its pod beside the specification and what the runtime has.

use crate::backoff::Backoff;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// A word for programs: `CrashLoopBackOff`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// A start (or a sandbox, under the empty name) that failed, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to show.
    pub waiting: Waiting,
    /// Shown instead of `waiting` from `settles_ns` on: `ErrImagePull` turns into `ImagePullBackOff`.
    pub settled: Option<Waiting>,
    /// See `settled`.
    pub settles_ns: i64,
    /// When to try again.
    pub retry_ns: i64,
    /// How many tries failed one after the other.
    pub count: u32,
}

/// Which probe condemned a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condemned {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
}

/// The name an image shows under, and its id, in a container's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageNames {
    /// `docker.io/library/busybox:latest`.
    pub image: String,
    /// `docker.io/library/busybox@sha256:…`, or the id.
    pub image_id: String,
}

/// The user a container's first process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessUser {
    /// User id.
    pub uid: i64,
    /// Group id.
    pub gid: i64,
    /// Further groups.
    pub groups: Vec<i64>,
}

/// The worker's memory. Containers go by id where the fact is about one of several tries, else by name.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Back-off of restarts, by container name and hash.
    pub backoff: Backoff,
    /// Back-off of pulls, by image.
    pub pulls: Backoff,
    /// Starts that failed, by container name.
    pub failures: HashMap<String, Failure>,
    /// Ids whose startup probe passed.
    pub started: HashSet<String>,
    /// Ids whose readiness probe's last result is a success.
    pub ready: HashSet<String>,
    /// Ids to be killed.
    pub condemned: HashMap<String, Condemned>,
    /// Ids being killed.
    pub killing: HashSet<String>,
    /// Ids with readiness probe results still carried over from before the kubelet's start.
    pub term_messages: HashMap<String, String>,
    /// Names of images by container id.
    pub images: HashMap<String, ImageNames>,
    /// Users by container id.
    pub users: HashMap<String, ProcessUser>,
    /// What containers wait for according to the last plan, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// True while a sandbox is made or a container started.
    pub busy: bool,
}

impl Local {
    /// Forgets what is known of a container that was removed.
    pub fn forget(&mut self, id: &str) {
        self.started.remove(id);
        self.ready.remove(id);
        self.condemned.remove(id);
        self.killing.remove(id);
        self.term_messages.remove(id);
        self.images.remove(id);
        self.users.remove(id);
    }
}
