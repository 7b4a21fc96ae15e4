//! How a registry asks for credentials: the `WWW-Authenticate` header.

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// The token server.
        realm: String,
        /// The registry's name for itself.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

/// Reads the first challenge that can be met; Bearer before Basic.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parameters(rest);
            let find = |key: &str| parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.clone());
            if let Some(realm) = find("realm") {
                return Some(Challenge::Bearer { realm, service: find("service"), scope: find("scope") });
            }
        }
    }
    basic
}

/// `key="value", key=value`, with backslashes within quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let mut value = String::new();
        let mut used = 0;
        if let Some(quoted) = after.strip_prefix('"') {
            let mut escaped = false;
            used = after.len();
            for (i, c) in quoted.char_indices() {
                match c {
                    _ if escaped => {
                        value.push(c);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        used = i + 2;
                        break;
                    }
                    _ => value.push(c),
                }
            }
        } else {
            let end = after.find(',').unwrap_or(after.len());
            value.push_str(after[..end].trim());
            used += end;
        }
        rest = &after[used..];
        all.push((key, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (headers, challenge) in [
            (vec!["Basic realm=\"x\""], Some(Challenge::Basic)),
            (vec!["basic"], Some(Challenge::Basic)),
            (
                vec![
                    "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                ],
                bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
            ),
            (vec!["Basic realm=x", "BEARER realm=https://t, service=s"], bearer("https://t", Some("s"), None)),
            (vec!["Bearer realm=\"a\\\"b\""], bearer("a\"b", None, None)),
            (vec!["Bearer service=\"x\""], None),
            (vec!["Negotiate"], None),
            (vec![], None),
        ] {
            assert_eq!(parse(headers.iter().copied()), challenge, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "(Bearer )?\\PC{0,60}") {
            let _ = parse([text.as_str()].into_iter());
        }
    }
}
