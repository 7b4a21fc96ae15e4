//! Brings the image of a container to the node, after its policy.

use crate::context::Context;
use crate::objects::Fetched;
use crate::ops::StartError;
use crate::spec;
use crate::state::ImageNames;
use base64::Engine;
use client::EventType;
use cri::{AuthConfig, Image};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use std::time::{Duration, Instant};

/// The tag and registry an image name means, spelled out: `busybox` is `docker.io/library/busybox:latest`.
pub fn full_name(image: &str) -> String {
    let (name, rest) = match image.split_once('@') {
        Some((name, digest)) => (name, format!("@{digest}")),
        None => match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, format!(":{tag}")),
            _ => (image, ":latest".to_owned()),
        },
    };
    let first = name.split('/').next().unwrap_or_default();
    let has_registry = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    match (has_registry, name.contains('/')) {
        (true, _) => format!("{name}{rest}"),
        (false, true) => format!("docker.io/{name}{rest}"),
        (false, false) => format!("docker.io/library/{name}{rest}"),
    }
}

/// The policy that holds: `Always` for the tag `latest` when none is given.
fn policy(c: &Container) -> &str {
    let image = c.image.as_deref().unwrap_or_default();
    let latest = full_name(image).ends_with(":latest");
    c.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

/// The names a status shows.
pub fn names(c: &Container, image: &Image) -> ImageNames {
    let wanted = c.image.clone().unwrap_or_default();
    let full = full_name(&wanted);
    let shown = image.repo_tags.iter().find(|t| **t == full).or(image.repo_tags.first()).cloned().unwrap_or(wanted);
    let repository = full.split(['@']).next().unwrap_or_default();
    let repository = repository.rsplit_once(':').map_or(repository, |(name, _)| name);
    let digest = image.repo_digests.iter().find(|d| d.split('@').next() == Some(repository));
    let image_id = digest.or(image.repo_digests.first()).cloned().unwrap_or_else(|| image.id.clone());
    ImageNames { image: shown, image_id }
}

fn plain(error: cri::Error) -> String {
    error.to_string()
}

async fn present(context: &Context, c: &Container, image: &str) -> Result<Option<Image>, StartError> {
    let _ = c;
    match context.images().image_status(image).await {
        Ok(found) => Ok(found),
        Err(cri::Error::NotFound { .. }) => Ok(None),
        Err(cri::Error::InvalidArgument(why)) => Err(StartError::new(
            "InvalidImageName",
            format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {why}"),
        )),
        Err(e) => Err(StartError::new("ImageInspectError", format!("Failed to inspect image \"{image}\": {e}"))),
    }
}

/// Makes sure the image is there.
pub async fn ensure(context: &Context, pod: &Pod, c: &Container, fetched: &Fetched) -> Result<Image, StartError> {
    let image = c.image.as_deref().unwrap_or_default();
    let found = present(context, c, image).await;
    if let Err(error) = &found {
        context.container_event(pod, &c.name, EventType::Warning, "InspectFailed", error.message.clone());
    }
    match (found?, policy(c)) {
        (Some(found), "IfNotPresent" | "Never") => {
            let text = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
            context.container_event(pod, &c.name, EventType::Normal, "Pulled", text);
            Ok(found)
        }
        (None, "Never") => {
            let text = format!("Container image \"{image}\" is not present with pull policy of Never");
            context.container_event(pod, &c.name, EventType::Warning, "ErrImageNeverPull", text.clone());
            Err(StartError::new("ErrImageNeverPull", text))
        }
        _ => pull(context, pod, c, image, fetched).await,
    }
}

async fn pull(
    context: &Context,
    pod: &Pod,
    c: &Container,
    image: &str,
    fetched: &Fetched,
) -> Result<Image, StartError> {
    context.container_event(pod, &c.name, EventType::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let asked = Instant::now();
    let _permit = context.pulls.acquire().await;
    let begun = Instant::now();
    let id = match try_credentials(context, image, credentials(pod, image, fetched)).await {
        Ok(id) => id,
        Err(message) => {
            let text = format!("Failed to pull image \"{image}\": {message}");
            context.container_event(pod, &c.name, EventType::Warning, "Failed", text);
            return Err(StartError::new("ErrImagePull", message));
        }
    };
    let found = match present(context, c, &id).await? {
        Some(found) => found,
        None => return Err(StartError::new("ImageInspectError", format!("the image {id} just pulled is not there"))),
    };
    let text = format!(
        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
        duration_text(begun.elapsed()),
        duration_text(asked.elapsed()),
        found.size_bytes
    );
    context.container_event(pod, &c.name, EventType::Normal, "Pulled", text);
    Ok(found)
}

/// All credentials in turn, then none, like upstream: the last error is the one to tell.
async fn try_credentials(context: &Context, image: &str, list: Vec<AuthConfig>) -> Result<String, String> {
    let mut last = None;
    for auth in list {
        match context.images().pull_image(image, Some(auth)).await {
            Ok(id) => return Ok(id),
            Err(e) => last = Some(plain(e)),
        }
    }
    match last {
        Some(message) => Err(message),
        None => context.images().pull_image(image, None).await.map_err(plain),
    }
}

/// Milliseconds below a second, else seconds with thousandths, as Go writes durations.
fn duration_text(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 1000 { format!("{ms}ms") } else { format!("{}s", machinery_seconds(ms)) }
}

fn machinery_seconds(ms: u128) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The credentials of the pod's pull secrets that fit the image's registry, the best fit first.
pub fn credentials(pod: &Pod, image: &str, fetched: &Fetched) -> Vec<AuthConfig> {
    let full = full_name(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        if let Ok(Some(secret)) = fetched.secret(&reference.name, true) {
            found.extend(of_secret(&secret, &full));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn of_secret(secret: &Secret, full: &str) -> Vec<(usize, AuthConfig)> {
    let data = secret.data.iter().flatten();
    let mut out = Vec::new();
    for (key, value) in data {
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&value.0) else { continue };
        let auths = match key.as_str() {
            ".dockerconfigjson" => &json["auths"],
            ".dockercfg" => &json,
            _ => continue,
        };
        for (registry, entry) in auths.as_object().into_iter().flatten() {
            let scope = scope(registry);
            if covers(&scope, full)
                && let Some(auth) = auth(entry)
            {
                out.push((scope.len(), auth));
            }
        }
    }
    out
}

/// The registry (and path) an entry is for, without scheme and API version.
fn scope(registry: &str) -> String {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.to_owned(),
    }
}

fn covers(scope: &str, full: &str) -> bool {
    let (host, path) = full.split_once('/').unwrap_or((full, ""));
    let (want_host, want_path) = scope.split_once('/').unwrap_or((scope, ""));
    let host_fits = match want_host.strip_prefix("*.") {
        Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => host == want_host,
    };
    host_fits && path.starts_with(want_path)
}

fn auth(entry: &serde_json::Value) -> Option<AuthConfig> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    if !text("username").is_empty() {
        return Some(AuthConfig { username: text("username"), password: text("password") });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(AuthConfig { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn names_are_spelled_out() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("ghcr.io/a/b@sha256:1", "ghcr.io/a/b@sha256:1"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }

    #[test]
    fn policies() {
        for (image, set, want) in [
            ("a", None, "Always"),
            ("a:1", None, "IfNotPresent"),
            ("a:1", Some("Never"), "Never"),
            ("a@sha256:1", None, "IfNotPresent"),
        ] {
            let c =
                Container { image: Some(image.into()), image_pull_policy: set.map(Into::into), ..Container::default() };
            assert_eq!(policy(&c), want, "{image}");
        }
    }

    #[test]
    fn credentials_fit_the_registry() {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "imagePullSecrets": [{"name": "s"}]}})).unwrap();
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": base64::engine::general_purpose::STANDARD.encode("hub:x:y")},
            "reg.example.com/team": {"username": "team", "password": "p"},
            "reg.example.com": {"username": "all", "password": "p"},
            "*.wild.org": {"username": "wild", "password": "p"}}});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let mut fetched = Fetched::default();
        let secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        fetched.secrets.insert("s".into(), Ok(Arc::new(secret)));
        for (image, want) in [
            ("busybox", vec!["hub"]),
            ("reg.example.com/team/app:1", vec!["team", "all"]),
            ("reg.example.com/other", vec!["all"]),
            ("x.wild.org/a", vec!["wild"]),
            ("quay.io/a", vec![]),
        ] {
            let got = credentials(&pod, image, &fetched);
            assert_eq!(got.iter().map(|a| a.username.as_str()).collect::<Vec<_>>(), want, "{image}");
        }
        assert_eq!(credentials(&pod, "busybox", &fetched)[0].password, "x:y");
    }

    #[test]
    fn durations() {
        assert_eq!(duration_text(Duration::from_millis(89)), "89ms");
        assert_eq!(duration_text(Duration::from_millis(1250)), "1.25s");
    }
}
