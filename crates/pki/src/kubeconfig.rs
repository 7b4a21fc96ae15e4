//! kubeconfig files with everything inside them.

use crate::Identity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig for `server` (an `https://` URL) with the CA's certificate and the user's identity embedded; cluster,
/// context and user are named after `cluster`.
pub fn kubeconfig(cluster: &str, server: &str, ca_pem: &str, identity: &Identity) -> String {
    let (ca, certificate, key) =
        (STANDARD.encode(ca_pem), STANDARD.encode(&identity.certificate_pem), STANDARD.encode(&identity.key_pem));
    let (cluster, server) = (quoted(cluster), quoted(server));
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {cluster}\nclusters:\n- name: {cluster}\n  cluster:\n    \
         server: {server}\n    certificate-authority-data: {ca}\ncontexts:\n- name: {cluster}\n  context:\n    \
         cluster: {cluster}\n    user: {cluster}\nusers:\n- name: {cluster}\n  user:\n    \
         client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

/// A YAML double-quoted scalar.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
