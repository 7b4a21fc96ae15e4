//! Names of signers: `example.org/signer`.

use machinery::field::{FieldError, Path};
use machinery::name;

const DOMAIN_MAX: usize = 253;
/// A domain, a slash, and a name of a resource with its namespace.
const NAME_MAX: usize = DOMAIN_MAX + 1 + 253 + 63 + 1;

/// What is wrong with the name of a signer.
pub(super) fn check(path: &Path, signer: &str, errors: &mut Vec<FieldError>) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, signer, detail));
        return;
    };
    if domain.len() > DOMAIN_MAX {
        errors.push(FieldError::too_long(path, DOMAIN_MAX));
    }
    labels(path, domain, name::dns1123_label, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    labels(path, rest, name::dns1123_subdomain, errors);
    if signer.len() > NAME_MAX {
        errors.push(FieldError::too_long(path, NAME_MAX));
    }
}

/// Checks the parts between dots, up to the first that is wrong.
fn labels(path: &Path, text: &str, rule: fn(&str) -> Vec<String>, errors: &mut Vec<FieldError>) {
    let wrong = text.split('.').map(|label| (label, rule(label))).find(|(_, wrong)| !wrong.is_empty());
    for (label, why) in wrong.into_iter().flat_map(|(label, wrong)| wrong.into_iter().map(move |why| (label, why))) {
        errors.push(FieldError::invalid(path, text, format!("validating label {label:?}: {why}")));
    }
}

/// Whether the signer is one of Kubernetes' own.
pub(super) fn is_builtin(signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}
