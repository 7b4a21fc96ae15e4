//! Requests of strangers: read, judged, signed.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use pki::{AltNames, Authority, Certificate, KeyKind, Profile, Request, RequestError, Subject, pem};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use std::time::{Duration, SystemTime};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A request (PEM) with one organization, and names of every kind.
fn request(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "devs");
    params.distinguished_name.push(DnType::CommonName, "jane");
    params.subject_alt_names = vec![
        SanType::DnsName("a.example.org".try_into().unwrap()),
        SanType::IpAddress("192.0.2.1".parse().unwrap()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::Rfc822Name("j@example.org".try_into().unwrap()),
        SanType::URI("spiffe://x/y".try_into().unwrap()),
    ];
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn a_request_is_read_and_signed() {
    let now = SystemTime::now();
    let authority = Authority::create("ca", now).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = Request::from_pem(request(&key).as_bytes()).unwrap();
    assert_eq!((request.common_name.as_str(), &request.organizations[..]), ("jane", &["devs".to_owned()][..]));
    assert_eq!((request.check_signature(), request.bare), (Ok(()), false));
    assert_eq!(request.key.kind, KeyKind::Curve(256));
    let names = AltNames {
        dns: vec!["a.example.org".into()],
        emails: vec!["j@example.org".into()],
        ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        uris: vec!["spiffe://x/y".into()],
    };
    assert_eq!(request.names, names);

    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let rest = authority.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let usages = ["digital signature", "key encipherment", "client auth"];
    for (life, end) in [
        (10 * MINUTE, seconds + 600),
        (8 * HOUR - MINUTE, seconds + 8 * 3_600 - 60),
        (8 * HOUR, seconds + 8 * 3_600 - 300),
        (9_000 * 24 * HOUR, rest),
    ] {
        let signed = authority.sign(&request, &usages, life, now).unwrap();
        let der = pem::blocks(&signed).remove(0).der;
        assert!(authority.signed(&der).unwrap());
        let certificate = Certificate::from_der(&der).unwrap();
        assert_eq!((certificate.not_before, certificate.not_after), (seconds - 300, end));
        assert_eq!((certificate.names, certificate.is_authority), (names.clone(), false));
        assert_eq!(certificate.key, request.key);
        assert_eq!(Subject::of(&der).unwrap().organizations, ["devs"]);
        assert!(pki::verified_peer(&authority, &der, now).is_ok());
    }
    let after = authority.not_after() + MINUTE;
    assert!(authority.sign(&request, &usages, HOUR, after).is_err());
    let unknown = authority.sign(&request, &["nonsense"], HOUR, now).unwrap_err().to_string();
    assert!(unknown.contains("unrecognized usage values: [\"nonsense\"]"), "{unknown}");
}

/// `rcgen` keeps one organization of a name; users are in several groups.
#[test]
fn a_client_may_have_several_organizations() {
    let now = SystemTime::now();
    let authority = Authority::create("ca", now).unwrap();
    let identity = authority.issue(&Profile::client("jane", &["a", "b", "c"]), now).unwrap();
    assert_eq!(identity.subject().unwrap().organizations, ["a", "b", "c"]);
    assert!(pki::verified_peer(&authority, &identity.certificate().unwrap(), now).is_ok());
}

#[test]
fn what_is_no_request() {
    let key = KeyPair::generate().unwrap();
    let good = request(&key);
    let renamed = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    for bad in ["", "text", renamed.as_str()] {
        assert_eq!(Request::from_pem(bad.as_bytes()), Err(RequestError::Block), "{bad}");
    }
    let der = pem::blocks(&good).remove(0).der;
    let malformed = |der: &[u8]| matches!(Request::from_der(der), Err(RequestError::Malformed(_)));
    assert!(malformed(&der[..der.len() - 1]) && malformed(&[&der[..], &[0]].concat()) && malformed(b""));
    // The last byte is one of the signature; one in the middle is of what is signed, or of its form.
    let mut forged = der.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(Request::from_der(&forged).unwrap().check_signature(), Err("x509: ECDSA verification failure"));
    // What is signed ends before the algorithm and the signature, which take less than 90 bytes.
    for at in 0..der.len() - 90 {
        let mut forged = der.clone();
        forged[at] ^= 1;
        let accepted = Request::from_der(&forged).is_ok_and(|request| request.check_signature().is_ok());
        assert!(!accepted, "byte {at}");
    }
}
