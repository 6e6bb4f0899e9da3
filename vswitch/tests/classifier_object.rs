//! The committed program is what its source compiles to, with the compiler that made it.

use std::path::Path;
use std::process::Command;

const COMPILER: &str = "Debian clang version 14.";

#[test]
fn the_object_is_what_the_source_compiles_to() {
    let test = "the_object_is_what_the_source_compiles_to";
    let found = Command::new("clang-14").arg("--version").output();
    let version = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !version.starts_with(COMPILER) {
        let found = version.lines().next().unwrap_or("no clang-14");
        assert!(
            std::env::var_os("VSWITCH_REQUIRE_SYSTEM").is_none_or(|value| value != "1") || !is_debian_12(),
            "{test} NOT RUN: it needs {COMPILER}x, found {found}; run scripts/setup"
        );
        eprintln!("{test} NOT RUN: it needs {COMPILER}x (Debian 12), found {found}");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("classifier.bpf.o");
    let output = Command::new(root.join("../scripts/build-bpf"))
        .args([&root.join("src/bpf/classifier.bpf.c"), &object])
        .env_remove("CLANG")
        .env_remove("LLVM_STRIP")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        std::fs::read(&object).unwrap() == vswitch::bpf::OBJECT,
        "src/bpf/classifier.bpf.o is not what src/bpf/classifier.bpf.c compiles to: run `make bpf` and commit it"
    );
}

/// The system whose compiler the object is from, where this test has to run.
fn is_debian_12() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.contains("ID=debian") && release.contains("VERSION_ID=\"12\"")
}

#[test]
fn the_object_names_no_place_and_has_types() {
    let has = |text: &str| vswitch::bpf::OBJECT.windows(text.len()).any(|window| window == text.as_bytes());
    for text in ["/home/", "/work", "/root", "/usr/", "/tmp", ".debug_info"] {
        assert!(!has(text), "{text}");
    }
    assert!(has(".BTF") && has("Dual MIT/GPL"));
}
