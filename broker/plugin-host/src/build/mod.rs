//! Builds plugins: what `tidegate plugin build` does, and the tests and the demo, too.
//!
//! What a folder has tells its language: `Cargo.toml`, `pyproject.toml` with `[tool.tidegate]`, or `package.json` with `"tidegate"`.

mod javascript;
mod python;
mod rust;
mod tools;
mod wit;

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::component::{COMPONENT_BYTES_MAX, Component, ComponentError, inspect};

/// How to build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Small and fast: what to deploy.
    #[default]
    Release,
    /// Quick to build and slow to run.
    Debug,
}

/// What to do with the messages of the programs that build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To standard error, as they come.
    Show,
    /// Only as part of an error.
    Quiet,
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
    #[error("there is no plugin in {}: no Cargo.toml, pyproject.toml or package.json", folder.display())]
    NoManifest { folder: PathBuf },
    #[error("`{program}` cannot be run: {source}. {}", install(program))]
    NotRun { program: &'static str, source: io::Error },
    /// What a manifest lacks, with an example.
    #[error("{}: {problem}", path.display())]
    Manifest { path: PathBuf, problem: String },
    #[error(
        "the Wasm target is missing and there is no rustup to add it; install {} for this Rust by the means that \
         brought Rust (rustup: `rustup target add {}`)",
        rust::TARGET,
        rust::TARGET
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

/// Builds the plugin in `folder` and writes `<name>.component.wasm` to its target folder. What the programs say that do it goes to `progress`.
/// `profile` is for Rust alone.
///
/// # Errors
/// [`BuildError`]; its text says what to do.
pub fn build_component(folder: &Path, profile: Profile, progress: Progress) -> Result<Built, BuildError> {
    let has = |manifest: &str| folder.join(manifest).is_file();
    if has("Cargo.toml") {
        rust::build(folder, profile, progress)
    } else if has("pyproject.toml") {
        python::build(folder, progress)
    } else if has("package.json") {
        javascript::build(folder, progress)
    } else {
        Err(BuildError::NoManifest { folder: folder.to_owned() })
    }
}

fn install(program: &str) -> &'static str {
    match program {
        "python3" => "Install Python 3.11 or newer with pip",
        "node" | "npm" => "Install Node.js 20 or newer (https://nodejs.org)",
        _ => "Install Rust from https://rustup.rs",
    }
}

/// The name of a component's file, from what a manifest says: it stays in its folder.
fn file_name<'a>(manifest: &Path, name: &'a str) -> Result<&'a str, BuildError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(fits) {
        return Ok(name);
    }
    let problem =
        format!("the name {name:?} cannot be that of a file: use letters, digits, '-', '_' and '.', at most 128");
    Err(BuildError::Manifest { path: manifest.to_owned(), problem })
}

/// Checks what was built and writes it to where it is found.
fn checked(built: &Path, path: PathBuf) -> Result<Built, BuildError> {
    let bytes = std::fs::read(built).map_err(file(built))?;
    let component = inspect(&Bytes::from(bytes), COMPONENT_BYTES_MAX)?;
    write_whole(&path, &component.bytes)?;
    Ok(Built { path, component })
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::File { path: path.to_owned(), source }
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

impl Progress {
    /// Runs a command to its end and gives what it printed. `text` names it in errors.
    fn run(self, program: &'static str, text: &str, command: &mut Command) -> Result<String, BuildError> {
        let output = match self {
            Self::Show => command.stderr(Stdio::inherit()).output(),
            Self::Quiet => command.output(),
        };
        succeeded(text, &output.map_err(|source| BuildError::NotRun { program, source })?)
    }
}

fn run_command(program: &'static str, command: &mut Command) -> Result<String, BuildError> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    Progress::Quiet.run(program, &format!("{program} {}", arguments.join(" ")), command)
}

/// What a successful command printed; otherwise what it printed last, on either stream: tools differ.
fn succeeded(command: &str, output: &Output) -> Result<String, BuildError> {
    if !output.status.success() {
        let streams = [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream).trim().to_owned());
        return Err(BuildError::Failed { command: command.to_owned(), output: streams.join("\n").trim().to_owned() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_folder() {
        let manifest = Path::new("pyproject.toml");
        for name in ["../../../escaped", "a/b", "..", ".", "", "a\0b", "\u{fc}ber"] {
            let error = file_name(manifest, name).expect_err(name).to_string();
            assert!(error.starts_with("pyproject.toml: the name"), "{error}");
        }
        assert_eq!(file_name(manifest, "my-router_2.0").expect("it is one"), "my-router_2.0");
    }
}
