//! The control plane's [`PluginHost`] over wasmtime, and the clock by which the calls of plugins end.

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_model::{metadata::Broker, topic_config::Attachment};
use tidegate_plugin_host::{
    AckHook, Compiled, Engine, EngineConfig, Limits, OpenError, Partitioner, Retention, Router, World, compile,
    component,
};

use tidegate_shard::{attachment_limits, attainable};

use crate::control::plugins::{CompiledPlugin, PluginHost, TrialError};

/// How often calls are looked at: a tick of [`Limits::call_ticks_max`].
const TICK: Duration = Duration::from_millis(1);
/// The clock sleeps when no call has begun for so long; longer than any call may take (`plugin.deadline.ms` is at most a minute).
const IDLE: Duration = Duration::from_secs(15 * 60);
/// What a component may be at most; the admin endpoint has refused larger uploads already.
const COMPONENT_BYTES_MAX: usize = 256 << 20;

/// Compiles and loads components.
pub struct WasmHost {
    engine: Engine,
    /// What an instance may use, here where a configuration is tried as on the shards.
    limits: Limits,
    /// Whether there is somewhere to offload segments to.
    has_object_store: bool,
}

/// The limits of `plugin.memory.max.bytes`, `plugin.output.max.bytes` and `plugin.deadline.ms`.
pub(crate) fn limits(memory_bytes_max: u64, output_bytes_max: u64, deadline: Duration) -> Limits {
    // One more, since the first tick may come at once: a call is never cut short.
    let ticks = deadline.as_millis().div_ceil(TICK.as_millis()) + 1;
    Limits {
        memory_bytes_max: usize::try_from(memory_bytes_max).unwrap_or(usize::MAX),
        answer_bytes_max: usize::try_from(output_bytes_max).unwrap_or(usize::MAX),
        call_ticks_max: u64::try_from(ticks).unwrap_or(u64::MAX),
        ..Limits::default()
    }
}

impl WasmHost {
    /// The engine of this process, and the thread that ticks for it.
    ///
    /// # Errors
    /// The machine cannot run compiled Wasm, or no thread could be made; the text says which.
    pub fn start(limits: Limits, has_object_store: bool) -> Result<Self, String> {
        let config = EngineConfig::default();
        let memory_bytes_max = config.memory_bytes_max.max(limits.memory_bytes_max);
        let engine = Engine::new(&EngineConfig { memory_bytes_max, ..config }).map_err(|error| error.to_string())?;
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
        Ok(Self { engine, limits, has_object_store })
    }
}

struct Loaded {
    code: Compiled,
    limits: Limits,
    has_object_store: bool,
}

impl PluginHost for WasmHost {
    fn compatibility(&self) -> String {
        self.engine.fingerprint()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn compile(&self, bytes: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        let component = component::inspect(&Bytes::copy_from_slice(bytes), COMPONENT_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        let compiled = compile::compile(&self.engine, &component).map_err(|error| error.to_string())?;
        Ok(Arc::new(Loaded { code: compiled, limits: self.limits.clone(), has_object_store: self.has_object_store }))
    }

    fn load(&self, image: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        let (component, kept) = image.split_first_chunk::<32>().ok_or("the file is too short")?;
        // SAFETY: the image comes from the data directory, which this broker alone writes to and holds locked.
        #[allow(unsafe_code, reason = "machine code can only be trusted; it is this broker's own")]
        let compiled = unsafe { compile::from_cache(&self.engine, component, kept) };
        let code = compiled.map_err(|error| error.to_string())?;
        Ok(Arc::new(Loaded { code, limits: self.limits.clone(), has_object_store: self.has_object_store }))
    }
}

impl CompiledPlugin for Loaded {
    fn world(&self) -> &str {
        self.code.world().name()
    }

    fn image(&self) -> Result<Vec<u8>, String> {
        let kept = self.code.to_cache().map_err(|error| error.to_string())?;
        Ok([self.code.sha256().as_slice(), &kept].concat())
    }

    fn trial(&self, attachment: &Attachment, brokers: &[Broker]) -> Result<Vec<String>, TrialError> {
        let (own, broker) = (&attachment.limits, &self.limits);
        let plugin = || attachment.plugin.clone();
        let above = |key: &'static str, asked: Option<u64>, broker_key: &'static str, limit: u64| match asked {
            Some(asked) if asked > limit => {
                Err(TrialError::AboveLimit { plugin: plugin(), key, asked, broker_key, limit })
            }
            _ => Ok(()),
        };
        let bytes = |bytes: Option<usize>| bytes.map(|bytes| bytes as u64);
        above("tidegate.plugin.deadline.ms", own.deadline_ms, "plugin.deadline.ms", broker.call_ticks_max - 1)?;
        let (memory, output) = (broker.memory_bytes_max as u64, broker.answer_bytes_max as u64);
        above("tidegate.plugin.memory.max.bytes", bytes(own.memory_bytes), "plugin.memory.max.bytes", memory)?;
        above("tidegate.plugin.output.max.bytes", bytes(own.output_bytes), "plugin.output.max.bytes", output)?;
        let (config, limits) = (&attachment.config, attachment_limits(broker, attachment));
        let refused = |error: OpenError| TrialError::Refused { plugin: plugin(), reason: error.to_string() };
        match self.code.world() {
            World::Router => {
                let router = Router::open(&self.code, config, &limits).map_err(refused)?;
                return Ok(router.topics().to_vec());
            }
            World::Partitioner => Partitioner::open(&self.code, config, &limits).map(drop).map_err(refused)?,
            World::Retention => {
                let policy = Retention::open(&self.code, config, &limits).map_err(refused)?;
                if policy.offloads() && !self.has_object_store {
                    return Err(TrialError::NoObjectStore { plugin: plugin() });
                }
            }
            World::Ack => {
                let hook = AckHook::open(&self.code, config, &limits).map_err(refused)?;
                if let Some(copies) = hook.strongest() {
                    attainable(copies, brokers)
                        .map_err(|reason| TrialError::NotAttainable { plugin: plugin(), reason })?;
                }
            }
        }
        Ok(Vec::new())
    }
}

/// The code of a plugin that [`WasmHost`] has loaded.
pub(crate) fn compiled(plugin: &Arc<dyn CompiledPlugin>) -> Option<Compiled> {
    let plugin: &dyn Any = plugin.as_ref();
    plugin.downcast_ref::<Loaded>().map(|loaded| loaded.code.clone())
}
