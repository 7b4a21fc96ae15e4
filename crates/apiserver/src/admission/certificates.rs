//! Who may approve, sign and vouch for a signer: CertificateApproval, CertificateSigning, CertificateSubjectRestriction and
//! ClusterTrustBundleAttest.

use super::is;
use crate::authz::MASTERS;
use crate::context::{AdmissionPlugin, AdmissionRequest, Attributes, Authorizer, Decision, Operation};
use crate::meta;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::Status;
use machinery::field::{FieldError, Path};
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
/// The signer of clients: none of them may be a master.
const CLIENTS: &str = "kubernetes.io/kube-apiserver-client";

/// Asks whether users may do something for a signer.
#[derive(Clone)]
pub(super) struct Signers(pub(super) Arc<dyn Authorizer>);

impl Signers {
    /// Whether the user may `verb` for the signer, or for all of its domain.
    fn may(&self, of: &Attributes, verb: &str, signer: &str) -> bool {
        let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
        [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
            let attributes = Attributes {
                user: Arc::clone(&of.user),
                verb: verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                resource_request: true,
                ..Attributes::default()
            };
            matches!(self.0.authorize(&attributes), Decision::Allow(_))
        })
    }
}

fn signer(object: &Value) -> &str {
    meta::text_at(object, &["spec", "signerName"])
}

fn is_part(request: &AdmissionRequest<'_>, resource: &str, subresource: &str) -> bool {
    let attributes = request.attributes;
    attributes.group == GROUP && attributes.resource == resource && attributes.subresource == subresource
}

fn refuse(request: &AdmissionRequest<'_>, why: String) -> Result<(), Status> {
    let attributes = request.attributes;
    Err(Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, why))
}

/// Who approves or denies a request needs `approve` on its signer.
pub(super) struct CertificateApproval(pub(super) Signers);

#[async_trait]
impl AdmissionPlugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let Some(old) = request.old_object.filter(|_| is_part(request, REQUESTS, "approval")) else { return Ok(()) };
        match self.0.may(request.attributes, "approve", signer(old)) {
            true => Ok(()),
            false => {
                refuse(request, format!("user not permitted to approve requests with signerName {:?}", signer(old)))
            }
        }
    }
}

/// Who gives a certificate, or says why there is none, needs `sign` on the signer.
pub(super) struct CertificateSigning(pub(super) Signers);

#[async_trait]
impl AdmissionPlugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let (Some(old), Some(new)) = (request.old_object, request.object.as_deref()) else { return Ok(()) };
        let may = || self.0.may(request.attributes, "sign", signer(old));
        if is_part(request, REQUESTS, "status") {
            let same = |field: &str| meta::at(old, &["status", field]) == meta::at(new, &["status", field]);
            let unchanged = same("certificate") && same("conditions");
            if !unchanged && !may() {
                let why = format!("user not permitted to sign requests with signerName {:?}", signer(old));
                return refuse(request, why);
            }
        }
        // Upstream asks this while it validates, so that the refusal is one of validation.
        let pod = is_part(request, "podcertificaterequests", "status") && old.get("status") != new.get("status");
        if pod && !may() {
            let user = &request.attributes.user.name;
            let detail = format!("User {user:?} is not permitted to \"sign\" for signer {:?}", signer(old));
            let error = FieldError::forbidden(&Path::new("spec").child("signerName"), detail);
            return Err(Status::invalid(GROUP, "PodCertificateRequest", meta::name(old), vec![error]));
        }
        Ok(())
    }
}

/// Nobody becomes a master by a certificate of the cluster's.
pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl AdmissionPlugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let Some(object) = request.object.as_deref().filter(|_| is(request, GROUP, REQUESTS)) else { return Ok(()) };
        if request.operation != Operation::Create || signer(object) != CLIENTS {
            return Ok(());
        }
        let pem = STANDARD.decode(meta::text_at(object, &["spec", "request"])).unwrap_or_default();
        match pki::Request::from_pem(&pem) {
            Err(error) => refuse(request, format!("failed to parse CSR: {error}")),
            Ok(csr) if csr.organizations.iter().any(|group| group == MASTERS) => {
                refuse(request, format!("use of {CLIENTS} signer with {MASTERS} group is not allowed"))
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Who writes a signer's trust bundle needs `attest` on the signer.
pub(super) struct ClusterTrustBundleAttest(pub(super) Signers);

#[async_trait]
impl AdmissionPlugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let Some(new) = request.object.as_deref().filter(|_| is(request, GROUP, "clustertrustbundles")) else {
            return Ok(());
        };
        if signer(new).is_empty() || request.old_object.is_some_and(|old| only_collected(new, old)) {
            return Ok(());
        }
        match self.0.may(request.attributes, "attest", signer(new)) {
            true => Ok(()),
            false => refuse(request, format!("user not permitted to attest for signerName {:?}", signer(new))),
        }
    }
}

/// Whether nothing changes but what the garbage collector may change.
fn only_collected(new: &Value, old: &Value) -> bool {
    const COLLECTED: [&str; 4] = ["ownerReferences", "finalizers", "managedFields", "selfLink"];
    let rest = |object: &Value| {
        let mut object = object.clone();
        meta::metadata(&mut object).retain(|field, _| !COLLECTED.contains(&field.as_str()));
        object
    };
    rest(new) == rest(old)
}
