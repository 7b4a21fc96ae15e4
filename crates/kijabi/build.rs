//! Links the program statically, so that it needs nothing on the machine and runs in an empty image.
//!
//! `-C target-feature=+crt-static` would do the same, but without `--target` it also hits procedural macros, which must
//! be dynamic. So the C libraries are shadowed, for this program only, by linker scripts that name their static archives.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for library in ["gcc_s", "c", "m", "rt", "dl", "pthread", "util"] {
        let script = match library {
            "gcc_s" | "c" => "GROUP ( -l:libgcc_eh.a -l:libgcc.a -l:libc.a )\n".to_owned(),
            other => format!("INPUT ( -l:lib{other}.a )\n"),
        };
        fs::write(out.join(format!("lib{library}.so")), script)?;
    }
    println!("cargo::rustc-link-arg-bins=-L{}", out.display());
    println!("cargo::rustc-link-arg-bins=-static");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    // For profilers: KIJABI_SYMBOLS=1 cargo build --release --config profile.release.package.kijabi.strip=false
    println!("cargo::rerun-if-env-changed=KIJABI_SYMBOLS");
    if env::var("PROFILE").as_deref() == Ok("release") && env::var_os("KIJABI_SYMBOLS").is_none() {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    Ok(())
}
