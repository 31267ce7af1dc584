//! One engine for each process: how plugins are compiled, where their memory comes from, and how their time is measured.
//!
//! The settings are the ones that `measured/wasm.md` in the design notes found: component-model concurrency off (it doubles the
//! price of a call), 4 GiB reservations (less brings bounds checks), instances from a pool, and on demand where the machine does
//! not grant the address space for a pool (containers with a limit on virtual memory).

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use sha2::{Digest, Sha256};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Core modules of one component.
const CORE_INSTANCES_MAX: u32 = 100;

/// How the time of a call is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metering {
    /// Ticks of a clock outside: [`Engine::tick`]. Costs next to nothing on straight code.
    #[default]
    Epochs,
    /// Instructions: the same call always ends at the same place. For the simulator.
    Fuel,
}

/// What an engine is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    pub metering: Metering,
    /// How many instances there can be at a time; each reserves 4 GiB of address space, and uses what it touches. 0: no pool.
    pub instances_max: u32,
    /// The largest memory that an instance can have, whatever its [`Limits`](crate::Limits) say.
    pub memory_bytes_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { metering: Metering::Epochs, instances_max: 8000, memory_bytes_max: 256 << 20 }
    }
}

/// The engine: cheap to clone, shared by all threads.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: wasmtime::Engine,
    pub(crate) metering: Metering,
    pooled: bool,
    fingerprint: [u8; 32],
    clock: Arc<Clock>,
}

/// What the thread that ticks and the threads that call know of one another.
#[derive(Default)]
struct Clock {
    calls: AtomicU64,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The machine cannot run plugins at all.
#[derive(Debug, thiserror::Error)]
#[error("the plugin engine does not start: {detail}")]
pub struct EngineError {
    pub detail: String,
}

impl Engine {
    /// Makes the engine of this process.
    ///
    /// # Errors
    /// [`EngineError`] on a machine that cannot run compiled Wasm.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        let pooled = (config.instances_max > 0).then(|| wasmtime::Engine::new(&wasmtime_config(config, true)));
        let (inner, pooled) = match pooled {
            Some(Ok(engine)) => (engine, true),
            _ => {
                let engine = wasmtime::Engine::new(&wasmtime_config(config, false));
                (engine.map_err(|error| EngineError { detail: format!("{error:#}") })?, false)
            }
        };
        let fingerprint = fingerprint(&inner);
        Ok(Self { inner, metering: config.metering, pooled, fingerprint, clock: Arc::default() })
    }

    /// Whether instances come from the pool. Where a pool was asked for and this is false, say so in the log: opening an
    /// instance costs five times as much, and nothing else changes.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// One tick of the clock by which calls end ([`Limits::call_ticks_max`](crate::Limits::call_ticks_max)). From any thread.
    pub fn tick(&self) {
        self.inner.increment_epoch();
    }

    /// Ticks every `tick` on this thread, for ever: the clock of a process. It sleeps once no call has begun for `idle`, which must
    /// be longer than any call may take: a broker without plugins is not woken a thousand times a second.
    pub fn tick_forever(&self, tick: Duration, idle: Duration) -> ! {
        let _ = self.clock.thread.set(std::thread::current());
        let idle_ticks = idle.as_nanos() / tick.as_nanos().max(1);
        let (mut seen, mut quiet_ticks) = (0, idle_ticks);
        loop {
            std::thread::sleep(tick);
            self.tick();
            let calls = self.clock.calls.load(Ordering::SeqCst);
            quiet_ticks = if calls == seen { quiet_ticks + 1 } else { 0 };
            seen = calls;
            if quiet_ticks < idle_ticks {
                continue;
            }
            // Either this thread sees a call that began before it fell asleep, or that call sees it asleep.
            self.clock.asleep.store(true, Ordering::SeqCst);
            while self.clock.calls.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            self.clock.asleep.store(false, Ordering::SeqCst);
            quiet_ticks = 0;
        }
    }

    /// Before each call: its time counts from here.
    pub(crate) fn call_begins(&self) {
        self.clock.calls.fetch_add(1, Ordering::SeqCst);
        if self.clock.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.clock.thread.get()
        {
            thread.unpark();
        }
    }

    /// Stands for everything that compiled code depends on: the version of the engine, its settings, the processor. What was
    /// compiled under another one cannot be used.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("metering", &self.metering).field("pooled", &self.pooled).finish_non_exhaustive()
    }
}

fn wasmtime_config(config: &EngineConfig, pooled: bool) -> Config {
    let mut wasm = Config::new();
    wasm.wasm_component_model(true)
        .concurrency_support(false)
        .memory_reservation(4 << 30)
        .max_wasm_stack(512 << 10)
        // Answers must not depend on the processor: the bits of a NaN and of a relaxed instruction are fixed.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true);
    match config.metering {
        Metering::Epochs => wasm.epoch_interruption(true),
        Metering::Fuel => wasm.consume_fuel(true),
    };
    if pooled {
        let count = config.instances_max;
        let mut pool = PoolingAllocationConfig::new();
        // A component of another language is dozens of core modules (Python: 38), a few of them with a memory (JavaScript: 3).
        pool.total_component_instances(count)
            .total_core_instances(count.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(count.saturating_add(count / 4))
            .total_tables(count.saturating_mul(2))
            .max_memory_size(config.memory_bytes_max)
            .max_memories_per_component(4)
            .max_tables_per_component(4)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .table_elements(100_000);
        wasm.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    } else {
        wasm.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    }
    wasm
}

/// Feeds what `Hash` writes to SHA-256: `std`'s hasher may change with the toolchain, and has 64 bits.
struct Sha256Hasher(Sha256);

impl std::hash::Hasher for Sha256Hasher {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

fn fingerprint(engine: &wasmtime::Engine) -> [u8; 32] {
    let mut hasher = Sha256Hasher(Sha256::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    hasher.0.finalize().into()
}
