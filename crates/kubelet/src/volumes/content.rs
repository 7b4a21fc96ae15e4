//! The files of configMap, secret, downwardAPI and projected volumes.

use super::Input;
use super::atomic::{File, Payload, safe_path};
use crate::downward;
use crate::spec;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecretVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

/// Where tokens of service accounts come from.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token for the pod's service account, not yet near its end.
    async fn token(&self, pod: &Pod, projection: &ServiceAccountTokenProjection) -> Result<String, String>;
}

/// Permission bits, 0644 when not given.
pub(super) fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644)
}

fn put(files: &mut Payload, path: &str, data: Vec<u8>, mode: u32) -> Result<(), String> {
    if !safe_path(path) {
        return Err(format!("path {path:?} must be relative and must not contain '..'"));
    }
    files.insert(path.to_owned(), File { data, mode, uid: None });
    Ok(())
}

/// Puts the chosen keys (all, when none is chosen) under their paths.
fn keys(
    files: &mut Payload,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
    all: &dyn Fn() -> Vec<(String, Vec<u8>)>,
) -> Result<(), String> {
    let all = all();
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return all.into_iter().try_for_each(|(k, v)| put(files, &k, v, default_mode));
    };
    for item in items {
        match all.iter().find(|(k, _)| *k == item.key) {
            Some((_, value)) => {
                put(files, &item.path, value.clone(), item.mode.map_or(default_mode, |m| mode(Some(m))))?
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn config_map_data(map: &ConfigMap) -> Vec<(String, Vec<u8>)> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
}

fn secret_data(secret: &Secret) -> Vec<(String, Vec<u8>)> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

pub(super) fn config_map(
    files: &mut Payload,
    input: &Input<'_>,
    s: &ConfigMapVolumeSource,
    default_mode: u32,
) -> Result<(), String> {
    let optional = s.optional == Some(true);
    match input.fetched.config_map(&s.name, optional)? {
        Some(map) => keys(files, s.items.as_deref(), default_mode, optional, &|| config_map_data(&map)),
        None => Ok(()),
    }
}

pub(super) fn secret(
    files: &mut Payload,
    input: &Input<'_>,
    s: &SecretVolumeSource,
    default_mode: u32,
) -> Result<(), String> {
    let optional = s.optional == Some(true);
    match input.fetched.secret(s.secret_name.as_deref().unwrap_or_default(), optional)? {
        Some(secret) => keys(files, s.items.as_deref(), default_mode, optional, &|| secret_data(&secret)),
        None => Ok(()),
    }
}

pub(super) fn downward(
    files: &mut Payload,
    input: &Input<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
) -> Result<(), String> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            downward::field(input.pod, &field.field_path, input.facts)?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let (_, c) = spec::container(input.pod, name).ok_or_else(|| format!("container {name} not found"))?;
            downward::resource(input.pod, &c, resource, input.facts)?
        } else {
            String::new()
        };
        put(files, &item.path, value.into_bytes(), item.mode.map_or(default_mode, |m| mode(Some(m))))?;
    }
    Ok(())
}

pub(super) async fn projected(
    input: &Input<'_>,
    s: &ProjectedVolumeSource,
    tokens: &dyn TokenSource,
) -> Result<Payload, String> {
    let default_mode = mode(s.default_mode);
    let mut files = Payload::new();
    for source in s.sources.iter().flatten() {
        projection(&mut files, input, source, default_mode, tokens).await?;
    }
    Ok(files)
}

async fn projection(
    files: &mut Payload,
    input: &Input<'_>,
    source: &VolumeProjection,
    default_mode: u32,
    tokens: &dyn TokenSource,
) -> Result<(), String> {
    if let Some(p) = &source.config_map {
        let optional = p.optional == Some(true);
        if let Some(map) = input.fetched.config_map(&p.name, optional)? {
            keys(files, p.items.as_deref(), default_mode, optional, &|| config_map_data(&map))?;
        }
    }
    if let Some(p) = &source.secret {
        let optional = p.optional == Some(true);
        if let Some(secret) = input.fetched.secret(&p.name, optional)? {
            keys(files, p.items.as_deref(), default_mode, optional, &|| secret_data(&secret))?;
        }
    }
    if let Some(p) = &source.downward_api {
        downward(files, input, p.items.as_deref().unwrap_or_default(), default_mode)?;
    }
    if let Some(p) = &source.service_account_token {
        let token = tokens.token(input.pod, p).await?;
        token_file(files, input.pod, &p.path, token, default_mode)?;
    }
    if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
        return Err("clusterTrustBundle and podCertificate projections are not supported by this node".into());
    }
    Ok(())
}

/// A token is for its user alone: when all containers run as one user, the file is that user's.
fn token_file(files: &mut Payload, pod: &Pod, path: &str, token: String, default_mode: u32) -> Result<(), String> {
    let p = spec::spec(pod).security_context.as_ref();
    let fs_group = p.and_then(|s| s.fs_group);
    let user = |c: &k8s_openapi::api::core::v1::Container| {
        c.security_context.as_ref().and_then(|s| s.run_as_user).or_else(|| p.and_then(|p| p.run_as_user))
    };
    let users: std::collections::BTreeSet<Option<i64>> = spec::containers(pod).map(|(_, c)| user(&c)).collect();
    let one = if users.len() == 1 { users.into_iter().next().flatten() } else { None };
    let one = if fs_group.is_none() { one.and_then(|u| u32::try_from(u).ok()) } else { None };
    let mode = if fs_group.is_some() || one.is_some() { 0o600 } else { default_mode };
    put(files, path, token.into_bytes(), mode)?;
    if let Some(file) = files.get_mut(path) {
        file.uid = one;
    }
    Ok(())
}
