//! The generated files are what the generator makes of the upstream modules: with `KIJABI_REGENERATE=1`, where Go is there.

use std::process::Command;

#[test]
fn generated_files_are_current() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let wanted = std::env::var_os("KIJABI_REGENERATE").is_some_and(|v| v == "1");
    if !wanted || Command::new("go").arg("version").output().is_err() {
        // What can be checked without Go: the files are there and are of one piece.
        for file in ["crates/machinery/data/schema.txt", "crates/api/data/catalogue.txt", "crates/api/data/columns.txt"]
        {
            let text = std::fs::read_to_string(format!("{root}/{file}")).unwrap();
            assert!(text.lines().count() > 50 && text.lines().all(|l| l.contains('\t')), "{file}");
        }
        return;
    }
    let run = Command::new(format!("{root}/tools/regenerate")).arg("--check").output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}
