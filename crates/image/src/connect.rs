//! Connections to registries: TCP, and TLS with the machine's certificate authorities.

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT_MAX: Duration = Duration::from_secs(15);

/// Makes connections; clones share the TLS configuration, which is read when first needed.
#[derive(Clone)]
pub(crate) struct Connector {
    ca_files: Arc<Vec<PathBuf>>,
    tls: Arc<OnceLock<Result<TlsConnector, String>>>,
}

impl Connector {
    pub(crate) fn new(ca_files: Vec<PathBuf>) -> Self {
        Self { ca_files: Arc::new(ca_files), tls: Arc::default() }
    }

    async fn connect(self, uri: http::Uri) -> io::Result<TokioIo<Stream>> {
        let host = uri.host().ok_or_else(|| io::Error::other("no host in the address"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        }
        let reader = self.clone();
        let tls = tokio::task::spawn_blocking(move || reader.tls.get_or_init(|| configure(&reader.ca_files)).clone());
        let tls = tls.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(TokioIo::new(Stream::Tls(Box::new(tls.connect(name, tcp).await?))))
    }
}

fn configure(ca_files: &[PathBuf]) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |path: &Path| -> Result<(), String> {
        let shown = path.display();
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| format!("{shown}: {e}"))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|e| format!("{shown}: {e}"))?;
            // Bundles have a few that rustls cannot use; the others still count.
            let _ = roots.add(certificate);
        }
        Ok(())
    };
    if let Some(bundle) = sys::authorities::bundle() {
        add(bundle)?;
    }
    for path in ca_files {
        add(path)?;
    }
    if roots.is_empty() {
        return Err("this machine has no certificate authorities (package ca-certificates)".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
            tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(|_| late())?
        })
    }
}

/// A connection, with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
