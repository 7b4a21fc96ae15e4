//! The certificate authorities that the machine trusts.

use std::path::Path;

/// Where Linux distributions keep the certificate authorities they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file with the authorities the machine trusts (PEM); none on a machine that has none.
pub fn bundle() -> Option<&'static Path> {
    BUNDLES.iter().map(Path::new).find(|path| path.exists())
}
