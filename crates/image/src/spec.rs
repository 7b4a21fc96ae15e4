//! The documents of an image: manifest, index and configuration (OCI image-spec 1.1 and Docker schema 2).

use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The processor and system an image is for, in Go's words: `linux`, `amd64`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// That of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// How well an offer fits: none if not at all, a smaller number for a better fit.
    pub(crate) fn fit(&self, offer: &Platform) -> Option<u32> {
        if !offer.os.is_empty() && offer.os != self.os || offer.architecture != self.architecture {
            return None;
        }
        match (&self.variant, offer.variant.as_deref()) {
            (Some(want), Some(have)) if want == have => Some(0),
            (Some(_), Some(_)) => None,
            (_, None | Some("v8")) => Some(1),
            // amd64's v2 and later need newer processors, arm's v6 runs wherever v7 does: the plain one is safest.
            (None, Some("v1")) => Some(2),
            (None, Some(other)) => other.strip_prefix('v').and_then(|n| n.parse::<u32>().ok()).map(|n| n + 2),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// A pointer to content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// A signature or provenance that rides along in an index, not something to run.
    pub(crate) fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(|p| p.architecture == "unknown" && p.os == "unknown")
    }
}

/// A manifest or an index; which one shows in what it has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifests: Option<Vec<Descriptor>>,
}

/// What an image says of how to run it: the `config` of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `USER`: a name or number, perhaps with `:group`; empty for root.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `EXPOSE`d ports: `80/tcp`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `VOLUME`s: paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// `WORKDIR`; empty for `/`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// `LABEL`s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`: a name or number; empty for SIGTERM.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
}

/// `{}`, the value of sets in image configurations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The configuration of an image; its digest is the image id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was built, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    /// The digests of its layers, unpacked, lowest first.
    pub rootfs: RootFs,
}

/// The layers of an image by the digests of their plain archives.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Lowest layer first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The entry of an index that fits a platform best.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], want: &Platform) -> Option<&'a Descriptor> {
    entries
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter_map(|entry| {
            let fit = entry.platform.as_ref().map_or(Some(u32::MAX), |offer| want.fit(offer))?;
            Some((fit, entry))
        })
        .min_by_key(|(fit, _)| *fit)
        .map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_choice() {
        let entry = |os: &str, architecture: &str, variant: Option<&str>| Descriptor {
            platform: Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(Into::into),
            }),
            ..Descriptor::new(OCI_MANIFEST, Digest::of(format!("{os}{architecture}{variant:?}").as_bytes()), 1)
        };
        let mut entries = vec![
            entry("windows", "amd64", None),
            entry("linux", "arm", Some("v7")),
            entry("linux", "arm", Some("v6")),
            entry("linux", "amd64", Some("v3")),
            entry("linux", "arm64", Some("v8")),
            entry("unknown", "unknown", None),
        ];
        let pick = |entries: &[Descriptor], architecture: &str, variant: Option<&str>| {
            let want =
                Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) };
            choose(entries, &want).and_then(|e| e.platform.clone()).map(|p| p.to_string())
        };
        assert_eq!(pick(&entries, "amd64", None).as_deref(), Some("linux/amd64/v3"));
        entries.push(entry("linux", "amd64", None));
        assert_eq!(pick(&entries, "amd64", None).as_deref(), Some("linux/amd64"));
        assert_eq!(pick(&entries, "arm64", None).as_deref(), Some("linux/arm64/v8"));
        assert_eq!(pick(&entries, "arm", Some("v7")).as_deref(), Some("linux/arm/v7"));
        assert_eq!(pick(&entries, "arm", None).as_deref(), Some("linux/arm/v6"));
        assert_eq!(pick(&entries, "s390x", None), None);
    }

    #[test]
    fn nulls_in_configurations_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,
            "Volumes":null,"Labels":null,"User":"","ExposedPorts":{"80/tcp":{}},"OnBuild":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":[]}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
        assert_eq!(config.platform, Platform { os: "linux".into(), architecture: "amd64".into(), variant: None });
        let none: ImageConfig = serde_json::from_str(r#"{"config":null,"rootfs":{"type":"layers"}}"#).unwrap();
        assert_eq!(none.config, RunConfig::default());
    }
}
