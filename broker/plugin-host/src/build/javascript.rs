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
    write_types(&staging.path().join("wit/types.wit"))?;
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
    restore_types(&staging.path().join("component.wasm"))?;
    checked(&staging.path().join("component.wasm"), out.join(format!("{name}.component.wasm")))
}

/// The nulls of a column: in the interface, and as the engine is told of them. It makes doubles of numbers of 64 bits, and their low bits are
/// lost; in memory two numbers of 32 bits are the same, the low one first.
const NULLS: &str = "nulls: list<u64>,";
const NULLS_IN_HALVES: &str = "nulls: list<tuple<u32, u32>>,";

fn write_types(path: &Path) -> Result<(), BuildError> {
    let types = std::fs::read_to_string(path).map_err(file(path))?;
    let in_halves = types.replace(NULLS, NULLS_IN_HALVES);
    assert_ne!(in_halves, types, "the interface has nulls");
    std::fs::write(path, in_halves).map_err(file(path))
}

/// Gives a component the type that the interface has. A retention policy sees no columns, and has none.
fn restore_types(path: &Path) -> Result<(), BuildError> {
    let mut component = std::fs::read(path).map_err(file(path))?;
    if restore_nulls(&mut component) != count_columns(&component) {
        let output = "the nulls of columns are not where they were: it is another version".to_owned();
        return Err(BuildError::Failed { command: COMPONENTIZE.to_owned(), output });
    }
    std::fs::write(path, component).map_err(file(path))
}

/// How the definition of a column begins: a record of three fields.
const COLUMN: &[u8] = b"\x72\x03\x04data";

fn count_columns(component: &[u8]) -> usize {
    component.windows(COLUMN.len()).filter(|bytes| *bytes == COLUMN).count()
}

/// Finds the definitions `tuple<u32, u32>`, a list of that, and a record that begins with `data`, in a row, and makes the list one of u64.
/// In an instance's type each definition has a 1 before it. Returns how many there were.
fn restore_nulls(component: &mut [u8]) -> usize {
    const PAIR: &[u8] = &[0x6f, 2, 0x79, 0x79];
    const LIST: u8 = 0x70;
    const U64: u8 = 0x77;
    let definition = |bytes: &[u8], at: usize| at + usize::from(bytes.get(at) == Some(&1));
    let mut found = 0;
    for at in 0..component.len() {
        if !component[at..].starts_with(PAIR) {
            continue;
        }
        let list = definition(component, at + PAIR.len());
        let column = definition(component, list + 2);
        let is_one = component.get(list) == Some(&LIST);
        if is_one && component.get(column..).is_some_and(|rest| rest.starts_with(COLUMN)) {
            component[list + 1] = U64;
            found += 1;
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_a_columns_nulls_is_found_and_no_other() {
        let column = b"\x72\x03\x04data";
        let in_section = [&[0x6f, 2, 0x79, 0x79, 0x70, 6][..], column].concat();
        let in_instance = [&[1, 0x6f, 2, 0x79, 0x79, 1, 0x70, 6, 1][..], column].concat();
        let other = [&[0x6f, 2, 0x79, 0x79, 0x70, 6][..], b"\x72\x03\x04date"].concat();
        let mut all = [&in_section[..], &in_instance, &other, &[0x6f, 2, 0x79, 0x79]].concat();
        let before = all.clone();
        assert_eq!(restore_nulls(&mut all), 2);
        assert_eq!(count_columns(&all), 2);
        let changed: Vec<_> = (0..all.len()).filter(|at| all[*at] != before[*at]).collect();
        assert_eq!(changed, [5, in_section.len() + 7]);
        assert_eq!((all[5], all[in_section.len() + 7]), (0x77, 0x77));
    }
}
