//! Requests for certificates through the whole chain: who made them, who may approve and sign them, what is refused in upstream's words.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod secured;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::Authority;
use rcgen::{CertificateParams, DnType, KeyPair};
use secured::{Client, Secured, start, text};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const POD_REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";

/// A request (PEM in base64) for a common name and an organization.
fn pem(organization: &str, common_name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    STANDARD.encode(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap())
}

fn request(name: &str, pem: &str, signer: &str, usages: &Value) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": pem, "signerName": signer, "usages": usages},
    })
}

/// A user who may do all of a resource, and something for some signers.
async fn signer(server: &Secured, user: &str, verb: &str, signers: &[&str]) -> Client {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user},
        "rules": [
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "clustertrustbundles",
                "certificatesigningrequests/approval", "certificatesigningrequests/status",
                "podcertificaterequests", "podcertificaterequests/status"], "verbs": ["*"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": signers, "verbs": [verb]},
        ],
    });
    server.make("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    server.make("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    server.user(user, &["devs", "ops"])
}

fn approved(object: &Value) -> Value {
    let mut object = object.clone();
    object["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]});
    object
}

#[tokio::test]
async fn a_request_says_who_made_it_and_is_approved_by_who_may() {
    let server = start().await;
    let jane = signer(&server, "jane", "approve", &["example.org/*"]).await;
    let pem = pem("devs", "bob");
    let mut own = request("a", &pem, "example.org/x", &json!(["client auth"]));
    own["spec"]["username"] = json!("root");
    own["status"] = approved(&own)["status"].clone();
    let (code, made) = server.post(&jane, REQUESTS, &own).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((text(&made, "/spec/username"), made["status"].clone()), ("jane".into(), json!({})));
    assert_eq!(made["spec"]["groups"], json!(["devs", "ops", "system:authenticated"]));
    assert!(made["spec"]["extra"]["authentication.kubernetes.io/credential-id"][0].is_string());

    let foreign = request("b", &pem, "kubernetes.io/kube-apiserver-client", &json!(["client auth"]));
    let (_, foreign) = server.post(&jane, REQUESTS, &foreign).await;
    for (object, code) in [(&made, 200), (&foreign, 403)] {
        let path = format!("{REQUESTS}/{}/approval", text(object, "/metadata/name"));
        let (got, answer) = server.send(&jane, "PUT", &path, &approved(object)).await;
        assert_eq!(got, code, "{answer}");
        if code == 403 {
            let why = "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"";
            assert!(text(&answer, "/message").ends_with(why), "{answer}");
        }
    }
    // Approving is not signing.
    let (_, mut now) = server.get(&jane, &format!("{REQUESTS}/a")).await;
    assert_eq!(text(&now, "/status/conditions/0/type"), "Approved");
    now["status"]["certificate"] = json!(STANDARD.encode(server.pki.authority().certificate_pem()));
    let (code, answer) = server.send(&jane, "PUT", &format!("{REQUESTS}/a/status"), &now).await;
    assert_eq!(code, 403, "{answer}");
    let (code, signed) = server.send(&server.admin(), "PUT", &format!("{REQUESTS}/a/status"), &now).await;
    assert_eq!((code, &signed["status"]["certificate"]), (200, &now["status"]["certificate"]), "{signed}");
}

#[tokio::test]
async fn what_is_no_good_request() {
    let server = start().await;
    let admin = server.admin();
    let good = pem("devs", "bob");
    let nothing = STANDARD.encode("hello\n");
    let cases = [
        (
            request("a", &nothing, "example.org/x", &json!(["client auth"])),
            vec!["spec.request: Invalid value: \"aGVsbG8K\": PEM block type must be CERTIFICATE REQUEST"],
        ),
        (
            request("a", &good, "example", &json!(["client auth", "foo", "client auth"])),
            vec![
                "spec.usages[1]: Unsupported value: \"foo\": supported values: \"any\", \"cert sign\", \"client auth\", ",
                "spec.usages[2]: Duplicate value: \"client auth\"",
                "spec.signerName: Invalid value: \"example\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ],
        ),
        (
            request("a", &good, "kubernetes.io/legacy-unknown", &json!([])),
            vec![
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ],
        ),
    ];
    for (object, expected) in cases {
        let (code, answer) = server.post(&admin, REQUESTS, &object).await;
        assert_eq!(code, 422, "{answer}");
        let message = text(&answer, "/message");
        expected.iter().for_each(|line| assert!(message.contains(line), "{message}\n{line}"));
        assert_eq!(answer["details"]["causes"].as_array().unwrap().len(), expected.len(), "{message}");
    }
    let masters =
        request("a", &pem("system:masters", "me"), "kubernetes.io/kube-apiserver-client", &json!(["client auth"]));
    let (code, answer) = server.post(&admin, REQUESTS, &masters).await;
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert!(code == 403 && text(&answer, "/message").ends_with(why), "{answer}");
}

#[tokio::test]
async fn what_no_change_may_do() {
    let server = start().await;
    let admin = server.admin();
    // Upstream lets any name through that is a path segment.
    let object = request("A_5", &pem("devs", "bob"), "example.org/x", &json!(["client auth"]));
    let made = server.make(REQUESTS, object).await;
    let (_, now) = server.send(&admin, "PUT", &format!("{REQUESTS}/A_5/approval"), &approved(&made)).await;
    let with = |conditions: Value| {
        let mut changed = now.clone();
        let list = changed["status"]["conditions"].as_array_mut().unwrap();
        list.extend(conditions.as_array().unwrap().clone());
        changed
    };
    let mut none = now.clone();
    none["status"]["conditions"] = json!([]);
    let mut bad_certificate = with(json!([{"type": "Denied", "status": "True"}]));
    bad_certificate["status"]["certificate"] = json!("aGVsbG8K");
    let removed = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
    let both =
        "must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`";
    let cases = [
        ("approval", none.clone(), vec![removed]),
        ("status", none, vec![removed]),
        (
            "approval",
            with(
                json!([{"type": "Denied", "status": "True"}, {"type": "X", "status": "Y"}, {"type": "X", "status": ""}, {"type": "", "status": "True"}]),
            ),
            vec![
                "status.conditions[2].status: Unsupported value: \"Y\": supported values: \"False\", \"True\", \"Unknown\"",
                "status.conditions[3].status: Required value",
                "status.conditions[3].type: Duplicate value: \"X\"",
                "status.conditions[4].type: Required value",
                both,
            ],
        ),
        (
            "status",
            bad_certificate,
            vec![
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
                "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
                both,
            ],
        ),
    ];
    for (part, object, expected) in cases {
        let (code, answer) = server.send(&admin, "PUT", &format!("{REQUESTS}/A_5/{part}"), &object).await;
        assert_eq!(code, 422, "{answer}");
        let message = text(&answer, "/message");
        expected.iter().for_each(|line| assert!(message.contains(line), "{message}\n{line}"));
        assert_eq!(answer["details"]["causes"].as_array().unwrap().len(), expected.len(), "{message}");
    }
}

#[tokio::test]
async fn trust_bundles_are_attested_and_read() {
    let server = start().await;
    let jane = signer(&server, "jane", "attest", &["example.org/x"]).await;
    let authority = server.pki.authority().certificate_pem().to_owned();
    let leaf = server.pki.identity(pki::Leaf::Admin).certificate_pem;
    let bundle = |name: &str, signer: &str, text: &str| {
        let mut spec = json!({"trustBundle": text});
        if !signer.is_empty() {
            spec["signerName"] = json!(signer);
        }
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": name}, "spec": spec})
    };
    let omitted = |why: &str| format!("spec.trustBundle: Invalid value: \"<value omitted>\": {why}");
    let twice = format!("{authority}{authority}");
    let cases = [
        (bundle("plain", "", &authority), 201, String::new()),
        (bundle("example.org:x:one", "example.org/x", &authority), 201, String::new()),
        (bundle("example.org:y:one", "example.org/y", &authority), 403, "user not permitted to attest for signerName \"example.org/y\"".into()),
        (bundle("one", "example.org/x", &authority), 422, "metadata.name: Invalid value: \"one\": ClusterTrustBundle for signerName example.org/x must be named with prefix example.org:x:".into()),
        (bundle("a:b", "", &authority), 422, "ClusterTrustBundle without signer name must not have \":\" in its name".into()),
        (bundle("a", "", "hello"), 422, omitted("at least one trust anchor must be provided")),
        (bundle("a", "", &leaf), 422, omitted("entry 0 does not have the CA bit set")),
        (bundle("a", "", &twice), 422, omitted("duplicate trust anchor (indices [0 1])")),
        (bundle("a", "", &authority.replace("CERTIFICATE", "KEY")), 422, omitted("entry 0 has bad block type: KEY")),
    ];
    for (object, expected, words) in cases {
        let (code, answer) = server.post(&jane, BUNDLES, &object).await;
        assert_eq!(code, expected, "{answer}");
        assert!(text(&answer, "/message").contains(&words), "{answer}\n{words}");
    }
    let path = format!("{BUNDLES}/example.org:x:one");
    let (_, mut one) = server.get(&jane, &path).await;
    one["spec"]["signerName"] = json!("example.org/z");
    let (code, answer) = server.send(&server.admin(), "PUT", &path, &one).await;
    assert!(
        code == 422
            && text(&answer, "/message")
                .contains("spec.signerName: Invalid value: \"example.org/z\": field is immutable"),
        "{answer}"
    );
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let client = Client { headers: vec![("content-type", "application/merge-patch+json".into())], ..jane };
    let (code, answer) = server.send(&client, "PATCH", &path, &labels).await;
    assert_eq!(code, 200, "{answer}");
}

/// A request that says nothing but its key.
fn stub(key: &KeyPair) -> String {
    STANDARD.encode(CertificateParams::default().serialize_request(key).unwrap().der())
}

/// A request for a pod's certificate.
fn pod_request(name: &str, key: &KeyPair, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": {"name": name},
        "spec": {
            "signerName": "example.org/x", "podName": "p", "podUID": "uid", "serviceAccountName": "default",
            "serviceAccountUID": "u", "nodeName": "n1", "nodeUID": "u", "maxExpirationSeconds": 86_400,
            "stubPKCS10Request": stub(key),
        },
    });
    change(&mut object["spec"]);
    object
}

