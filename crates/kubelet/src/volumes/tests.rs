//! Volumes on a real file system.

use super::*;
use crate::objects::Missing;
use serde_json::json;
use std::sync::Arc;

struct OneToken;

#[async_trait::async_trait]
impl TokenSource for OneToken {
    async fn token(
        &self,
        _: &Pod,
        p: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        Ok(format!("token for {}", p.audience.as_deref().unwrap_or("api")))
    }
}

fn fetched() -> Fetched {
    let mut f = Fetched::default();
    let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}});
    f.config_maps.insert("cm".into(), Ok(Arc::new(serde_json::from_value(map).unwrap())));
    f.secrets.insert("s".into(), Ok(Arc::new(serde_json::from_value(json!({"data": {"k": "dg=="}})).unwrap())));
    f.config_maps.insert("gone".into(), Err(Missing::NotFound));
    f
}

fn pod(volumes: serde_json::Value, context: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"l": "v"}},
        "spec": {"containers": [{"name": "c", "securityContext": context}], "volumes": volumes}}))
    .unwrap()
}

async fn check(volume: serde_json::Value) -> Result<Wanted, String> {
    let pod = pod(json!([volume]), json!({}));
    let fetched = fetched();
    let facts = NodeFacts::default();
    let input = Input { pod: &pod, fetched: &fetched, facts: &facts };
    resolve(&input, &OneToken).await.map(|mut r| r.remove(0).1).map_err(|e| e.to_string())
}

fn files(wanted: Wanted) -> Vec<String> {
    let Wanted::Files(_, payload) = wanted else { panic!("no files: {wanted:?}") };
    payload.iter().map(|(p, f)| format!("{p}={} {:o}", String::from_utf8_lossy(&f.data), f.mode)).collect()
}

#[tokio::test]
async fn contents() {
    for (volume, want) in [
        (json!({"name": "v", "configMap": {"name": "cm"}}), vec!["a=1 644", "b=2 644", "c=\0\u{1} 644"]),
        (
            json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 511}]}}),
            vec!["x/y=1 400", "z=2 777"],
        ),
        (json!({"name": "v", "configMap": {"name": "gone", "optional": true}}), vec![]),
        (json!({"name": "v", "secret": {"secretName": "s"}}), vec!["k=v 644"]),
        (
            json!({"name": "v", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            vec!["labels=l=\"v\" 644"],
        ),
        (
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "x"}}, {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca"}]}}]}}),
            vec!["ca=1 644", "token=token for x 644"],
        ),
    ] {
        assert_eq!(files(check(volume.clone()).await.unwrap()), want, "{volume}");
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let failed = |reason: &str| Err(format!("MountVolume.SetUp failed for volume \"v\" : {reason}"));
    for (volume, want) in [
        (json!({"name": "v", "configMap": {"name": "gone"}}), failed("configmap \"gone\" not found")),
        (json!({"name": "v", "secret": {"secretName": "x"}}), failed("secret \"x\" not found")),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "q", "path": "q"}]}}),
            failed("references non-existent config key: q"),
        ),
        (
            json!({"name": "v", "hostPath": {"path": "/etc/hostname", "type": "Directory"}}),
            failed("hostPath type check failed: /etc/hostname is not a directory"),
        ),
        (
            json!({"name": "v", "nfs": {"server": "a", "path": "/"}}),
            failed("volumes of type \"nfs\" are not supported by this node"),
        ),
    ] {
        assert_eq!(check(volume.clone()).await, want, "{volume}");
    }
    let claim = check(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})).await.unwrap_err();
    assert!(claim.contains("persistent volume claims are not supported"), "{claim}");
}

#[test]
fn folders_have_the_groups_rights() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = PodDirs::new(tmp.path(), "u");
    let mut pod = pod(json!([]), json!({}));
    pod.spec.as_mut().unwrap().security_context = Some(serde_json::from_value(json!({"fsGroup": 1234})).unwrap());
    let payload: Payload = [("k".to_owned(), atomic::File { data: b"v".to_vec(), mode: 0o400, uid: None })].into();
    let resolved =
        vec![("e".to_owned(), Wanted::EmptyDir), ("f".to_owned(), Wanted::Files("kubernetes.io~secret", payload))];
    let paths = setup(&dirs, &pod, &resolved).unwrap();
    use std::os::unix::fs::MetadataExt;
    let e = std::fs::metadata(&paths["e"]).unwrap();
    assert_eq!((e.gid(), e.mode() & 0o7777), (1234, 0o2777));
    let k = std::fs::metadata(paths["f"].join("k")).unwrap();
    assert_eq!((k.gid(), k.mode() & 0o777), (1234, 0o440));
    clean_up(&dirs).unwrap();
    assert!(!dirs.pod.exists());
}

#[test]
fn memory_volumes_are_mounted_and_unmounted() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = PodDirs::new(tmp.path(), "u");
    let resolved = vec![("m".to_owned(), Wanted::Memory { size: 1 << 20 })];
    for _ in 0..2 {
        let paths = setup(&dirs, &pod(json!([]), json!({})), &resolved).unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = paths["m"].canonicalize().unwrap();
        let lines: Vec<&str> = table.lines().filter(|l| l.contains(here.to_str().unwrap())).collect();
        assert_eq!(lines.len(), 1, "mounted once");
        assert!(lines[0].contains("size=1024k"), "{}", lines[0]);
    }
    clean_up(&dirs).unwrap();
    assert!(!dirs.pod.exists());
}

#[test]
fn subpaths_never_leave_the_volume() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = PodDirs::new(tmp.path(), "u");
    let volume = tmp.path().join("volume");
    std::fs::create_dir_all(volume.join("in")).unwrap();
    std::fs::write(volume.join("in/file"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
    std::os::unix::fs::symlink("..", volume.join("up")).unwrap();
    std::os::unix::fs::symlink("in", volume.join("link")).unwrap();
    let target = |i| dirs.subpath("v", "c", i);
    for (i, bad) in ["out", "out/passwd", "up", "up/x", "../x", "/etc", "link/../../x"].iter().enumerate() {
        assert!(prepare_subpath(&volume, bad, &target(i)).is_err(), "{bad}");
    }
    let file = prepare_subpath(&volume, "link/file", &target(20)).unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "inside");
    let made = prepare_subpath(&volume, "new/deep", &target(21)).unwrap();
    std::fs::write(made.join("x"), "1").unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("new/deep/x")).unwrap(), "1");
    prepare_subpath(&volume, "new/deep", &target(21)).unwrap();
    clean_up(&dirs).unwrap();
    assert!(volume.join("new/deep/x").exists(), "only the binding goes");
}
