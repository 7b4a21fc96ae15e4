//! What a request asks for, read from its method and URL.

use http::Method;
use http::request::Parts;
use machinery::Status;

/// Longest URL we read, in bytes.
const URI_BYTES_MAX: usize = 32 << 10;

/// The query of a URL, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Query {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(key, true), unescape(value, true))
                })
                .collect(),
        )
    }

    /// The first value of a parameter, when not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).filter(|value| !value.is_empty())
    }

    /// The first value of a parameter.
    pub(crate) fn raw(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter as upstream reads it: present and neither `0` nor `false`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| !matches!(value, "0" | "false" | "False"))
    }

    /// A number.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Status> {
        let parse = |text: &str| {
            text.parse::<T>()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
        };
        self.get(key).map(parse).transpose()
    }
}

/// Undoes percent-encoding; bytes that are not UTF-8 become U+FFFD.
fn unescape(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |index: usize| bytes.get(index).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
                continue;
            }
            (b'+', ..) if plus => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// What the URL and the method say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Under `/api/VERSION/…` or `/apis/GROUP/VERSION/…`, naming a resource.
    pub(crate) resource_request: bool,
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    /// What follows the subresource (`proxy/a/b` → `a/b`).
    pub(crate) rest: String,
}

impl RequestInfo {
    pub(crate) fn parse(parts: &Parts, query: &Query) -> Result<RequestInfo, Status> {
        if parts.uri.to_string().len() > URI_BYTES_MAX {
            return Err(Status::new(414, "RequestURITooLong", "the URL is too long"));
        }
        let path = parts.uri.path();
        let mut info = RequestInfo { verb: parts.method.as_str().to_lowercase(), ..RequestInfo::default() };
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match *segments.as_slice() {
            ["api", version, ref rest @ ..] => {
                info.version = unescape(version, false);
                rest
            }
            ["apis", group, version, ref rest @ ..] => {
                info.group = unescape(group, false);
                info.version = unescape(version, false);
                rest
            }
            _ => return Ok(info),
        };
        if rest.is_empty() || rest == [""] {
            return Ok(info);
        }
        info.resource_request = true;
        let of_watch = matches!(rest, ["watch", rest @ ..] if !rest.is_empty());
        let rest = info.verb_of(&parts.method, rest);
        info.names_of(rest);
        info.refine(query);
        // The old way to watch is one for objects, and for GET: its verb must not open other doors.
        if of_watch && (!matches!(parts.method, Method::GET | Method::HEAD) || !info.subresource.is_empty()) {
            return Err(Status::method_not_allowed(&info.group, &info.resource, parts.method.as_str()));
        }
        Ok(info)
    }

    fn verb_of<'a, 'b>(&mut self, method: &Method, rest: &'a [&'b str]) -> &'a [&'b str] {
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        match rest {
            ["watch", rest @ ..] if !rest.is_empty() => {
                "watch".clone_into(&mut self.verb);
                rest
            }
            rest => rest,
        }
    }

    fn names_of(&mut self, rest: &[&str]) {
        let rest = match *rest {
            ["namespaces", namespace] | ["namespaces", namespace, "status" | "finalize"] => {
                self.namespace = unescape(namespace, false);
                rest
            }
            ["namespaces", namespace, ref rest @ ..] => {
                self.namespace = unescape(namespace, false);
                rest
            }
            _ => rest,
        };
        let mut rest = rest.iter().map(|segment| unescape(segment, false));
        self.resource = rest.next().unwrap_or_default();
        self.name = rest.next().unwrap_or_default();
        self.subresource = rest.next().unwrap_or_default();
        self.rest = rest.collect::<Vec<_>>().join("/");
    }

    fn refine(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        } else if self.name.is_empty() && self.verb == "delete" {
            "deletecollection".clone_into(&mut self.verb);
        } else if self.verb == "get" && self.subresource.is_empty() && query.flag("watch") {
            "watch".clone_into(&mut self.verb);
        }
        let listing = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        if listing && self.name.is_empty() {
            let selector =
                query.get("fieldSelector").and_then(|text| machinery::selector::FieldSelector::parse(text).ok());
            if let Some(name) = selector.as_ref().and_then(|selector| selector.exact("metadata.name")) {
                name.clone_into(&mut self.name);
            }
        }
    }

    /// Requests that may last as long as they like.
    pub(crate) fn long_running(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "proxy" | "exec" | "attach" | "portforward" | "log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, expected: &str) {
        let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        let i = RequestInfo::parse(&parts, &Query::parse(parts.uri.query())).unwrap();
        let found = if i.resource_request {
            format!(
                "{} {}/{}/{}/{} ns={} name={} rest={}",
                i.verb, i.group, i.version, i.resource, i.subresource, i.namespace, i.name, i.rest
            )
        } else {
            format!("{} -", i.verb)
        };
        assert_eq!(found, expected, "{method} {uri}");
    }

    #[test]
    fn urls() {
        for (method, uri, expected) in [
            ("GET", "/healthz", "get -"),
            ("GET", "/api/v1", "get -"),
            ("GET", "/apis/apps/v1/", "get -"),
            ("GET", "/api/v1/pods", "list /v1/pods/ ns= name= rest="),
            ("GET", "/api/v1/pods?watch=1", "watch /v1/pods/ ns= name= rest="),
            ("GET", "/api/v1/watch/pods", "watch /v1/pods/ ns= name= rest="),
            ("GET", "/api/v1/namespaces", "list /v1/namespaces/ ns= name= rest="),
            ("GET", "/api/v1/namespaces/a", "get /v1/namespaces/ ns=a name=a rest="),
            ("PUT", "/api/v1/namespaces/a/finalize", "update /v1/namespaces/finalize ns=a name=a rest="),
            ("POST", "/api/v1/namespaces/a/pods", "create /v1/pods/ ns=a name= rest="),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1/deployments/ ns=a name= rest=",
            ),
            ("GET", "/api/v1/namespaces/a/pods/x%2Fy/log", "get /v1/pods/log ns=a name=x/y rest="),
            ("GET", "/api/v1/namespaces/a/pods/p/proxy/b/c", "get /v1/pods/proxy ns=a name=p rest=b/c"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1/pods/ ns= name=x rest="),
        ] {
            check(method, uri, expected);
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse(Some("a=1&b=x+y%20z&a=2&c&watch=true&no=false"));
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(
            (query.flag("watch"), query.flag("no"), query.flag("c"), query.flag("d")),
            (true, false, true, false)
        );
        assert!(query.number::<i64>("b").is_err());
    }
}
