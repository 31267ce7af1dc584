//! The house kept tidy: who may call whom, which words may stand where, and that ARCHITECTURE.md is true.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("node_modules") {
                    walk(&path, out);
                }
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                out.push((path, text));
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(below), &mut out);
    assert!(!out.is_empty(), "{below} has sources");
    out
}

#[test]
fn crates_use_only_what_is_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("records", &[][..]),
        ("model", &["records"]),
        ("plugin-host", &["records"]),
        ("storage", &["records"]),
        ("shard", &["model", "plugin-host", "records"]),
        ("server", &["shard", "storage", "model", "plugin-host", "records"]),
        ("simulator", &["shard", "storage", "model", "plugin-host", "records"]),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name").trim_start_matches("tidegate-");
        let Some(may) = allowed.get(name) else { continue };
        seen.insert(name.to_owned());
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let Some(ours) = dependency["name"].as_str().and_then(|name| name.strip_prefix("tidegate-")) else {
                continue;
            };
            let for_tests = dependency["kind"] == "dev";
            assert!(for_tests || may.contains(&ours), "{name} may not use {ours}");
        }
    }
    assert_eq!(seen.len(), allowed.len(), "every crate is there: {seen:?}");
}

#[test]
fn runtimes_stay_in_their_folders() {
    let names = |text: &str, word: &str| {
        text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains(&format!("{word}::")) || code.contains(&format!("use {word}"))
        })
    };
    for folder in ["records", "model", "plugin-host", "storage", "shard", "simulator"] {
        for (path, text) in sources(&format!("broker/{folder}/src")) {
            for word in ["glommio", "tokio", "io_uring"] {
                assert!(!names(&text, word), "{} names {word}", path.display());
            }
        }
    }
    for (path, text) in sources("broker/server/src/shell") {
        assert!(!names(&text, "tokio"), "{} names tokio", path.display());
    }
    for (path, text) in sources("broker/server/src/control") {
        for word in ["glommio", "io_uring"] {
            assert!(!names(&text, word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn every_path_in_the_architecture_exists() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut checked = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let is_path = quoted.contains('/') && !quoted.contains([' ', '(', '<', '*', '{']);
        if is_path {
            assert!(root().join(quoted).exists(), "{quoted} does not exist");
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} paths");
}

#[test]
fn a_released_interface_is_never_edited() {
    let released = std::fs::read_dir(root().join("wit")).expect("the folder").flatten().map(|entry| entry.path());
    let released: Vec<_> = released.filter(|path| path.is_dir()).collect();
    assert!(released.len() >= 3, "{released:?}");
    released.iter().for_each(|folder| never_edited(folder));
}

fn never_edited(folder: &Path) {
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).expect("the sums of the released files");
    let mut named = BTreeSet::new();
    for line in sums.lines() {
        let (sum, file) = line.split_once("  ").expect("sum, two spaces, file");
        let output = Command::new("sha256sum").arg(folder.join(file)).output().expect("sha256sum runs");
        let now = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            now.split_whitespace().next(),
            Some(sum),
            "{file} has changed: released files stay, make a new folder"
        );
        named.insert(file.to_owned());
    }
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".wit") {
            assert!(named.contains(&name), "{name} is not in SHA256SUMS");
        }
    }
}

#[test]
fn a_file_does_not_grow_just_past_its_ratchet() {
    // A ratchet, not a ban: what is small stays small, what is large is left in peace.
    for below in ["broker", "sdk", "plugins"] {
        for (path, text) in sources(below) {
            let lines = text.lines().count();
            assert!(!(1_000..1_100).contains(&lines), "{} has {lines} lines: split it by subject", path.display());
        }
    }
}
