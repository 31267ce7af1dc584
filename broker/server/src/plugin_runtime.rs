//! The control plane's [`PluginHost`] over wasmtime.

use std::sync::Arc;

use crate::control::plugins::{CompiledPlugin, PluginHost};

/// Compiles and loads components with `tidegate_plugin_host`.
pub struct WasmHost;

impl PluginHost for WasmHost {
    fn compatibility(&self) -> String {
        "none".into()
    }

    fn compile(&self, _component: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        Err("plugins cannot be run by this build".into())
    }

    fn load(&self, _image: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
        Err("plugins cannot be run by this build".into())
    }
}
