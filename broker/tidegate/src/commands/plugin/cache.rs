//! Machine code of components, kept from one command to the next: compiling a plugin in Python or JavaScript takes seconds.
//!
//! It is in the user's cache folder (`$XDG_CACHE_HOME/tidegate/components`, or below `~/.cache`). Machine code is run as it stands, so
//! the folder is used only while nobody but its owner, who is the one that runs this, may write to it. What another version of the
//! engine wrote has another name. Where anything about it fails, the component is compiled.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tidegate_plugin_host::{
    Compiled, Component, Engine,
    compile::{CompileError, cache_file_name, compile, from_cache},
};

/// A smaller component is compiled in a moment.
const COMPONENT_BYTES_MIN: usize = 1 << 20;
/// The files that were used longest ago go.
const FILES_MAX: usize = 8;

/// Compiles a component, or takes up what was compiled before.
///
/// # Errors
/// As [`compile`].
pub(super) fn compile_once(engine: &Engine, component: &Component) -> Result<Compiled, CompileError> {
    let folder = if component.bytes.len() < COMPONENT_BYTES_MIN { None } else { folder() };
    let Some(folder) = folder else { return compile(engine, component) };
    let path = folder.join(cache_file_name(engine, &component.sha256));
    if let Some(compiled) = take_up(engine, component, &path) {
        return Ok(compiled);
    }
    eprintln!("compiling the plugin, once");
    let compiled = compile(engine, component)?;
    // It is there to save time: whoever cannot keep it compiles again.
    let _ = compiled.to_cache().map(|code| keep(&folder, &path, &code));
    Ok(compiled)
}

fn take_up(engine: &Engine, component: &Component, path: &Path) -> Option<Compiled> {
    let kept = fs::read(path).ok()?;
    // SAFETY: only this program writes there, and nobody else may: see `folder`.
    let compiled = unsafe { from_cache(engine, &component.sha256, &kept) }.ok()?;
    // That it was used keeps it longer.
    let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    Some(compiled)
}

fn keep(folder: &Path, path: &Path, code: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&unfinished, code)?;
    fs::rename(&unfinished, path)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort_unstable();
    let surplus = files.len().saturating_sub(FILES_MAX);
    files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The folder, which is made if there is none; nothing where others may write to it.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    let folder = caches.join("tidegate/components");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    is_ours(&folder).then_some(folder)
}

fn is_ours(folder: &Path) -> bool {
    let (Ok(folder), Ok(process)) = (fs::metadata(folder), fs::metadata("/proc/self")) else { return false };
    folder.uid() == process.uid() && folder.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_to_is_not_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_ours(folder.path()));
        for mode in [0o720, 0o702] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("it is ours");
            assert!(!is_ours(folder.path()), "{mode:o}");
        }
    }

    #[test]
    fn the_files_that_were_used_longest_ago_go() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..FILES_MAX + 3 {
            let path = folder.path().join(format!("{number}.compiled"));
            keep(folder.path(), &path, b"code").expect("it is kept");
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            fs::File::open(&path).and_then(|file| file.set_modified(used)).expect("its time is set");
        }
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .expect("the folder")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
            .collect();
        left.sort_unstable();
        assert_eq!(left.len(), FILES_MAX);
        assert!(!left.contains(&"0.compiled".to_owned()), "{left:?}");
    }
}
