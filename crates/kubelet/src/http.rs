//! A small HTTP client for probes and hooks: one request, one connection, a deadline for all of it, no certificate checks.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes of a body that are read.
const BODY_MAX: usize = 10 << 10;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;

/// A request.
#[derive(Clone, Debug)]
pub struct Get {
    /// `http` or `https`.
    pub scheme: String,
    /// Address or name to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Headers beside the usual ones.
    pub headers: Vec<(String, String)>,
    /// For `User-Agent`.
    pub agent: &'static str,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// The beginning of the body.
    pub body: String,
    /// Where it points elsewhere.
    pub location: Option<String>,
}

/// `host:port`, with brackets where they are needed.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What connecting went wrong with, as Go says it.
pub fn dial_error(host: &str, port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => match error.raw_os_error() {
            Some(101) => "connect: network is unreachable".to_owned(),
            Some(113) => "connect: no route to host".to_owned(),
            _ => error.to_string(),
        },
    };
    format!("dial tcp {}: {why}", authority(host, port))
}

impl Get {
    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, authority(&self.host, self.port), self.path)
    }
}

/// Sends the request, and follows redirects to the same host.
pub async fn get(request: &Get, timeout: Duration) -> Result<Answer, String> {
    let url = request.url();
    match tokio::time::timeout(timeout, follow(request)).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(request: &Get) -> Result<Answer, String> {
    let mut request = request.clone();
    for _ in 0..REDIRECTS_MAX {
        let answer = once(&request).await?;
        let Some(next) = answer.location.as_deref().and_then(|l| redirected(&request, l)) else { return Ok(answer) };
        request = next;
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

/// The request a redirect means, when it stays on the host.
fn redirected(request: &Get, location: &str) -> Option<Get> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(Get { path: location.to_owned(), ..request.clone() });
    }
    let uri: Uri = location.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    if uri.host()?.trim_matches(['[', ']']) != request.host {
        return None;
    }
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Some(Get { scheme, port, path, ..request.clone() })
}

async fn once(request: &Get) -> Result<Answer, String> {
    let fail = |why: String| format!("Get \"{}\": {why}", request.url());
    let tcp = TcpStream::connect((request.host.as_str(), request.port)).await;
    let tcp = tcp.map_err(|e| fail(dial_error(&request.host, request.port, &e)))?;
    if request.scheme.eq_ignore_ascii_case("https") {
        let name = rustls::pki_types::ServerName::try_from(request.host.clone()).map_err(|e| fail(e.to_string()))?;
        let tls = TlsConnector::from(blind_tls()).connect(name, tcp).await.map_err(|e| fail(e.to_string()))?;
        return send(request, tls).await.map_err(fail);
    }
    send(request, tcp).await.map_err(fail)
}

async fn send(get: &Get, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Answer, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(io)).await.map_err(|e| reason(&e))?;
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut request = Request::builder()
        .method("GET")
        .uri(path)
        .header("host", authority(&get.host, get.port))
        .header("user-agent", get.agent)
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    for (name, value) in &get.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
        request.headers_mut().insert(name, value);
    }
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| reason(&e))?;
        let code = response.status().as_u16();
        let redirect = response.status().is_redirection();
        let location = response.headers().get("location").filter(|_| redirect);
        let location = location.and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Answer { code, body, location })
    };
    tokio::pin!(talk);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            Ok(()) => talk.await,
            Err(e) => Err(reason(&e)),
        },
    }
}

fn reason(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".into() } else { error.to_string() }
}

/// Speaks HTTP/2 without TLS to a gRPC server: one call, its message back.
pub async fn grpc(host: &str, port: u16, path: &str, message: Vec<u8>) -> Result<(Bytes, Option<String>), String> {
    let tcp = TcpStream::connect((host, port)).await.map_err(|e| dial_error(host, port, &e))?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
        .await
        .map_err(|e| e.to_string())?;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend(message);
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://{}{path}", authority(host, port)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(http_body_util::Full::new(Bytes::from(framed)))
        .map_err(|e| e.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let early = response.headers().get("grpc-status").cloned();
        let collected = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|e| e.to_string())?;
        let status = collected.trailers().and_then(|t| t.get("grpc-status").cloned()).or(early);
        Ok((collected.to_bytes(), status.and_then(|s| s.to_str().ok().map(str::to_owned))))
    };
    tokio::select! {
        answer = talk => answer,
        ended = connection => Err(ended.err().map_or_else(|| "connection closed".into(), |e| e.to_string())),
    }
}

/// Probes do not check certificates: the pod is known by its address.
fn blind_tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = Arc::new(Blind(provider.clone()));
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider knows the default protocol versions")
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
}

#[derive(Debug)]
struct Blind(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
