//! The control plane's [`PluginHost`] over wasmtime, and the clock by which the calls of plugins end.

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_plugin_host::{Compiled, Engine, EngineConfig, Limits, Partitioner, Router, World, compile, component};

use crate::control::plugins::{CompiledPlugin, PluginHost};

/// How often calls are looked at: a tick of [`Limits::call_ticks_max`].
const TICK: Duration = Duration::from_millis(1);
/// The clock sleeps when no call has begun for so long; longer than any call may take (`plugin.deadline.ms` is at most a minute).
const IDLE: Duration = Duration::from_secs(15 * 60);
/// What a component may be at most; the admin endpoint has refused larger uploads already.
const COMPONENT_BYTES_MAX: usize = 256 << 20;

/// Compiles and loads components.
pub struct WasmHost {
    engine: Engine,
}

impl WasmHost {
    /// The engine of this process, and the thread that ticks for it.
    ///
    /// # Errors
    /// The machine cannot run compiled Wasm, or no thread could be made; the text says which.
    pub fn start() -> Result<Self, String> {
        let engine = Engine::new(&EngineConfig::default()).map_err(|error| error.to_string())?;
        if !engine.is_pooled() {
            tracing::info!(
                "plugin instances are made on demand: the address space for a pool of them is not to be had"
            );
        }
        let ticking = engine.clone();
        std::thread::Builder::new()
            .name("plugin-clock".into())
            .spawn(move || ticking.tick_forever(TICK, IDLE))
            .map_err(|error| error.to_string())?;
        Ok(Self { engine })
    }
}

struct Loaded(Compiled);

impl PluginHost for WasmHost {
    fn compatibility(&self) -> String {
        self.engine.fingerprint()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn compile(&self, bytes: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        let component = component::inspect(&Bytes::copy_from_slice(bytes), COMPONENT_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        let compiled = compile::compile(&self.engine, &component).map_err(|error| error.to_string())?;
        Ok(Arc::new(Loaded(compiled)))
    }

    fn load(&self, image: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        let (component, kept) = image.split_first_chunk::<32>().ok_or("the file is too short")?;
        // SAFETY: the image comes from the data directory, which this broker alone writes to and holds locked.
        #[allow(unsafe_code, reason = "machine code can only be trusted; it is this broker's own")]
        let compiled = unsafe { compile::from_cache(&self.engine, component, kept) };
        Ok(Arc::new(Loaded(compiled.map_err(|error| error.to_string())?)))
    }
}

impl CompiledPlugin for Loaded {
    fn world(&self) -> &str {
        self.0.world().name()
    }

    fn image(&self) -> Result<Vec<u8>, String> {
        let kept = self.0.to_cache().map_err(|error| error.to_string())?;
        Ok([self.0.sha256().as_slice(), &kept].concat())
    }

    fn trial(&self, config: &str) -> Result<(), String> {
        let limits = Limits::default();
        match self.0.world() {
            World::Router => Router::open(&self.0, config, &limits).map(drop),
            World::Partitioner => Partitioner::open(&self.0, config, &limits).map(drop),
        }
        .map_err(|error| error.to_string())
    }
}

/// The code of a plugin that [`WasmHost`] has loaded.
pub(crate) fn compiled(plugin: &Arc<dyn CompiledPlugin>) -> Option<Compiled> {
    let plugin: &dyn Any = plugin.as_ref();
    plugin.downcast_ref::<Loaded>().map(|loaded| loaded.0.clone())
}
