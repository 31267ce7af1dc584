//! Plugins written in Python: componentize-py puts CPython and the plugin's modules into a component (KiB of source, 18 MiB of component).

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{BuildError, Built, Progress, checked, file, tools, wit};

const PYTHON: &str = "python3";
const COMPONENTIZE: &str = "componentize-py";
const COMPONENTIZE_VERSION: &str = "0.25.1";
const EXAMPLE: &str = "`[tool.tidegate]` with `world = \"router\"`";

/// Builds the module that `pyproject.toml` names (`plugin`, unless `[tool.tidegate]` has `module`) and writes
/// `target/plugins/<name>.component.wasm` in `folder`.
pub(super) fn build(folder: &Path, progress: Progress) -> Result<Built, BuildError> {
    let manifest = folder.join("pyproject.toml");
    let text = std::fs::read_to_string(&manifest).map_err(file(&manifest))?;
    let parsed: toml::Table =
        text.parse().map_err(|error| BuildError::Manifest { path: manifest.clone(), problem: format!("{error}") })?;
    let settings = parsed.get("tool").and_then(|tool| tool.get("tidegate"));
    let setting = |name: &str| settings.and_then(|settings| settings.get(name)).and_then(toml::Value::as_str);
    let world = wit::world(&manifest, setting("world"), EXAMPLE)?;
    let module = setting("module").unwrap_or("plugin");
    let name = parsed.get("project").and_then(|project| project.get("name")).and_then(toml::Value::as_str);
    let name = super::file_name(&manifest, name.unwrap_or(module))?;

    let out = folder.join("target/plugins");
    let interface = out.join("wit");
    wit::write(&interface)?;
    let tool = tools::folder(&format!("{COMPONENTIZE}-{COMPONENTIZE_VERSION}"), progress, |into| {
        let mut pip = Command::new(PYTHON);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--target",
        ])
        .arg(into);
        pip.arg(format!("{COMPONENTIZE}=={COMPONENTIZE_VERSION}")).stdin(Stdio::null());
        progress.run(PYTHON, "python3 -m pip install componentize-py", &mut pip).map(|_| ())
    })?;
    let built = out.join(format!("{}.{}.part", module, std::process::id()));
    let mut componentize = Command::new(PYTHON);
    componentize
        .args(["-c", "from componentize_py import script; script()", "-d"])
        .arg(interface.canonicalize().map_err(file(&interface))?)
        .args(["-w", &world, "componentize", "--stub-wasi", "-p", ".", "-o"])
        .arg(out.canonicalize().map_err(file(&out))?.join(built.file_name().unwrap_or_default()))
        .arg(module)
        .current_dir(folder)
        // Nothing but the plugin's folder is searched for modules.
        .env("PYTHONPATH", tool)
        .env_remove("VIRTUAL_ENV")
        .stdin(Stdio::null());
    progress.run(PYTHON, COMPONENTIZE, &mut componentize)?;
    let checked = checked(&built, out.join(format!("{name}.component.wasm")));
    let _ = std::fs::remove_file(&built);
    checked
}
