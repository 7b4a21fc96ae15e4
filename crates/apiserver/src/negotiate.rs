//! Which representation of its answer a client wants.

use crate::decode::PROTOBUF;
use http::HeaderMap;
use http::header::ACCEPT;
use machinery::Status;

/// A wire format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => PROTOBUF,
        }
    }
}

/// A shape of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    #[default]
    Object,
    /// `meta.k8s.io/v1 Table` (true: `v1beta1`).
    Table { beta: bool },
    /// `meta.k8s.io/v1 PartialObjectMetadata` or its list (true: `v1beta1`).
    Metadata { beta: bool },
}

/// What the client accepts, of what we have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    /// `;pretty=1` or `?pretty=true`: for people.
    pub(crate) pretty: bool,
}

/// What is offered of custom resources.
pub(crate) const OFFERED_CUSTOM: &str =
    "only the following media types are accepted: application/json, application/yaml";

const OFFERED: &str = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";

impl Accept {
    /// Whether it is objects as protobuf.
    pub(crate) fn is_plain_protobuf(self) -> bool {
        self.format == Format::Protobuf && self.shape == Shape::Object
    }

    /// Whether it is metadata as compact JSON, and then of `v1beta1`.
    pub(crate) fn is_json_metadata(self) -> Option<bool> {
        match self {
            Accept { format: Format::Json, shape: Shape::Metadata { beta }, pretty: false } => Some(beta),
            _ => None,
        }
    }

    /// The best of what the headers allow; 406 when nothing is.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Accept, Status> {
        Accept::best(headers, true)
    }

    /// The same, of answers that cannot be shown as a table.
    pub(crate) fn negotiate_object(headers: &HeaderMap) -> Result<Accept, Status> {
        Accept::best(headers, false)
    }

    fn best(headers: &HeaderMap, tables: bool) -> Result<Accept, Status> {
        let mut best: Option<(u16, Accept)> = None;
        let mut asked = false;
        for header in headers.get_all(ACCEPT) {
            let clauses = header.to_str().unwrap_or_default().split(',');
            for clause in clauses.map(str::trim).filter(|clause| !clause.is_empty()) {
                asked = true;
                let Some((quality, accept)) = parse(clause) else { continue };
                if !tables && matches!(accept.shape, Shape::Table { .. }) {
                    continue;
                }
                // Where protobuf is as good as something else, the other is: objects are stored as JSON.
                let better = best.as_ref().is_none_or(|(found, sofar)| {
                    quality > *found
                        || (quality == *found && sofar.format == Format::Protobuf && accept.format != Format::Protobuf)
                });
                if quality > 0 && better {
                    best = Some((quality, accept));
                }
            }
        }
        match best {
            Some((_, accept)) => Ok(accept),
            None if asked => Err(Status::not_acceptable(OFFERED)),
            None => Ok(Accept::default()),
        }
    }
}

/// One clause: its quality in thousandths, and what it asks for when that is on offer.
fn parse(clause: &str) -> Option<(u16, Accept)> {
    let mut pieces = clause.split(';').map(str::trim);
    let format = match pieces.next()? {
        "application/json" | "*/*" | "application/*" | "text/plain" | "text/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        PROTOBUF => Format::Protobuf,
        _ => return None,
    };
    let mut accept = Accept { format, ..Accept::default() };
    let (mut quality, mut shape, mut group, mut version) = (1000, "", "", "");
    for piece in pieces {
        match piece.split_once('=')? {
            ("q", value) => quality = thousandths(value)?,
            ("as", value) => shape = value,
            ("g", value) => group = value,
            ("v", value) => version = value,
            ("pretty", value) => accept.pretty = value == "1" || value == "true",
            ("stream", value) if value != "watch" => return None,
            _ => {}
        }
    }
    let beta = version == "v1beta1";
    accept.shape = match shape {
        "" => Shape::Object,
        _ if group != "meta.k8s.io" || !(beta || version == "v1") => return None,
        "Table" => Shape::Table { beta },
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata { beta },
        _ => return None,
    };
    Some((quality, accept))
}

fn thousandths(quality: &str) -> Option<u16> {
    let quality: f32 = quality.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
    Some((quality.clamp(0.0, 1.0) * 1000.0) as u16)
}

/// The media type of a request's body, without parameters; JSON when none is given.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let value = value.split(';').next().unwrap_or_default().trim();
    if value.is_empty() { "application/json" } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let table = Shape::Table { beta: false };
        let meta = Shape::Metadata { beta: false };
        for (header, expected) in [
            ("", Some((Format::Json, Shape::Object))),
            ("*/*", Some((Format::Json, Shape::Object))),
            ("application/yaml", Some((Format::Yaml, Shape::Object))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((Format::Json, table)),
            ),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((Format::Json, meta))),
            ("application/json;as=Table;g=meta.k8s.io;v=v1", Some((Format::Json, table))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((Format::Json, Shape::Object))),
            ("application/vnd.kubernetes.protobuf", Some((Format::Protobuf, Shape::Object))),
            ("application/json;q=0.5,application/yaml;q=0.9", Some((Format::Yaml, Shape::Object))),
            ("application/json;as=Table;v=v7;g=meta.k8s.io", None),
            ("image/png", None),
        ] {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(ACCEPT, header.parse().unwrap());
            }
            let found = Accept::negotiate(&headers).ok().map(|accept| (accept.format, accept.shape));
            assert_eq!(found, expected, "{header}");
            let plain = Accept::negotiate_object(&headers).ok().map(|accept| accept.shape);
            assert!(!matches!(plain, Some(Shape::Table { .. })), "{header}");
            let only_a_table =
                matches!(expected, Some((_, Shape::Table { .. }))) && !header.ends_with(",application/json");
            assert_eq!(plain.is_none(), expected.is_none() || only_a_table, "{header}");
        }
    }
}