#[tokio::test]
async fn pod_certificates_are_requested_with_proof() {
    let server = start().await;
    let key = KeyPair::generate().unwrap();
    let mut forged = STANDARD.decode(stub(&key)).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let cases: Vec<(Value, &str)> = vec![
        (
            pod_request("a", &key, |spec| spec["stubPKCS10Request"] = json!(STANDARD.encode(&forged))),
            "spec.stubPKCS10Request: Invalid value: invalid signature",
        ),
        (
            pod_request("a", &key, |spec| spec["stubPKCS10Request"] = json!("aGVsbG8K")),
            "spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR",
        ),
        (
            pod_request("a", &key, |spec| drop(spec.as_object_mut().unwrap().remove("stubPKCS10Request"))),
            "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        ),
        (
            pod_request("a", &key, |spec| spec["maxExpirationSeconds"] = json!(3_599)),
            "must be in the range [3600, 7862400]",
        ),
        (
            pod_request("a", &key, |spec| spec["podUID"] = json!("")),
            "spec.podUID: Invalid value: \"\": must not be empty",
        ),
        (
            pod_request("a", &key, |spec| spec["unverifiedUserAnnotations"] = json!({"a": "b"})),
            "must be a domain-prefixed key (such as \"acme.io/foo\")",
        ),
        (pod_request("a", &key, |spec| spec["signerName"] = json!("x")), "spec.signerName: Invalid value: \"x\""),
        (pod_request("a", &key, |_| {}), ""),
    ];
    for (object, words) in cases {
        let (code, answer) = server.post(&server.admin(), POD_REQUESTS, &object).await;
        assert_eq!(code, if words.is_empty() { 201 } else { 422 }, "{answer}");
        assert!(text(&answer, "/message").contains(words), "{answer}\n{words}");
    }
}

#[tokio::test]
async fn pod_certificates_are_issued_once_and_fit() {
    let server = start().await;
    let key = KeyPair::generate().unwrap();
    let jane = signer(&server, "jane", "sign", &["example.org/y"]).await;
    let made = server.make(POD_REQUESTS, pod_request("a", &key, |_| {})).await;
    let path = format!("{POD_REQUESTS}/a/status");
    let now = SystemTime::now();
    let issuer = Authority::create("x", now).unwrap();
    let sign = |key: &KeyPair, seconds: u64| {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        let request = pki::Request::from_der(request.der()).unwrap();
        issuer
            .sign(&request, &["digital signature"], Duration::from_secs(seconds), now + Duration::from_secs(60))
            .unwrap()
    };
    let issued = |chain: &str| {
        let leaf = pki::Certificate::from_der(&pki::pem::blocks(chain)[0].der).unwrap();
        let at = |seconds: i64| jiff::Timestamp::from_second(seconds).unwrap().to_string();
        json!({
            "conditions": [{"type": "Issued", "status": "True", "reason": "R", "message": "", "lastTransitionTime": at(leaf.not_before)}],
            "certificateChain": chain, "notBefore": at(leaf.not_before), "notAfter": at(leaf.not_after),
            "beginRefreshAt": at(leaf.not_before + 1_800),
        })
    };
    let set = |status: Value| {
        let mut object = made.clone();
        object["status"] = status;
        object
    };
    let good = sign(&key, 7_200);
    let mut early = issued(&good);
    early["beginRefreshAt"] = early["notBefore"].clone();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut denied = json!({"conditions": [condition("Denied")]});
    denied["certificateChain"] = json!(good);
    let cases = [
        (set(json!({"conditions": [condition("Other")]})), "status.conditions.[0].type: Unsupported value: \"Other\""),
        (
            set(json!({"certificateChain": good})),
            "status is immutable unless transitioning to \\\"Issued\\\", \\\"Denied\\\", or \\\"Failed\\\"",
        ),
        (set(denied), "non-condition status fields must be empty when denying or failing the PodCertificateRequest"),
        (
            set(issued(&sign(&KeyPair::generate().unwrap(), 7_200))),
            "leaf certificate was not issued to the requested public key",
        ),
        (set(issued(&sign(&key, 1_200))), "leaf certificate lifetime must be \\u003e= 1 hour"),
        (set(early), "must be at least 10 minutes after status.notBefore"),
    ];
    for (object, words) in cases {
        let (code, answer) = server.send(&server.admin(), "PUT", &path, &object).await;
        assert_eq!(code, 422, "{answer}");
        let words = words.replace("\\u003e", ">").replace("\\\"", "\"");
        assert!(text(&answer, "/message").contains(&words), "{answer}\n{words}");
    }
    let (code, answer) = server.send(&jane, "PUT", &path, &set(issued(&good))).await;
    let words = "spec.signerName: Forbidden: User \"jane\" is not permitted to \"sign\" for signer \"example.org/x\"";
    assert!(code == 422 && text(&answer, "/message").contains(words), "{answer}");
    let (code, done) = server.send(&server.admin(), "PUT", &path, &set(issued(&good))).await;
    assert_eq!(code, 200, "{done}");
    let mut again = done.clone();
    again["status"]["beginRefreshAt"] = again["status"]["notBefore"].clone();
    let (code, answer) = server.send(&server.admin(), "PUT", &path, &again).await;
    let words = "immutable after PodCertificateRequest is issued, denied, or failed";
    assert!(code == 422 && text(&answer, "/message").contains(words), "{answer}");
}
