//! What travels with a request through the pipeline, and the links of the chain it passes.

use crate::call::Call;
use async_trait::async_trait;
use machinery::Status;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:kube-scheduler`, `system:serviceaccount:NS:NAME`, the common name of a certificate, …
    pub name: String,
    /// Stable id, when the authenticator has one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts (`authentication.kubernetes.io/credential-id`, …).
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Where a request comes from. In-process requests have a user already; those of the wire have a peer.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Address of the far end.
    pub address: Option<SocketAddr>,
    /// The client certificate in DER, its chain already verified against the client CA by TLS.
    pub certificate: Option<Arc<[u8]>>,
    /// Set only by in-process transports.
    pub user: Option<Arc<UserInfo>>,
}

/// What a request wants to do: the input of authorization and admission.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Who.
    pub user: Arc<UserInfo>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `connect` (admission only); the
    /// lower-case HTTP method for non-resource requests.
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource (plural), for instance `pods`.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// The URL's path.
    pub path: String,
    /// False for `/healthz`, `/version` and the like.
    pub resource_request: bool,
    /// Label selector of a list, watch or deletecollection, as sent.
    pub label_selector: String,
    /// Field selector likewise.
    pub field_selector: String,
}

/// Finds out who makes a request.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user; none when this one has nothing to say (the next is asked); an error (401) when credentials were given and are bad.
    async fn authenticate(&self, head: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, Status>;
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow(String),
    /// No, and no other authorizer is asked.
    Deny(String),
    /// Nothing to say; the text goes into the refusal when nobody allows.
    NoOpinion(String),
}

/// Decides whether a user may do something.
pub trait Authorizer: Send + Sync {
    /// The decision. Reads caches only, so that it is quick.
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// The operation under admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// A deletion; there is no new object.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What is told to a client beside the answer: `Warning` headers. Each text is told once.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Adds a text, unless it is there already.
    pub fn push(&self, text: String) {
        let mut texts = self.0.lock();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }

    /// Adds several.
    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.push(text));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Forgets all but the first.
    pub(crate) fn truncate(&self, len: usize) {
        self.0.lock().truncate(len);
    }

    /// All of them.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Whether those who changed an object are asked once more, because others changed it after them.
#[derive(Debug, Default)]
pub(crate) struct Reinvocation {
    /// This is the second round.
    pub(crate) again: bool,
    /// A second round is wanted.
    pub(crate) wanted: bool,
    /// Who was asked in this round and wants to be asked again after a change.
    pub(crate) asked: BTreeSet<Arc<str>>,
    /// Who is asked in the second round.
    pub(crate) due: BTreeSet<Arc<str>>,
    /// The object as those who are asked again left it.
    pub(crate) left: Option<Value>,
    /// The object as policies left it.
    pub(crate) left_by_policies: Option<Value>,
}

impl Reinvocation {
    /// The object has changed: who was asked so far is asked again.
    pub(crate) fn changed(&mut self) {
        self.due.append(&mut self.asked);
    }
}

/// A request under admission.
pub struct AdmissionRequest<'a> {
    /// Who wants what.
    pub attributes: &'a Attributes,
    /// The kind of the object.
    pub kind: &'a str,
    /// Which operation.
    pub operation: Operation,
    /// The object to be stored (mutating plug-ins change it); absent on deletion.
    pub object: Option<&'a mut Value>,
    /// The stored object, on update and deletion.
    pub old_object: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// `Warning` headers to send with the answer.
    pub warnings: &'a Warnings,
    /// Who is asked twice.
    pub(crate) reinvocation: &'a mut Reinvocation,
    /// The request with what is served.
    pub(crate) call: &'a Call,
}

/// One admission plug-in.
#[async_trait]
pub trait AdmissionPlugin: Send + Sync {
    /// Upstream's name of it, for instance `ServiceAccount`.
    fn name(&self) -> &'static str;
    /// May change the object or refuse.
    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let _ = request;
        Ok(())
    }
    /// May only refuse; runs after all have mutated and the strategy has validated.
    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let _ = request;
        Ok(())
    }
}
