//! The interface that plugins of other languages than Rust are built against (Rust's SDK has its own copy).

use std::path::Path;

use super::{BuildError, file};

macro_rules! files {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../../wit/since-0.1.2/", $name)))),*] };
}

const FILES: [(&str, &str); 8] = files!(
    "acknowledging.wit",
    "host.wit",
    "lifecycle.wit",
    "offloading.wit",
    "partitioning.wit",
    "retaining.wit",
    "routing.wit",
    "types.wit"
);

pub(super) const WORLDS: [&str; 7] = ["router", "partitioner", "ack", "retention", "eraser", "offloader", "archivist"];
/// As imports name it.
pub(super) const VERSION: &str = "0.1.2";

/// Lays the interface into a folder.
pub(super) fn write(folder: &Path) -> Result<(), BuildError> {
    std::fs::create_dir_all(folder).map_err(file(folder))?;
    for (name, text) in FILES {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(file(&path))?;
    }
    Ok(())
}

/// The world that a manifest names.
pub(super) fn world(manifest: &Path, named: Option<&str>, example: &str) -> Result<String, BuildError> {
    let problem = match named {
        Some(world) if WORLDS.contains(&world) => return Ok(world.to_owned()),
        Some(other) => format!("{other:?} is no world of a plugin; there are {}", WORLDS.join(", ")),
        None => format!("it does not say which world the plugin is of; add {example}"),
    };
    Err(BuildError::Manifest { path: manifest.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_interface_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/since-0.1.2");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".wit"))
            .collect();
        found.sort();
        assert_eq!(found, FILES.map(|(name, _)| name));
        assert!(FILES.iter().all(|(_, text)| text.contains(&format!("package tidegate:plugin@{VERSION};"))));
    }
}
