//! A cluster's certificates over their life: made, kept, renewed, damaged, replaced.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use pki::{Authority, Identity, Leaf, Names, Pki, Profile, ServiceAccountKey, Subject, verified_peer};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

fn names() -> Names {
    Names {
        node: "node-1".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: "10.96.0.1".parse().unwrap(),
        node_ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        extra: vec!["api.example.org".into(), "198.51.100.3".into()],
    }
}

const LEAVES: [Leaf; 5] =
    [Leaf::ApiServer, Leaf::Kubelet, Leaf::Admin, Leaf::ApiServerKubeletClient, Leaf::FrontProxyClient];

fn all(pki: &Pki) -> Vec<Identity> {
    LEAVES.iter().map(|leaf| pki.identity(*leaf)).collect()
}

#[test]
fn what_is_made_is_private_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/pki");
    let first = Pki::open_or_create(&dir, &names()).unwrap();
    for entry in dir.read_dir().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        assert_ne!(entry.path().extension().unwrap(), "new");
    }
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let second = Pki::open_or_create(&dir, &names()).unwrap();
    assert_eq!(all(&first), all(&second));
    assert_eq!(first.authority().certificate_pem(), second.authority().certificate_pem());
}

#[test]
fn certificates_say_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open_or_create(dir.path(), &names()).unwrap();
    let cases = [
        (Leaf::Admin, "kubernetes-admin", &["system:masters"][..]),
        (Leaf::ApiServerKubeletClient, "kube-apiserver-kubelet-client", &[]),
        (Leaf::Kubelet, "system:node:node-1", &["system:nodes"]),
        (Leaf::FrontProxyClient, "front-proxy-client", &[]),
        (Leaf::ApiServer, "kube-apiserver", &[]),
    ];
    for (leaf, common_name, organizations) in cases {
        let subject = pki.identity(leaf).subject().unwrap();
        assert_eq!(
            (subject.common_name.as_str(), subject.organizations.as_slice()),
            (common_name, &organizations.iter().map(|o| o.to_string()).collect::<Vec<_>>()[..])
        );
    }
    let api = pki.identity(Leaf::ApiServer);
    let dns = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "node-1",
        "api.example.org",
    ]
    .map(String::from);
    let ips = ["127.0.0.1", "10.96.0.1", "192.0.2.7", "2001:db8::7", "198.51.100.3"].map(|ip| ip.parse().unwrap());
    assert!(api.covers(&dns, &ips).unwrap());
    assert!(!api.covers(&["other".to_owned()], &[]).unwrap());
    let now = SystemTime::now();
    let client = |leaf| verified_peer(pki.authority(), &pki.identity(leaf).certificate().unwrap(), now);
    assert_eq!(client(Leaf::Admin).unwrap().common_name, "kubernetes-admin");
    assert!(client(Leaf::ApiServer).unwrap_err().to_string().contains("not for clients"));
    assert!(client(Leaf::FrontProxyClient).unwrap_err().to_string().contains("not signed by"));
    let later = verified_peer(pki.authority(), &pki.identity(Leaf::Admin).certificate().unwrap(), now + 366 * DAY);
    assert!(later.unwrap_err().to_string().contains("expired"));
}

#[test]
fn a_leaf_is_renewed_when_less_than_a_third_of_its_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let pki = Pki::open_at(dir.path(), &names(), now).unwrap();
    let before = all(&pki);
    let due = pki.certificates_due().duration_since(now).unwrap();
    assert!(due > 240 * DAY && due < 246 * DAY, "{due:?}");
    assert_eq!(pki.renew(now + 240 * DAY).unwrap(), []);
    let swap = pki.swap(Leaf::ApiServer);
    let shown = swap.current();
    assert_eq!(pki.renew(now + 250 * DAY).unwrap(), LEAVES);
    assert_ne!(swap.current().cert, shown.cert, "connections made from now on see the new certificate");
    for (old, new) in before.iter().zip(all(&pki)) {
        assert_ne!(*old, new);
        assert!(new.validity().unwrap().1 > now + 600 * DAY);
    }
    let reopened = Pki::open_at(dir.path(), &names(), now + 250 * DAY).unwrap();
    assert_eq!(all(&reopened), all(&pki), "what was renewed was stored");
    let next = Pki::open_at(dir.path(), &names(), now + 550 * DAY).unwrap();
    assert_ne!(all(&next), all(&pki), "opening renews too");
}

