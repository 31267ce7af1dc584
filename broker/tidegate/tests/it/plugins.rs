//! The demo, and what it shows: a component built from source, deployed into a running broker, and records routed by it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn the_demo_routes_a_real_access_log() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("demo");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Twice: it must be repeatable.
    for _ in 0..2 {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--exit", "--data-dir"])
            .arg(&data)
            .arg("--project")
            .arg(&project)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
        let records = |topic: &str| -> u64 {
            let row = shown.lines().rfind(|line| line.trim_start().starts_with(topic)).expect("a row of the table");
            row.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count")
        };
        for topic in ["access-errors", "access-logins", "access-json", "access-writes", "access-redirects"] {
            assert!(records(topic) > 0, "{topic} in {shown}");
        }
        assert!(records("together") >= 4_000, "{shown}");
    }
}

#[test]
fn a_demo_removes_nothing_that_is_not_its_own() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("precious"), "").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["demo", "--exit", "--data-dir"])
        .arg(directory.path())
        .arg("--project")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert!(!output.status.success());
    assert!(directory.path().join("precious").exists());
}
