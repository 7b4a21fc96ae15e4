//! What each of the cluster's signers signs, and for how long.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec as Spec;
use pki::{AltNames, Request};

/// The signer of kubelets' client certificates.
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// How long a certificate lives that nobody asked to be shorter, and the shortest (upstream's `--cluster-signing-duration`).
const LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);
const LIFE_MIN: Duration = Duration::from_secs(600);

/// How long a certificate lives.
pub(super) fn life(asked_seconds: Option<i32>) -> Duration {
    let asked = asked_seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    asked.map_or(LIFE, |asked| asked.clamp(LIFE_MIN, LIFE))
}

/// Whether the request's signer is one of ours and signs this; why not, in upstream's words. None: another's.
pub(super) fn judge(spec: &Spec, request: &Request) -> Option<Result<(), String>> {
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    match spec.signer_name.as_str() {
        KUBELET_CLIENT => Some(kubelet(request, &usages, "client auth")),
        KUBELET_SERVING => Some(kubelet(request, &usages, "server auth")),
        CLIENT => Some(client(&usages)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

fn client(usages: &[&str]) -> Result<(), String> {
    let known = |usage: &&&str| matches!(**usage, "digital signature" | "key encipherment" | "client auth");
    if let Some(other) = usages.iter().find(|usage| !known(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    let found = usages.contains(&"client auth");
    found.then_some(()).ok_or_else(|| "missing required usage for client certificate: client auth".to_owned())
}

fn kubelet(request: &Request, usages: &[&str], side: &str) -> Result<(), String> {
    let AltNames { dns, emails, ips, uris } = &request.names;
    let refuse = |why: &str| Err(why.to_owned());
    let serves = side == "server auth";
    if request.organizations != ["system:nodes"] {
        return refuse("subject organization is not system:nodes");
    }
    if serves && dns.is_empty() && ips.is_empty() {
        return refuse("DNS or IP subjectAltName is required");
    }
    if !serves && !dns.is_empty() {
        return refuse("DNS subjectAltNames are not allowed");
    }
    if !emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !serves && !ips.is_empty() {
        return refuse("IP subjectAltNames are not allowed");
    }
    if !uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    let mut wanted = ["digital signature", "key encipherment", side];
    wanted.sort_unstable();
    let all_known = usages.iter().all(|usage| wanted.contains(usage));
    let fits = all_known && usages.contains(&"digital signature") && usages.contains(&side);
    if request.common_name.starts_with("system:node:") {
        return if fits { Ok(()) } else { Err(format!("usages did not match [{}]", wanted.join(" "))) };
    }
    // A client is told its name first, a server its usages.
    match serves && !fits {
        true => Err(format!("usages did not match [{}]", wanted.join(" "))),
        false => refuse("subject common name does not begin with system:node:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        for (asked, seconds) in [(None, 31_536_000), (Some(1), 600), (Some(700), 700), (Some(i32::MAX), 31_536_000)] {
            assert_eq!(life(asked).as_secs(), seconds);
        }
    }

    #[test]
    fn client_usages() {
        assert_eq!(client(&["client auth"]), Ok(()));
        assert!(client(&["server auth", "client auth"]).is_err_and(|why| why.ends_with("certificate: server auth")));
        assert!(client(&["digital signature"]).is_err_and(|why| why.starts_with("missing")));
    }
}
