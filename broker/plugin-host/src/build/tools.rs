//! Tools that are fetched when they are needed first, each in its one version, and kept in the user's cache folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{BuildError, Progress, file};

/// `$XDG_CACHE_HOME/tidegate/tools` or `~/.cache/tidegate/tools`.
fn cache() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("tidegate/tools")
}

/// The folder of a tool. `install` fills one that becomes it: what is broken off half way is never taken for the tool, and of two that
/// install at once one is kept.
pub(super) fn folder(
    name: &str,
    progress: Progress,
    install: impl FnOnce(&Path) -> Result<(), BuildError>,
) -> Result<PathBuf, BuildError> {
    let folder = cache().join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    if progress == Progress::Show {
        eprintln!("fetching {name}, once");
    }
    let part = cache().join(format!("{name}.{}.part", std::process::id()));
    std::fs::create_dir_all(&part).map_err(file(&part))?;
    let installed = install(&part).and_then(|()| match std::fs::rename(&part, &folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty || folder.is_dir() => Ok(()),
        renamed => renamed.map_err(file(&folder)),
    });
    if part.exists() {
        let _ = std::fs::remove_dir_all(&part);
    }
    installed.map(|()| folder)
}
