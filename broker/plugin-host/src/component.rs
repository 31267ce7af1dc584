//! From uploaded bytes to a component that this broker can run, or the reason why it cannot.
//!
//! Everything that can be refused without compiling is refused here, by name: what is not Wasm, a module without an interface, an
//! import that is not Tidegate's, an interface of another version, a world that the broker does not know.
//!
//! A core module that carries its component type (what plain `cargo build --target wasm32-unknown-unknown` makes of a plugin) is
//! wrapped into a component, so that an author needs no other tool.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// What a plugin decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum World {
    /// Which topics a record is written to.
    Router,
    /// Which partition of its topic a record goes to.
    Partitioner,
    /// Whether a batch is taken, and when it counts as acknowledged.
    Ack,
    /// How long records are kept; also what is called an `eraser`, `offloader` or `archivist` in the interface.
    Retention,
}

impl World {
    pub const ALL: [Self; 4] = [Self::Router, Self::Partitioner, Self::Ack, Self::Retention];

    /// The name as in WIT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Partitioner => "partitioner",
            Self::Ack => "ack",
            Self::Retention => "retention",
        }
    }

    /// The inverse of [`World::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|world| world.name() == name)
    }

    /// The interface that makes a component one of this world.
    fn decides(self) -> &'static str {
        match self {
            Self::Router => "routing",
            Self::Partitioner => "partitioning",
            Self::Ack => "acknowledging",
            Self::Retention => "retaining",
        }
    }

    fn imports(self) -> &'static [&'static str] {
        match self {
            Self::Router => &["types", "log", "metrics", "topics"],
            Self::Partitioner | Self::Ack | Self::Retention => &["types", "log", "metrics"],
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A component of a known world that imports nothing foreign. Not compiled yet.
#[derive(Clone, Debug)]
pub struct Component {
    pub world: World,
    /// The interface it was built against, such as `0.1.0`.
    pub interface: String,
    /// The component; wrapped, where a core module came in.
    pub bytes: Bytes,
    /// Of `bytes`.
    pub sha256: [u8; 32],
}

/// Why bytes are not a plugin.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    #[error("the file has {bytes} bytes; a plugin may have {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("the file is no WebAssembly: it does not begin with its magic number")]
    NotWasm,
    #[error("the file is WebAssembly of an unknown version")]
    UnknownVersion,
    #[error("the file is a core module without an interface: build it with tidegate-sdk, or make a component of it")]
    NoInterface,
    #[error("the core module cannot be made a component: {detail}")]
    NotWrapped { detail: String },
    #[error("the component is damaged: {detail}")]
    Damaged { detail: String },
    #[error("the file holds an interface and no code")]
    OnlyInterface,
    /// Each import that is not Tidegate's.
    #[error("the component imports {}, which the broker does not provide: plugins have no WASI, files, clock or network", imports.join(", "))]
    ForeignImports { imports: Vec<String> },
    #[error("the component needs the interface tidegate:plugin {found}; this broker speaks 0.1")]
    InterfaceVersion { found: String },
    #[error("the component is no plugin: it exports {}, and none of routing, partitioning, acknowledging and retaining of tidegate:plugin", if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") })]
    NoWorld { exports: Vec<String> },
    #[error("the component is of the worlds `{first}` and `{second}`; make two of it")]
    SeveralWorlds { first: World, second: World },
    #[error("the component is of the world `{world}` but does not export `lifecycle`")]
    NoLifecycle { world: World },
    #[error("a plugin of the world `{world}` may not import `{import}`")]
    ImportOfOtherWorld { world: World, import: String },
}

/// How large a plugin may be, unless the broker's configuration says otherwise. Python's runtime takes 18 MB.
pub const COMPONENT_BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];
/// Version 13, layer 1.
const COMPONENT: &[u8] = &[13, 0, 1, 0];

