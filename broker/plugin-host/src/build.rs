//! Builds a plugin written in Rust: what `tidegate plugin build` does, and the tests and the demo, too.
//!
//! It needs rustup and cargo and nothing else: the Wasm target is added if it is missing, and the component is made by this crate.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::component::{COMPONENT_BYTES_MAX, Component, ComponentError, inspect};

const TARGET: &str = "wasm32-unknown-unknown";

/// How to build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Small and fast: what to deploy.
    #[default]
    Release,
    /// Quick to build and slow to run.
    Debug,
}

/// A plugin that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The file to deploy: `<crate>.component.wasm`.
    pub path: PathBuf,
    pub component: Component,
}

/// Why a plugin was not built. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("there is no Cargo.toml in {}", folder.display())]
    NoManifest { folder: PathBuf },
    #[error("`{program}` cannot be run: {source}. Install Rust from https://rustup.rs")]
    NotRun { program: &'static str, source: io::Error },
    #[error(
        "the Wasm target is missing and there is no rustup to add it; install {TARGET} for this Rust by the means that \
         brought Rust (rustup: `rustup target add {TARGET}`)"
    )]
    NoTarget,
    /// What rustup or cargo printed last.
    #[error("`{command}` failed:\n{output}")]
    Failed { command: String, output: String },
    #[error("cargo built no Wasm library: Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`")]
    NoLibrary,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Component(#[from] ComponentError),
}

/// Builds the crate in `folder` for Wasm and writes its component to `<target>/plugins/<crate>.component.wasm`, where `<target>`
/// is cargo's own target folder for that crate (`CARGO_TARGET_DIR` is honoured). What cargo says goes to `progress`.
///
/// The build has a target folder of its own, `<target>/plugins`, so that it never waits for another cargo.
///
/// # Errors
/// [`BuildError`]; its text says what to do.
pub fn build_component(folder: &Path, profile: Profile, progress: Progress) -> Result<Built, BuildError> {
    if !folder.join("Cargo.toml").is_file() {
        return Err(BuildError::NoManifest { folder: folder.to_owned() });
    }
    ensure_target(folder)?;
    let plugins = target_folder(folder)?.join("plugins");
    let module = cargo_build(folder, &plugins, profile, progress)?;
    let bytes = std::fs::read(&module).map_err(|source| BuildError::File { path: module.clone(), source })?;
    let component = inspect(&Bytes::from(bytes), COMPONENT_BYTES_MAX)?;
    let name = module.file_stem().and_then(OsStr::to_str).unwrap_or("plugin");
    let path = plugins.join(format!("{name}.component.wasm"));
    write_whole(&path, &component.bytes)?;
    Ok(Built { path, component })
}

/// What to do with cargo's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To standard error, as cargo does.
    Show,
    /// Only as part of an error.
    Quiet,
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
    let output = match progress {
        Progress::Show => cargo.stderr(Stdio::inherit()).output(),
        Progress::Quiet => cargo.output(),
    };
    let output = output.map_err(|source| BuildError::NotRun { program: "cargo", source })?;
    let messages = succeeded("cargo build", &output)?;
    // One JSON object a line; the artifact of the plugin's own library is the last .wasm that is named.
    messages.lines().filter_map(wasm_file).next_back().ok_or(BuildError::NoLibrary)
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

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    // Of this call alone: other threads and processes may write the same file.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("{}.{call}.part", std::process::id()));
    std::fs::write(&beside, bytes)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|source| BuildError::File { path: path.to_owned(), source })
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
    let output = command(program, folder).args(arguments).output();
    let output = output.map_err(|source| BuildError::NotRun { program, source })?;
    succeeded(&format!("{program} {}", arguments.join(" ")), &output)
}

fn succeeded(command: &str, output: &Output) -> Result<String, BuildError> {
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BuildError::Failed { command: command.to_owned(), output: text });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
