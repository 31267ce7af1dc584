//! Plugins written in JavaScript: componentize-qjs puts QuickJS and the plugin's modules into a component (1.7 MiB).

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{BuildError, Built, Progress, checked, file, tools, wit};

const COMPONENTIZE: &str = "componentize-qjs";
const COMPONENTIZE_VERSION: &str = "0.4.5";
const EXAMPLE: &str = "`\"tidegate\": { \"world\": \"router\" }`";
/// The name of the module that joins the plugin to the interface.
const ENTRY: &str = "tidegate-entry.js";

/// Builds the module that `package.json` names as `main` (`plugin.js` without) and writes `target/plugins/<name>.component.wasm` in
/// `folder`. The SDK is expected in its folder `tidegate-sdk`. Modules are found by their relative paths; what comes from npm has to
/// be bundled before.
pub(super) fn build(folder: &Path, progress: Progress) -> Result<Built, BuildError> {
    let manifest = folder.join("package.json");
    let text = std::fs::read_to_string(&manifest).map_err(file(&manifest))?;
    let parsed: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| BuildError::Manifest { path: manifest.clone(), problem: error.to_string() })?;
    let world = wit::world(&manifest, parsed["tidegate"]["world"].as_str(), EXAMPLE)?;
    let main = parsed["main"].as_str().unwrap_or("plugin.js").trim_start_matches("./");
    let name = parsed["name"].as_str().unwrap_or("plugin").rsplit('/').next().unwrap_or("plugin");
    let name = super::file_name(&manifest, name)?;

    let out = folder.join("target/plugins");
    std::fs::create_dir_all(&out).map_err(file(&out))?;
    let staging = tempfile::Builder::new().prefix("build-").tempdir_in(&out).map_err(file(&out))?;
    wit::write(&staging.path().join("wit"))?;
    copy_modules(folder, staging.path())?;
    let entry = staging.path().join(ENTRY);
    std::fs::write(&entry, entry_module(&world, main)).map_err(file(&entry))?;

    let tool = tools::folder(&format!("{COMPONENTIZE}-{COMPONENTIZE_VERSION}"), progress, |into| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(into);
        npm.arg(format!("{COMPONENTIZE}@{COMPONENTIZE_VERSION}")).stdin(Stdio::null());
        progress.run("npm", "npm install componentize-qjs", &mut npm).map(|_| ())
    })?;
    let mut componentize = Command::new("node");
    componentize
        .arg(tool.join("node_modules").join(COMPONENTIZE).join("bin").join(COMPONENTIZE))
        .args(["--wit", "wit", "--js", ENTRY, "--module-root", ".", "-n", &world])
        .args(["--stub-wasi", "--sync", "-o", "component.wasm"])
        .current_dir(staging.path())
        .stdin(Stdio::null());
    // It says where it wrote; that is for nobody.
    Progress::Quiet.run("node", COMPONENTIZE, &mut componentize)?;
    checked(&staging.path().join("component.wasm"), out.join(format!("{name}.component.wasm")))
}

/// The interfaces of a world as exports, each with what the SDK makes of the plugin.
fn entry_module(world: &str, main: &str) -> String {
    let exports: &[&str] = match world {
        "router" => &["lifecycle", "routing"],
        "partitioner" => &["lifecycle", "partitioning"],
        "ack" => &["lifecycle", "acknowledging"],
        "eraser" => &["lifecycle", "retaining", "filtering"],
        "offloader" => &["lifecycle", "retaining", "offloading"],
        "archivist" => &["lifecycle", "retaining", "filtering", "offloading"],
        _ => &["lifecycle", "retaining"],
    };
    let imports: &[&str] = if world == "router" { &["log", "metrics", "topics"] } else { &["log", "metrics"] };
    let version = wit::VERSION;
    let mut text: String = imports
        .iter()
        .map(|import| format!("import * as {import} from \"tidegate:plugin/{import}@{version}\";\n"))
        .collect();
    let main = serde_json::Value::from(format!("./{main}"));
    text += &format!("import plugin from {main};\nimport {{ component }} from \"./tidegate-sdk/component.js\";\n");
    text += &format!("const exported = component(plugin, {{ {} }});\n", imports.join(", "));
    exports.iter().for_each(|export| text += &format!("export const {export} = exported.{export};\n"));
    text
}

/// Copies a plugin's modules, those behind links too: the build sees nothing outside of the copy.
fn copy_modules(from: &Path, to: &Path) -> Result<(), BuildError> {
    for entry in std::fs::read_dir(from).map_err(file(from))? {
        let path: PathBuf = entry.map_err(file(from))?.path();
        let Some(name) = path.file_name() else { continue };
        let into = to.join(name);
        if path.is_dir() {
            if !["node_modules", "target", ".git", "test"].iter().any(|other| name == *other) {
                std::fs::create_dir_all(&into).map_err(file(&into))?;
                copy_modules(&path, &into)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "js" || extension == "mjs" || extension == "json")
        {
            std::fs::copy(&path, &into).map_err(file(&path))?;
        }
    }
    Ok(())
}