/// Looks at what was uploaded. Cost: a pass over the bytes, milliseconds for megabytes; not for a shard.
///
/// # Errors
/// [`ComponentError`], for the one who uploads.
pub fn inspect(bytes: &Bytes, bytes_max: usize) -> Result<Component, ComponentError> {
    if bytes.len() > bytes_max {
        return Err(ComponentError::TooLarge { bytes: bytes.len(), max: bytes_max });
    }
    let bytes = match bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(..4)) {
        None => return Err(ComponentError::NotWasm),
        Some(COMPONENT) => bytes.clone(),
        Some(CORE_MODULE) => wrap(bytes)?,
        Some(_) => return Err(ComponentError::UnknownVersion),
    };
    let (world, interface) = world_of(&bytes)?;
    let sha256 = Sha256::digest(&bytes).into();
    Ok(Component { world, interface, bytes, sha256 })
}

fn wrap(module: &[u8]) -> Result<Bytes, ComponentError> {
    let not_wrapped = |error: &dyn fmt::Display| ComponentError::NotWrapped { detail: error.to_string() };
    let (stripped, _) = wit_component::metadata::decode(module)
        .map_err(|error| ComponentError::Damaged { detail: format!("{error:#}") })?;
    // `None`: there was no component type to take out.
    if stripped.is_none() {
        return Err(ComponentError::NoInterface);
    }
    let mut encoder = wit_component::ComponentEncoder::default();
    encoder.validate(true).module(module).map_err(|error| not_wrapped(&format!("{error:#}")))?;
    Ok(encoder.encode().map_err(|error| not_wrapped(&format!("{error:#}")))?.into())
}

fn world_of(component: &[u8]) -> Result<(World, String), ComponentError> {
    let decoded =
        wit_component::decode(component).map_err(|error| ComponentError::Damaged { detail: format!("{error:#}") })?;
    let wit_component::DecodedWasm::Component(resolve, world) = decoded else {
        return Err(ComponentError::OnlyInterface);
    };
    let world = &resolve.worlds[world];
    let imports: Vec<String> = world.imports.keys().map(|key| resolve.name_world_key(key)).collect();
    let exports: Vec<String> = world.exports.keys().map(|key| resolve.name_world_key(key)).collect();

    let foreign: Vec<String> = imports.iter().filter(|name| own(name).is_none()).cloned().collect();
    if !foreign.is_empty() {
        return Err(ComponentError::ForeignImports { imports: foreign });
    }
    let of_ours: Vec<(&str, &str)> = imports.iter().chain(&exports).filter_map(|name| own(name)).collect();
    if let Some((_, found)) = of_ours.iter().find(|(_, version)| !speaks(version)) {
        return Err(ComponentError::InterfaceVersion { found: (*found).to_owned() });
    }
    let version_of = |interface: &str| {
        exports.iter().filter_map(|name| own(name)).find(|(name, _)| *name == interface).map(|(_, version)| version)
    };
    let found: Vec<(World, &str)> =
        World::ALL.into_iter().filter_map(|world| Some((world, version_of(world.decides())?))).collect();
    let (kind, version) = match *found {
        [] => return Err(ComponentError::NoWorld { exports }),
        [one] => one,
        [(first, _), (second, _), ..] => return Err(ComponentError::SeveralWorlds { first, second }),
    };
    if version_of("lifecycle").is_none() {
        return Err(ComponentError::NoLifecycle { world: kind });
    }
    for (import, _) in imports.iter().filter_map(|name| own(name)) {
        if !kind.imports().contains(&import) {
            return Err(ComponentError::ImportOfOtherWorld { world: kind, import: import.to_owned() });
        }
    }
    Ok((kind, version.to_owned()))
}

/// `tidegate:plugin/routing@0.1.0` -> (`routing`, `0.1.0`); nothing for what is not Tidegate's.
fn own(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("tidegate:plugin/")?.split_once('@')
}

/// Whether this broker runs plugins that were built against `version`: the component model takes 0.1.x for one another.
fn speaks(version: &str) -> bool {
    let mut parts = version.splitn(3, '.');
    parts.next() == Some("0")
        && parts.next() == Some("1")
        && parts.next().is_some_and(|patch| patch.parse::<u32>().is_ok())
}
