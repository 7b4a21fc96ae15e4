//! API servers elsewhere, as APIServices name them.

use crate::meta;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

/// Whom we take for the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// Anybody.
    Insecure,
    /// Who is signed by an authority of this PEM bundle; by one of the machine's when it is empty.
    Bundle(Arc<[u8]>),
}

/// A version of a group that another server serves.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// Of the APIService: `v1beta1.metrics.k8s.io`.
    pub(super) name: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) port: u16,
    pub(super) trust: Trust,
    pub(super) group_priority: i64,
    pub(super) version_priority: i64,
    /// As its condition says.
    pub(super) available: bool,
}

impl Remote {
    /// What an APIService is about; none when this server serves it itself.
    pub(super) fn read(service: &Value) -> Option<Remote> {
        let target = meta::at(service, &["spec", "service"])?;
        let text = |field: &str| meta::text_at(service, &["spec", field]).to_owned();
        let number = |field: &str| meta::at(service, &["spec", field]).and_then(Value::as_i64).unwrap_or(0);
        let insecure = meta::at(service, &["spec", "insecureSkipTLSVerify"]).and_then(Value::as_bool).unwrap_or(false);
        // What is no base64 is no bundle; then nothing is trusted.
        let bundle = BASE64_STANDARD.decode(text("caBundle")).unwrap_or_else(|_| b"unreadable".to_vec());
        let conditions = meta::at(service, &["status", "conditions"]).and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        Some(Remote {
            name: meta::name(service).to_owned(),
            group: text("group"),
            version: text("version"),
            namespace: meta::text_at(target, &["namespace"]).to_owned(),
            service: meta::text_at(target, &["name"]).to_owned(),
            port: target["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            trust: if insecure { Trust::Insecure } else { Trust::Bundle(bundle.into()) },
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            available: conditions.any(|it| it["type"] == "Available" && it["status"] == "True"),
        })
    }

    /// What must be in its certificate.
    pub(super) fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// 503, as upstream says it.
    pub(super) fn unavailable() -> Status {
        Status::service_unavailable("service unavailable")
    }
}
