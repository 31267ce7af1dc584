//! Plugins written in Rust: rustup and cargo and nothing else. The Wasm target is added if it is missing.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{BuildError, Built, Profile, Progress, checked, run_command};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// Builds the crate in `folder` and writes `<target>/plugins/<crate>.component.wasm`, where `<target>` is cargo's own target folder for that
/// crate (`CARGO_TARGET_DIR` is honoured). The build has a target folder of its own, `<target>/plugins`, so that it never waits for
/// another cargo.
pub(super) fn build(folder: &Path, profile: Profile, progress: Progress) -> Result<Built, BuildError> {
    ensure_target(folder)?;
    let plugins = target_folder(folder)?.join("plugins");
    let module = cargo_build(folder, &plugins, profile, progress)?;
    let name = module.file_stem().and_then(OsStr::to_str).unwrap_or("plugin");
    checked(&module, plugins.join(format!("{name}.component.wasm")))
}

fn ensure_target(folder: &Path) -> Result<(), BuildError> {
    // Both are asked in the folder of the plugin: a rust-toolchain.toml there decides.
    let sysroot = run("rustc", folder, &["--print", "sysroot"])?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(());
    }
    match run("rustup", folder, &["target", "add", TARGET]) {
        Err(BuildError::NotRun { .. }) => Err(BuildError::NoTarget),
        added => added.map(|_| ()),
    }
}

fn target_folder(folder: &Path) -> Result<PathBuf, BuildError> {
    let text = run("cargo", folder, &["metadata", "--format-version=1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    metadata["target_directory"].as_str().map(PathBuf::from).ok_or_else(|| BuildError::Failed {
        command: "cargo metadata".to_owned(),
        output: "it named no target_directory".to_owned(),
    })
}

fn cargo_build(folder: &Path, target: &Path, profile: Profile, progress: Progress) -> Result<PathBuf, BuildError> {
    let mut cargo = command("cargo", folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(folder).join("\u{1f}"));
    cargo
        .args(["build", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics", "--target-dir"])
        .arg(target);
    if profile == Profile::Release {
        cargo.arg("--release").envs([
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
            ("CARGO_PROFILE_RELEASE_LTO", "true"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
            ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
            ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
            // Names of functions stay: the backtrace of a trap shows them.
            ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
        ]);
    }
    let messages = progress.run("cargo", "cargo build", &mut cargo).map_err(|error| for_people(error, progress))?;
    // One JSON object a line; the artifact of the plugin's own library is the last .wasm that is named.
    messages.lines().filter_map(wasm_file).next_back().ok_or(BuildError::NoLibrary)
}

/// A failed build without cargo's messages for programs. What people are to read of them is rendered on standard error: it was shown
/// already, or it is the rest.
fn for_people(error: BuildError, progress: Progress) -> BuildError {
    let BuildError::Failed { command, output } = error else { return error };
    let mut lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("{\"reason\":")).collect();
    if lines.is_empty() && progress == Progress::Show {
        lines.push("what is wrong stands above");
    }
    BuildError::Failed { command, output: lines.join("\n") }
}

/// Libraries that ask for randomness get the SDK's stand-in; and where the author keeps sources is nobody's business, so that texts of panics
/// name them relative to the plugin or to cargo's own folder.
fn rust_flags(folder: &Path) -> Vec<String> {
    let mut flags = vec!["--cfg".to_owned(), r#"getrandom_backend="custom""#.to_owned()];
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.map(|home| (home, "cargo")).into_iter();
    let absolute = folder.canonicalize().ok().map(|folder| (folder, "."));
    for (from, to) in sources.chain(absolute) {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    flags
}

/// The `.wasm` among the files of a message of cargo, if the message is about a library that was built.
fn wasm_file(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let mut files = message["filenames"].as_array()?.iter().filter_map(serde_json::Value::as_str);
    files.find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

fn command(program: &'static str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    // What an outer cargo (a test run, say) set for its own crate is not meant for the plugin.
    for (name, _) in std::env::vars_os() {
        let outer = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST")
                || matches!(
                    name,
                    "RUSTFLAGS" | "CARGO_ENCODED_RUSTFLAGS" | "CARGO_BUILD_TARGET" | "RUSTC_WORKSPACE_WRAPPER"
                )
        });
        if outer {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn run(program: &'static str, folder: &Path, arguments: &[&str]) -> Result<String, BuildError> {
    run_command(program, command(program, folder).args(arguments))
}
