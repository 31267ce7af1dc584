//! Ahead of time: machine code of a component, made off the data path and kept on disk by its caller.
//!
//! What is kept is bound to the engine that made it ([`Engine::fingerprint`]), to the component (its hash), and carries a checksum:
//! code from another engine, of another component or with a flipped bit is refused, and then compiled anew.
//!
//! ```text
//! "TGPC" | format u8 = 1 | world u8 | component sha256 [32] | engine fingerprint [32] | sha256 of the rest [32] |
//! interface length u16 little-endian | interface | machine code as the engine serialises it
//! ```

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component as WasmComponent, InstancePre, Linker};

use crate::{
    Component, Description, Engine, Limits, OpenError, World,
    sandbox::{Sandbox, Store},
    since_0_1,
};

/// A component as machine code, checked against what the broker provides. Cheap to clone; goes from the control thread to every
/// shard.
#[derive(Clone)]
pub struct Compiled(Arc<Inner>);

struct Inner {
    engine: Engine,
    world: World,
    interface: String,
    sha256: [u8; 32],
    pre: InstancePre<Sandbox>,
}

/// Why a component does not become machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the component does not compile: {detail}")]
    Compile { detail: String },
    /// It imports a function that the broker does not have, or has with another type.
    #[error("the component does not fit this broker: {detail}")]
    Link { detail: String },
    #[error("the machine code cannot be written: {detail}")]
    Serialize { detail: String },
}

/// Why kept machine code cannot be used; compile the component again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    #[error("it is damaged or of an unknown format")]
    Damaged,
    #[error("it was made by another version of the engine")]
    OtherEngine,
    #[error("it is of another component")]
    OtherComponent,
    #[error("the engine refuses it: {detail}")]
    Refused { detail: String },
}

/// Compiles a component. Takes milliseconds for a small Rust plugin and seconds for a Python one: never on a shard.
///
/// # Errors
/// [`CompileError`], for the one who uploads.
pub fn compile(engine: &Engine, component: &Component) -> Result<Compiled, CompileError> {
    let wasm = WasmComponent::from_binary(&engine.inner, &component.bytes)
        .map_err(|error| CompileError::Compile { detail: format!("{error:#}") })?;
    let (world, interface) = (component.world, component.interface.clone());
    link(engine, &wasm, world, interface, component.sha256)
}

/// The name of the file in which the machine code of a component is kept: another engine's has another name.
#[must_use]
pub fn cache_file_name(engine: &Engine, component_sha256: &[u8; 32]) -> String {
    format!("{}-{}.compiled", hex(component_sha256), hex(&engine.fingerprint()[..8]))
}

/// Takes up machine code that [`Compiled::to_cache`] wrote.
///
/// # Errors
/// [`CacheError`]: compile the component again and write the file anew.
///
/// # Safety
/// Machine code is run as it stands. `kept` must have been written by this broker, in a folder that only it can write to: the
/// checksum finds damage, not intent.
#[allow(unsafe_code, reason = "the engine can only trust the machine code that it is given")]
pub unsafe fn from_cache(engine: &Engine, component_sha256: &[u8; 32], kept: &[u8]) -> Result<Compiled, CacheError> {
    let mut rest = kept;
    let magic = take::<4>(&mut rest)?;
    let [format, world] = *take::<2>(&mut rest)?;
    let world = World::from_number(world);
    let (Some(world), b"TGPC", FORMAT) = (world, magic, format) else { return Err(CacheError::Damaged) };
    let (component, fingerprint, checksum) = (take::<32>(&mut rest)?, take::<32>(&mut rest)?, take::<32>(&mut rest)?);
    if fingerprint != engine.fingerprint() {
        return Err(CacheError::OtherEngine);
    }
    if component != component_sha256 {
        return Err(CacheError::OtherComponent);
    }
    if Sha256::digest(rest).as_slice() != checksum {
        return Err(CacheError::Damaged);
    }
    let length = usize::from(u16::from_le_bytes(*take::<2>(&mut rest)?));
    let (interface, code) = rest.split_at_checked(length).ok_or(CacheError::Damaged)?;
    let interface = std::str::from_utf8(interface).map_err(|_| CacheError::Damaged)?.to_owned();
    // SAFETY: by the contract of this function the code is what `serialize` wrote; engine and checksum were compared above.
    let wasm = unsafe { WasmComponent::deserialize(&engine.inner, code) }
        .map_err(|error| CacheError::Refused { detail: format!("{error:#}") })?;
    link(engine, &wasm, world, interface, *component).map_err(|error| CacheError::Refused { detail: error.to_string() })
}

