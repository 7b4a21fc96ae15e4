//! Image references as users write them: `busybox`, `ghcr.io/a/b:1.2`, `x@sha256:…`, normalised as Docker does.

use crate::digest::{Digest, DigestError};
use std::fmt;
use std::str::FromStr;

/// A full reference: registry, repository, and a tag or digest or both.
///
/// `busybox` is `docker.io/library/busybox:latest`; with a digest no tag is assumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a reference is not one. The wording is that of Docker's reference grammar, which tools match on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Empty text.
    #[error("repository name must have at least one component")]
    Empty,
    /// Upper case in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository has more than 255 characters.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// 64 hexadecimal digits would be taken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// A digest that cannot be used.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

const DEFAULT_DOMAIN: &str = "docker.io";
const REPOSITORY_LENGTH_MAX: usize = 255;

impl Reference {
    /// The registry, `docker.io` or `host[:port]`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` when neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository at a digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The name under which the store knows it: by digest when there is one, else by tag.
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository()),
            (None, Some(tag)) => format!("{}:{tag}", self.repository()),
            (None, None) => self.repository(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if Digest::from_hex(text).is_ok() {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name)?;
        let (domain, path) = split_domain(name)?;
        check_path(&path)?;
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { domain, path, tag, digest })
    }
}

/// Takes a tag off the end: a colon after the last slash.
fn split_tag(name: &str) -> Result<(&str, Option<&str>), ReferenceError> {
    let after_slash = name.rfind('/').map_or(0, |i| i + 1);
    let Some(colon) = name[after_slash..].find(':') else {
        return Ok((name, None));
    };
    let (name, tag) = (&name[..after_slash + colon], &name[after_slash + colon + 1..]);
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good { Ok((name, Some(tag))) } else { Err(ReferenceError::Format) }
}

/// The part before the first slash is a registry if it looks like a host; otherwise Docker Hub is meant.
fn split_domain(name: &str) -> Result<(String, String), ReferenceError> {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    check_domain(domain)?;
    let library = domain == DEFAULT_DOMAIN && !path.contains('/');
    Ok((domain.to_owned(), if library { format!("library/{path}") } else { path.to_owned() }))
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(ReferenceError::Format)?;
            if address.is_empty() || address.bytes().any(|b| !b.is_ascii_hexdigit() && b != b':') {
                return Err(ReferenceError::Format);
            }
            ("v6", after.strip_prefix(':').or(if after.is_empty() { None } else { Some("x") }))
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_good = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if host.split('.').all(label) && port.is_none_or(port_good) { Ok(()) } else { Err(ReferenceError::Format) }
}

/// Components of `[a-z0-9]+` joined by one `.`, one or two `_`, or any number of `-`.
fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(path.to_owned()));
    }
    if !path.split('/').all(component) {
        return Err(ReferenceError::Format);
    }
    if path.len() > REPOSITORY_LENGTH_MAX { Err(ReferenceError::TooLong) } else { Ok(()) }
}

fn component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| alphanumeric(**b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|b| !alphanumeric(**b)).count();
        if !matches!(&rest[..separator], b"." | b"_" | b"__") && rest[..separator].iter().any(|b| *b != b'-') {
            return false;
        }
        rest = &rest[separator..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn normalised_as_docker_does() {
        let at = format!("@sha256:{HEX}");
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".into()),
            ("library/busybox", "docker.io/library/busybox:latest".into()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".into()),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest".into()),
            ("a/b", "docker.io/a/b:latest".into()),
            ("localhost/b", "localhost/b:latest".into()),
            ("localhost:5000/b", "localhost:5000/b:latest".into()),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x".into()),
            ("[::1]:5000/b", "[::1]:5000/b:latest".into()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".into()),
            ("Host/x", "Host/x:latest".into()),
            ("a.b__c-d--e/x", "a.b__c-d--e/x:latest".into()),
            (&format!("busybox{at}"), format!("docker.io/library/busybox{at}")),
            (&format!("quay.io/x:1{at}"), format!("quay.io/x:1{at}")),
        ] {
            if text.contains("__") {
                assert_eq!(text.parse::<Reference>(), Err(ReferenceError::Format), "not a host: {text}");
                continue;
            }
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse(), Ok(reference));
        }
        let both: Reference = format!("quay.io/x:1{at}").parse().unwrap();
        assert_eq!(both.canonical(), format!("quay.io/x{at}"));
    }

    #[test]
    fn refused() {
        let long = "a".repeat(256);
        for (text, error) in [
            ("", ReferenceError::Empty),
            (HEX, ReferenceError::LooksLikeId(HEX.into())),
            ("Busybox", ReferenceError::Uppercase("library/Busybox".into())),
            ("a/Busybox", ReferenceError::Uppercase("a/Busybox".into())),
            (&long, ReferenceError::TooLong),
            ("a:", ReferenceError::Format),
            ("a:b:c", ReferenceError::Format),
            ("a:-b", ReferenceError::Format),
            (&format!("a:{}", "t".repeat(129)), ReferenceError::Format),
            ("/a", ReferenceError::Format),
            ("a/", ReferenceError::Format),
            ("a//b", ReferenceError::Format),
            ("a..b", ReferenceError::Format),
            ("a___b", ReferenceError::Format),
            ("a._b", ReferenceError::Format),
            ("-a", ReferenceError::Format),
            ("a-", ReferenceError::Format),
            ("a b", ReferenceError::Format),
            ("ä", ReferenceError::Format),
            ("-.x/a", ReferenceError::Format),
            ("host:port/a", ReferenceError::Format),
            ("host:/a", ReferenceError::Format),
            ("[::1/a", ReferenceError::Format),
            ("[::1]x/a", ReferenceError::Format),
            ("../../etc/passwd", ReferenceError::Format),
            ("https://a.b/c", ReferenceError::Format),
            ("a@", ReferenceError::Digest(DigestError::Format)),
            ("a@sha256:12", ReferenceError::Digest(DigestError::Format)),
            (&format!("a@sha512:{HEX}"), ReferenceError::Digest(DigestError::Algorithm)),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "[a-zA-Z0-9./:@_-]{0,40}|\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let full = reference.to_string();
                prop_assert_eq!(full.parse::<Reference>(), Ok(reference.clone()));
                prop_assert!(reference.tag().is_some() || reference.digest().is_some());
                prop_assert!(!reference.path().contains(".."));
            }
        }

        #[test]
        fn what_the_grammar_makes_is_accepted(
            host in "([a-z0-9]{1,8}\\.){1,2}[a-z]{2,4}(:[0-9]{1,5})?",
            path in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let reference: Reference = text.parse().unwrap();
            let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
            prop_assert_eq!(reference.domain(), host);
            prop_assert_eq!(reference.path(), path);
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }
    }
}
