//! The certificates and keys of one cluster.
//!
//! `Pki::open_or_create` reads them from a directory, makes what is missing, and renews what is about to expire:
//! two certificate authorities (the cluster's and the one for front proxies; ECDSA P-256, ten years), the leaf
//! certificates they sign (one year), and the RSA-2048 key that signs service-account tokens.
//!
//! Flow: read or make the authorities → check each leaf (signed by us, names covered, more than a third of its life left)
//! → issue anew where not → start the search for the service-account key on its own threads when there is none. The last
//! takes 50–200 ms of two cores, so nothing waits for it but who needs it: `service_account_key().await`.
//!
//! TLS users take a `Swap`: a resolver whose certificate is replaced while connections go on. A task of the binary sleeps
//! until `certificates_due()` and calls `renew()`.
//!
//! Invariants: a certificate and its key lie in one file, replaced by rename, so that they never disagree; files are
//! 0600 in a directory of 0700; serials are random; no leaf outlives its authority; private keys are never logged.
//!
//! `Authority::sign` gives a certificate for what a stranger's `Request` asks; whether it may have one is the caller's matter.
//!
//! It never: opens a socket or revokes.

mod authority;
mod der;
mod file;
mod identity;
mod key;
mod kubeconfig;
mod open;
pub mod pem;
mod profile;
mod request;
mod service_account;
mod sign;
mod swap;
mod usage;

pub use authority::{Authority, verified_peer};
pub use identity::{Identity, Subject};
pub use key::{KeyKind, PublicKey};
pub use kubeconfig::kubeconfig;
pub use open::{Leaf, Pki};
pub use profile::{Names, Profile, Usage};
pub use request::{AltNames, Certificate, Request, RequestError};
pub use service_account::{ServiceAccountKey, VerifyingKey};
pub use swap::{Swap, client_config, server_config};
pub use usage::USAGES;

use std::path::PathBuf;

/// What can go wrong with the cluster's certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{action} {path}")]
    File {
        /// What was tried: `read`, `write`, ….
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file holds something else than it should. Remove it to have it made anew (for an authority or the
    /// service-account key: all that was issued with it becomes invalid).
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate authority itself has expired.
    #[error(
        "the certificate authority in {path} has expired; remove the file to make a new one and give clients new certificates"
    )]
    Expired {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate could not be made.
    #[error("make certificate {name}")]
    Issue {
        /// Its common name.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A certificate or key that was handed in is not usable.
    #[error("certificate or key not usable: {0}")]
    Unusable(String),
    /// The search for the service-account key ended without one.
    #[error("the service-account key could not be made: {0}")]
    ServiceAccountKey(String),
    /// The TLS library refused.
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
}