const FORMAT: u8 = 1;

impl Compiled {
    #[must_use]
    pub fn world(&self) -> World {
        self.0.world
    }

    /// The interface that it was built against, such as `0.1.0`.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.0.interface
    }

    /// The hash of the component.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.0.sha256
    }

    /// What to keep on disk, for [`from_cache`]. Write it to a file of another name and rename that.
    ///
    /// # Errors
    /// [`CompileError::Serialize`].
    pub fn to_cache(&self) -> Result<Vec<u8>, CompileError> {
        let code = self.0.pre.component().serialize();
        let code = code.map_err(|error| CompileError::Serialize { detail: format!("{error:#}") })?;
        let interface = self.0.interface.as_bytes();
        let mut rest = Vec::with_capacity(2 + interface.len() + code.len());
        rest.extend_from_slice(&(interface.len() as u16).to_le_bytes());
        rest.extend_from_slice(interface);
        rest.extend_from_slice(&code);
        let mut kept = Vec::with_capacity(102 + rest.len());
        kept.extend_from_slice(b"TGPC");
        kept.extend_from_slice(&[FORMAT, self.0.world.number()]);
        kept.extend_from_slice(&self.0.sha256);
        kept.extend_from_slice(self.0.engine.fingerprint());
        kept.extend_from_slice(&Sha256::digest(&rest));
        kept.extend_from_slice(&rest);
        Ok(kept)
    }

    /// What the plugin says of itself. Runs it, so this is also the proof that it can be instantiated and exports what its world
    /// says; do it once, when it is uploaded.
    ///
    /// # Errors
    /// [`OpenError`], but never [`OpenError::Refused`].
    pub fn describe(&self, limits: &Limits) -> Result<Description, OpenError> {
        let mut store = Store::new(self, limits)?;
        match self.0.world {
            World::Router => since_0_1::RouterExports::describe(&mut store, &self.0.pre),
            World::Partitioner => since_0_1::PartitionerExports::describe(&mut store, &self.0.pre),
            World::Ack => since_0_1::AckExports::describe(&mut store, &self.0.pre),
            World::Retention => since_0_1::RetentionExports::describe(&mut store, &self.0.pre),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The linked component, if it is of the world.
    pub(crate) fn pre(&self, wanted: World) -> Result<&InstancePre<Sandbox>, OpenError> {
        if self.0.world != wanted {
            return Err(OpenError::World { found: self.0.world, wanted });
        }
        Ok(&self.0.pre)
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Inner { world, interface, sha256, .. } = &*self.0;
        write!(f, "Compiled({world}, interface {interface}, {})", hex(&sha256[..6]))
    }
}

impl World {
    /// Stands for the world in kept machine code; never reused.
    fn number(self) -> u8 {
        match self {
            Self::Router => 1,
            Self::Partitioner => 2,
            Self::Ack => 3,
            Self::Retention => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|world| world.number() == number)
    }
}

fn link(
    engine: &Engine,
    wasm: &WasmComponent,
    world: World,
    interface: String,
    sha256: [u8; 32],
) -> Result<Compiled, CompileError> {
    let link = |error: wasmtime::Error| CompileError::Link { detail: format!("{error:#}") };
    let mut linker = Linker::new(&engine.inner);
    since_0_1::add_to_linker(&mut linker, world).map_err(link)?;
    let pre = linker.instantiate_pre(wasm).map_err(link)?;
    Ok(Compiled(Arc::new(Inner { engine: engine.clone(), world, interface, sha256, pre })))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], CacheError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(CacheError::Damaged)?;
    *rest = after;
    Ok(taken)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