#[test]
fn what_does_not_fit_is_made_anew_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file);
    let first = Pki::open_or_create(dir.path(), &names()).unwrap();
    let other_names = Names { node_ips: vec!["192.0.2.8".parse().unwrap()], ..names() };
    let moved = Pki::open_or_create(dir.path(), &other_names).unwrap();
    assert!(moved.identity(Leaf::ApiServer).covers(&[], &other_names.node_ips).unwrap());
    assert_eq!(moved.identity(Leaf::Admin), first.identity(Leaf::Admin), "what still fits stays");

    std::fs::write(path("admin.pem"), "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n").unwrap();
    let healed = Pki::open_or_create(dir.path(), &other_names).unwrap();
    assert_ne!(healed.identity(Leaf::Admin), first.identity(Leaf::Admin));
    let mixed = Identity { key_pem: first.identity(Leaf::Admin).key_pem, ..healed.identity(Leaf::Admin) };
    assert!(Identity::from_pem(&mixed.to_pem()).unwrap_err().to_string().contains("do not belong together"));

    let expired = Pki::open_at(dir.path(), &other_names, SystemTime::now() + 3_700 * DAY).unwrap_err();
    assert!(expired.to_string().contains("has expired"), "{expired}");
    std::fs::write(path("ca.pem"), "nonsense").unwrap();
    let damaged = Pki::open_or_create(dir.path(), &other_names).unwrap_err().to_string();
    assert!(damaged.contains("ca.pem is damaged"), "{damaged}");
}

#[test]
fn an_unrelated_authority_signed_nothing_here() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open_or_create(dir.path(), &names()).unwrap();
    let impostor = Authority::create("kubernetes", SystemTime::now()).unwrap();
    let forged = impostor.issue(&Profile::client("admin", &["system:masters"]), SystemTime::now()).unwrap();
    assert!(!pki.authority().signed(&forged.certificate().unwrap()).unwrap());
    assert!(verified_peer(pki.authority(), &forged.certificate().unwrap(), SystemTime::now()).is_err());
    assert!(Subject::of(b"junk").is_err());
}

#[tokio::test]
async fn the_service_account_key_signs_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let pki = Pki::open_or_create(dir.path(), &names()).unwrap();
    let opened = start.elapsed();
    let key = pki.service_account_key().await.unwrap();
    println!("opened after {opened:?}, key after {:?}", start.elapsed());
    let signature = key.sign(b"message").unwrap();
    assert!(key.public().verify(b"message", &signature));
    assert!(!key.public().verify(b"massage", &signature));
    assert_eq!(
        (signature.len(), key.public().modulus.len(), key.public().exponent.as_slice()),
        (256, 256, &[1, 0, 1][..])
    );
    let again = Pki::open_or_create(dir.path(), &names()).unwrap().service_account_key().await.unwrap();
    assert_eq!(again.public(), key.public());
    assert!(again.public().verify(b"message", &signature));
    let (other, pem) = ServiceAccountKey::generate().unwrap();
    assert!(!other.public().verify(b"message", &signature));
    assert_eq!(ServiceAccountKey::from_pem(&pem).unwrap().public(), other.public());
}

#[test]
fn a_kubeconfig_holds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open_or_create(dir.path(), &names()).unwrap();
    let text = pki.admin_kubeconfig("ki\"jabi", "https://127.0.0.1:6443");
    assert!(text.contains("server: \"https://127.0.0.1:6443\"\n"), "{text}");
    assert!(text.contains("current-context: \"ki\\\"jabi\"\n"), "{text}");
    for field in ["certificate-authority-data: LS0t", "client-certificate-data: LS0t", "client-key-data: LS0t"] {
        assert!(text.contains(field), "{field}");
    }
}
