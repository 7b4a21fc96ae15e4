//! A pooled HTTP client with TLS, for talking to kubelets, pods and other API servers.

use crate::{Body, BoxError, Duplex};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection nobody uses is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke before the answer's header.
    #[error("{message}")]
    Request {
        /// The innermost cause, for messages to users.
        message: String,
        /// The whole chain.
        source: legacy::Error,
    },
    /// An upgraded connection could not be taken over.
    #[error("take over the upgraded connection")]
    Upgrade(#[from] hyper::Error),
    /// Bytes could not be passed on.
    #[error("pass bytes on")]
    Copy(#[from] std::io::Error),
}

/// HTTP/1.1 over TLS (`https` URLs) or plain (`http`). Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Body>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// A client with this TLS configuration. The URL's host, name or address, must be in the server's certificate.
    pub fn new(tls: ClientConfig) -> Self {
        Self::build(Connector { tls: TlsConnector::from(Arc::new(tls)), name: None }, IDLE_CONNECTIONS_MAX)
    }

    /// A client for servers that have this name in their certificate, whatever the URL's host is. At most `idle_max` connections
    /// to one of them are kept when nobody uses them.
    pub fn named(tls: ClientConfig, name: ServerName<'static>, idle_max: usize) -> Self {
        Self::build(Connector { tls: TlsConnector::from(Arc::new(tls)), name: Some(name) }, idle_max)
    }

    fn build(connector: Connector, idle_max: usize) -> Self {
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_max)
            .build(connector);
        Self { inner }
    }

    /// A client that takes any server certificate, as the API server's proxy to pods and services does.
    pub fn without_verification() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_no_client_auth();
        Ok(Self::new(config))
    }

    /// Sends a request whose URI is absolute. An answer of 101 can be taken over with `hyper::upgrade::on`.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        self.inner.request(request).await.map_err(|source| Error::Request { message: innermost(&source), source })
    }
}

/// The cause at the end of the chain: `Connection refused (os error 111)` tells more than `client error (Connect)`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Joins the connection of a client, being upgraded, to that of a server, and copies both ways until both have ended.
pub async fn tunnel(client: hyper::upgrade::OnUpgrade, server: hyper::upgrade::OnUpgrade) -> Result<(), Error> {
    let (client, server) = tokio::try_join!(client, server)?;
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    match tokio::io::copy_bidirectional(&mut client, &mut server).await {
        Ok(_) => Ok(()),
        // Either side hanging up is how such connections end.
        Err(error) if is_hang_up(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_hang_up(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    /// What the server's certificate must name; by default the URL's host.
    name: Option<ServerName<'static>>,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, name) = (self.tls.clone(), self.name.clone());
        Box::pin(async move { tokio::time::timeout(CONNECT_TIMEOUT, connect(tls, name, uri)).await? })
    }
}

async fn connect(tls: TlsConnector, name: Option<ServerName<'static>>, uri: Uri) -> Result<Stream, BoxError> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or("the URL has no host")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    let io: Box<dyn Duplex> = match secure {
        true => {
            let name = name.map_or_else(|| ServerName::try_from(host), Ok)?;
            Box::new(tls.connect(name, tcp).await?)
        }
        false => Box::new(tcp),
    };
    Ok(Stream(TokioIo::new(io)))
}

struct Stream(TokioIo<Box<dyn Duplex>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Takes every server for the one it is meant to be, as those do who are told not to verify.
pub fn any_server() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyServer(Arc::new(rustls::crypto::ring::default_provider())))
}

/// Takes every certificate; still checks that the server holds its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
