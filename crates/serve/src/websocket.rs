//! The opening handshake of a WebSocket on a request, and the connection after it.

use crate::{Body, BoxError, full};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::header::{HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame, protocol::frame::coding::CloseCode};

/// Clients send pieces of 32 KiB; a larger message than this ends the connection.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// An open WebSocket, server side.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a comma-separated header has this token, whatever its case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// Whether a request asks for an upgrade of any kind.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, CONNECTION, "upgrade")
}

/// Whether a request asks for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && has_token(headers, UPGRADE, "websocket")
}

/// The subprotocols a client offers, in its order.
pub fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let tokens = values.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    tokens.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}

/// A plain answer that refuses an upgrade.
pub fn refusal(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A handshake that was answered; the WebSocket opens when the answer is on the wire.
#[derive(Debug)]
pub struct Opening {
    upgrade: OnUpgrade,
    /// The subprotocol agreed on.
    pub protocol: String,
}

impl Opening {
    /// Waits for the connection.
    pub async fn open(self) -> Result<WebSocket, BoxError> {
        let io = TokioIo::new(self.upgrade.await?);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .read_buffer_size(32 << 10)
            .write_buffer_size(0);
        Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
    }
}

/// Answers the handshake of `request`. Of the subprotocols offered, the first that `protocols` has is taken; when the
/// client offers none, the answer names none and the protocol is empty.
///
/// # Errors
/// The answer to send when this is no handshake, or no subprotocol fits.
pub fn accept<B>(
    request: &mut Request<B>,
    protocols: &[&str],
) -> Result<(Response<Body>, Opening), Box<Response<Body>>> {
    let bad = |text: String| Box::new(refusal(StatusCode::BAD_REQUEST, text));
    let headers = request.headers();
    if request.method() != Method::GET || !is_websocket(headers) {
        return Err(bad("an upgrade to websocket is required for this request\n".into()));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response =
            bad("websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header\n".into());
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(response);
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).filter(|key| key.len() == 24)
    else {
        return Err(bad("websocket: 'Sec-WebSocket-Key' header is missing or not 16 bytes in base64\n".into()));
    };
    let accept_key = derive_accept_key(key.as_bytes());
    let offered = offered(headers);
    let protocol = offered.iter().find(|o| protocols.contains(&o.as_str())).cloned();
    if protocol.is_none() && !offered.is_empty() {
        return Err(bad(format!("unable to upgrade: unsupported protocols: {offered:?} (supported: {protocols:?})\n")));
    }
    let mut response = Response::new(crate::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept_key).expect("base64 is a valid header"));
    if let Some(protocol) = &protocol {
        let value = HeaderValue::try_from(protocol).expect("it came from a header");
        answer.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let opening = Opening { upgrade: hyper::upgrade::on(request), protocol: protocol.unwrap_or_default() };
    Ok((response, opening))
}
