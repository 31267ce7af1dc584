//! A new plugin's folder: sources, a manifest, and the SDK.
//!
//! The SDK is a part of this binary and laid into the project: what is new is built by whoever has Rust, with the SDK of the very broker
//! that it is for. Only what the SDK itself depends on (serde, wit-bindgen) comes from the registry.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use include_dir::{Dir, include_dir};
use tidegate_plugin_host::World;
use toml::{Table, Value};

static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust");
/// Has what the SDK's manifest leaves to it.
static WORKSPACE: &str = include_str!("../../../../../Cargo.toml");

/// The folder of the SDK in a project.
const SDK_FOLDER: &str = "tidegate-sdk";

/// A file of a project, and what is in it. `NAME` stands for the project's name.
pub(super) type Template<'a> = (&'static str, &'a str);

/// Where a project's SDK comes from.
#[derive(Clone, Debug)]
pub(super) enum Sdk {
    /// Laid into the project.
    Included,
    /// A folder elsewhere, such as `sdk/rust` of a checkout.
    At(PathBuf),
}

/// Writes a Rust project into a folder that is not there or empty.
pub(super) fn write_rust(
    folder: &Path,
    name: &str,
    description: &str,
    sdk: &Sdk,
    files: &[Template<'_>],
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let sdk_path = match sdk {
        Sdk::At(path) => path.canonicalize().with_context(|| format!("there is no SDK in {}", path.display()))?,
        Sdk::Included => {
            write_sdk(&folder.join(SDK_FOLDER))?;
            PathBuf::from(SDK_FOLDER)
        }
    };
    let sdk_path = Value::from(sdk_path.to_str().context("the SDK's path is not UTF-8")?);
    let manifest = format!(
        r#"[package]
name = "{name}"
version = "0.1.0"
description = "{description}"
edition = "2024"

[lib]
# cdylib: what becomes the component. rlib: for tests.
crate-type = ["cdylib", "rlib"]

[dependencies]
serde = {{ version = "1", features = ["derive"] }}
tidegate-sdk = {{ path = {sdk_path} }}

# A project of its own, also inside another one's folder.
[workspace]
"#
    );
    write(&folder.join("Cargo.toml"), &manifest)?;
    write_files(folder, name, files)
}

fn write_files(folder: &Path, name: &str, files: &[Template<'_>]) -> anyhow::Result<()> {
    files.iter().try_for_each(|(path, text)| write(&folder.join(path), &text.replace("NAME", name)))
}

macro_rules! sdk {
    ($folder:literal: $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../../../../sdk/", $folder, "/", $file)))),*]
    };
}

static SDK_PYTHON: &[Template<'_>] = sdk!("python": "README.md", "tidegate_sdk/__init__.py", "tidegate_sdk/data.py", "tidegate_sdk/errors.py",
    "tidegate_sdk/export.py", "tidegate_sdk/plugins.py", "tidegate_sdk/setup.py", "tidegate_sdk/testkit.py");
static SDK_JAVASCRIPT: &[Template<'_>] =
    sdk!("javascript": "README.md", "component.js", "index.js", "package.json", "testkit.js");

/// Writes a Python project into a folder that is not there or empty.
pub(super) fn write_python(folder: &Path, name: &str, world: &str, files: &[Template<'_>]) -> anyhow::Result<()> {
    for (path, text) in SDK_PYTHON {
        let inside = Path::new("tidegate_sdk").join(path.trim_start_matches("tidegate_sdk/"));
        write(&folder.join(inside), text)?;
    }
    let manifest = format!(
        r#"[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"

[tool.tidegate]
world = "{world}"
"#
    );
    write(&folder.join("pyproject.toml"), &manifest)?;
    write_files(folder, name, files)
}

/// Writes a JavaScript project into a folder that is not there or empty.
pub(super) fn write_javascript(folder: &Path, name: &str, world: &str, files: &[Template<'_>]) -> anyhow::Result<()> {
    for (path, text) in SDK_JAVASCRIPT {
        write(&folder.join("tidegate-sdk").join(path), text)?;
    }
    let manifest = serde_json::json!({
        "name": name,
        "version": "0.1.0",
        "private": true,
        "type": "module",
        "main": "plugin.js",
        "scripts": { "test": "node --test" },
        "tidegate": { "world": world },
    });
    write(&folder.join("package.json"), &format!("{manifest:#}\n"))?;
    write_files(folder, name, files)
}

/// The project of a plugin that does nothing.
pub(super) fn write_no_op(folder: &Path, name: &str, world: World) -> anyhow::Result<()> {
    let source = match world {
        World::Router => include_str!("../../../templates/rust/no_op_router.rs"),
        World::Partitioner => include_str!("../../../templates/rust/no_op_partitioner.rs"),
        World::Ack => include_str!("../../../templates/rust/no_op_ack.rs"),
        World::Retention => include_str!("../../../templates/rust/no_op_eraser.rs"),
    };
    write_rust(folder, name, "Does nothing", &Sdk::Included, &[("src/lib.rs", source)])
}

pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

fn write_sdk(folder: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write the SDK to {}", folder.display());
    fs::create_dir_all(folder).with_context(cannot)?;
    SDK.extract(folder).with_context(cannot)?;
    let manifest = SDK.get_file("Cargo.toml").and_then(|file| file.contents_utf8());
    let manifest = manifest.expect("the SDK that is a part of this binary has a manifest");
    write(&folder.join("Cargo.toml"), &standing_alone(manifest, WORKSPACE))
}

/// The manifest of a member of a workspace as that of a crate outside of it.
fn standing_alone(member: &str, workspace: &str) -> String {
    let parse = |text: &str| text.parse::<Table>().expect("a manifest that cargo has read is TOML");
    let mut member = parse(member);
    let workspace = parse(workspace);
    let inherited = |section: &str, key: &str| workspace.get("workspace")?.get(section)?.get(key).cloned();
    for (section, of_workspace) in [("package", "package"), ("dependencies", "dependencies")] {
        let Some(Value::Table(entries)) = member.get_mut(section) else { continue };
        for (key, value) in entries.iter_mut() {
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if let Some(found) = inherited(of_workspace, key).filter(|_| inherits) {
                *value = found;
            }
        }
    }
    // What is checked in the SDK's own repository need not be where it is used, but for what makes the compiler know its `cfg`.
    member.remove("lints");
    if let Some(known) = workspace.get("workspace").and_then(|of| of.get("lints")?.get("rust")?.get("unexpected_cfgs"))
    {
        let rust = Table::from_iter([("unexpected_cfgs".to_owned(), known.clone())]);
        member.insert("lints".to_owned(), Value::Table(Table::from_iter([("rust".to_owned(), Value::Table(rust))])));
    }
    member.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdks_manifest_stands_alone() {
        let manifest =
            standing_alone(SDK.get_file("Cargo.toml").and_then(|file| file.contents_utf8()).unwrap(), WORKSPACE);
        assert!(!manifest.contains("workspace"), "{manifest}");
        let manifest = manifest.parse::<Table>().unwrap();
        assert_eq!(manifest["package"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        assert!(manifest["dependencies"].get("wit-bindgen").is_some());
        assert!(manifest["lints"]["rust"].get("unexpected_cfgs").is_some(), "a first build has no warnings");
    }

    #[test]
    fn the_sdk_is_whole() {
        for file in ["src/lib.rs", "src/testkit.rs", "README.md", "wit/types.wit"] {
            assert!(SDK.get_file(file).is_some(), "{file}");
        }
    }
}
