//! Passing a request on: which headers go along, and what becomes of an upgrade.

use super::Connect;
use crate::body::{Body, RequestBody};
use crate::endpoint::empty_body;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use hyper::upgrade::OnUpgrade;
use machinery::Status;

/// Headers that are about one connection only.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// Subprotocols with which browsers send a token.
const BEARER_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The headers that go on.
fn outgoing_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut outgoing = headers.clone();
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().filter(|name| !matches!(name.as_str(), "upgrade" | "")) {
        outgoing.remove(name.as_str());
    }
    for name in HOP_BY_HOP {
        outgoing.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        outgoing.remove(name);
    }
    outgoing.remove(AUTHORIZATION);
    outgoing.remove(HOST);
    let impersonation: Vec<HeaderName> =
        outgoing.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.into_iter().for_each(|name| drop(outgoing.remove(name)));
    without_token(&mut outgoing);
    if upgrade {
        outgoing.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = headers.get(UPGRADE) {
            outgoing.insert(UPGRADE, protocol.clone());
        }
    }
    outgoing
}

fn without_token(headers: &mut HeaderMap) {
    let offered = serve::websocket::offered(headers);
    let kept: Vec<&str> = offered.iter().map(String::as_str).filter(|p| !p.starts_with(BEARER_PREFIX)).collect();
    if kept.len() < offered.len() {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Ok(value) = HeaderValue::try_from(kept.join(", "))
            && !kept.is_empty()
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Undoes `%XX`; none when it is not well formed or not text.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Makes a text fit for one part of a path or query.
pub(crate) fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Connect {
    /// Sends a request on to `uri` by `client`. When both sides agree on an upgrade, joins the two connections.
    pub(crate) async fn forward(
        &self,
        client: &serve::client::Client,
        mut parts: Parts,
        body: RequestBody,
        uri: Uri,
    ) -> Result<Response<Body>, serve::client::Error> {
        let upgrade = serve::websocket::is_upgrade(&parts.headers);
        let body = if upgrade { empty_body() } else { body };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = outgoing_headers(&parts.headers, upgrade);
        let mut response = client.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (mut head, body) = response.into_parts();
            let headers = HOP_BY_HOP.into_iter().filter(|name| *name != TRAILER);
            headers.for_each(|name| drop(head.headers.remove(name)));
            head.headers.remove("keep-alive");
            head.version = http::Version::default();
            head.extensions = http::Extensions::new();
            return Ok(Response::from_parts(head, Body::stream(body)));
        }
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = response.headers().clone();
        // Those who ask for an upgrade on a connection that cannot were refused before.
        if let Some(near) = parts.extensions.remove::<OnUpgrade>() {
            let far = hyper::upgrade::on(&mut response);
            let stop = self.stop.clone();
            self.tunnels.spawn(async move {
                if let Some(Err(error)) = stop.run_until_cancelled(serve::client::tunnel(near, far)).await {
                    tracing::debug!(%error, "an upgraded connection broke");
                }
            });
        }
        Ok(answer)
    }
}

/// 400 unless the request asks for an upgrade on a connection that can.
pub(crate) fn require_upgrade(parts: &Parts) -> Result<(), Status> {
    let can = parts.extensions.get::<OnUpgrade>().is_some();
    match serve::websocket::is_upgrade(&parts.headers) && can {
        true => Ok(()),
        false => Err(Status::bad_request("Upgrade request required")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_proves_who_asks_goes_on() {
        let mut headers = HeaderMap::new();
        let lines = [
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, Upgrade, x-hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("x-kept", "1"),
            ("impersonate-user", "root"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
            ("transfer-encoding", "chunked"),
            ("host", "api"),
        ];
        for (name, value) in lines {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let text = |headers: &HeaderMap| {
            let mut lines: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
            lines.sort();
            lines.join(" ")
        };
        let upgraded = outgoing_headers(&headers, true);
        assert_eq!(
            text(&upgraded),
            "connection=Upgrade sec-websocket-protocol=v5.channel.k8s.io upgrade=websocket x-kept=1"
        );
        assert_eq!(text(&outgoing_headers(&headers, false)), "sec-websocket-protocol=v5.channel.k8s.io x-kept=1");
    }

    #[test]
    fn percent_encoding() {
        for text in ["", "plain", "a b/c?d=é%"] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
