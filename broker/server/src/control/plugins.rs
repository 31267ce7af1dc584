//! The plugins that were uploaded: their components by content, what was compiled from them, and their way to the shards.
//!
//! Owns the directory `plugins/`: `HASH.wasm` is a component as it came (HASH is its SHA-256), `HASH.COMPATIBILITY.compiled` what was
//! compiled from it for one version of the engine: the magic "TGPLUG\0" and a version byte (1), the CRC-32C (little-endian) of what
//! follows, and the compiled code. Compiled files may be lost: they are made anew. Which plugins there are, under which names, is
//! the cluster's metadata and not decided by the files.
//!
//! Everything here may take seconds (compiling) and is called on blocking threads of the control plane, never on a shard.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tidegate_model::{
    metadata::{Broker, MetadataChange, MetadataImage},
    topic_config::{Attachment, TopicConfig},
};

use crate::data_directory::replace_file;

const COMPILED_MAGIC: [u8; 8] = *b"TGPLUG\0\x01";

/// What compiles components and runs them. The broker's is `plugin-host`; it is behind a trait so that the control plane's tests need
/// no compiler.
pub trait PluginHost: Send + Sync + 'static {
    /// Changes whenever code that was compiled earlier cannot be loaded any more: letters and digits.
    fn compatibility(&self) -> String;

    /// Checks a component (or a core module with a component's type, which it wraps) and compiles it.
    ///
    /// # Errors
    /// What is wrong with it, for its author.
    fn compile(&self, component: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String>;

    /// Loads what [`CompiledPlugin::image`] gave, in this or an earlier process of the same compatibility.
    ///
    /// # Errors
    /// Why it cannot; then the component is compiled again.
    fn load(&self, image: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String>;
}

/// Code that is ready to be instantiated. Shards get it as it is, and know its type.
pub trait CompiledPlugin: Any + Send + Sync {
    /// `router`, `partitioner`, `ack` or `retention`.
    fn world(&self) -> &str;

    /// The code, as [`PluginHost::load`] takes it.
    fn image(&self) -> Result<Vec<u8>, String>;

    /// Opens an instance as an attachment says, and drops it. `brokers` are those of the cluster. Returns the topics that a router named
    /// meanwhile: whether they are there, the caller knows.
    fn trial(&self, attachment: &Attachment, brokers: &[Broker]) -> Result<Vec<String>, TrialError>;
}

/// Why a plugin cannot be attached so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// In its own words.
    #[error("plugin '{plugin}' refuses its configuration: {reason}")]
    Refused { plugin: String, reason: String },
    #[error(
        "plugin '{plugin}' cannot be attached: {key}={asked} is more than the broker's limit of {limit} ({broker_key})"
    )]
    AboveLimit { plugin: String, key: &'static str, asked: u64, broker_key: &'static str, limit: u64 },
    #[error("plugin '{plugin}' cannot be attached: {reason}")]
    NotAttainable { plugin: String, reason: String },
    #[error("plugin '{plugin}' cannot be attached: it is of the world {found}, and is attached as {wanted}")]
    World { plugin: String, found: String, wanted: &'static str },
    #[error("plugin '{plugin}' could not be loaded when the broker started; its log says why. Deploy it again")]
    NotLoaded { plugin: String },
    #[error("plugin '{plugin}' names topic '{topic}' in its configuration, which does not exist: create it first")]
    MissingTopic { plugin: String, topic: String },
    #[error(
        "plugin '{plugin}' offloads segments, and this broker has no object store to send them to: set object.store.url in its \
         configuration, and restart it"
    )]
    NoObjectStore { plugin: String },
}

/// A plugin that is deployed and ready.
#[derive(Clone)]
pub struct LoadedPlugin {
    pub name: String,
    pub version: u32,
    /// SHA-256 of the component, in hex.
    pub hash: String,
    pub compiled: Arc<dyn CompiledPlugin>,
}

impl std::fmt::Debug for LoadedPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoadedPlugin({} version {} {})", self.name, self.version, self.hash)
    }
}

/// Why a plugin was not stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("the component is refused: {reason}")]
    Refused { reason: String },
    #[error(
        "it does not fit the configuration of topic '{topic}', to which it is attached: {source}. Nothing was changed"
    )]
    Attached { topic: String, source: TrialError },
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: its SHA-256 is {found}. Upload the plugin again", path.display())]
    Damaged { path: PathBuf, found: String },
}

/// The files of uploaded plugins.
pub(super) struct PluginStore {
    directory: PathBuf,
    host: Arc<dyn PluginHost>,
}

impl PluginStore {
    pub(super) fn open(data_directory: &Path, host: Arc<dyn PluginHost>) -> Result<Self, PluginError> {
        let directory = data_directory.join("plugins");
        fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        Ok(Self { directory, host })
    }

    /// Compiles a component and stores both. Returns its hash and the code.
    pub(super) fn add(&self, component: &[u8]) -> Result<(String, Arc<dyn CompiledPlugin>), PluginError> {
        let hash = sha256(component);
        let compiled = self.host.compile(component).map_err(|reason| PluginError::Refused { reason })?;
        let path = self.component_path(&hash);
        replace_file(&path, component).map_err(io_error("write", &path))?;
        self.keep_compiled(&hash, compiled.as_ref());
        Ok((hash, compiled))
    }

    /// Loads what was compiled from a component, or compiles it again.
    pub(super) fn load(&self, hash: &str) -> Result<Arc<dyn CompiledPlugin>, PluginError> {
        let compiled_path = self.compiled_path(hash);
        if let Ok(bytes) = fs::read(&compiled_path) {
            let image = checked(&bytes).ok_or_else(|| "its checksum is wrong".to_owned());
            match image.and_then(|image| self.host.load(image)) {
                Ok(compiled) => return Ok(compiled),
                Err(reason) => tracing::warn!(path = %compiled_path.display(), reason, "compiling a plugin again"),
            }
        }
        let component = self.component(hash)?;
        let compiled = self.host.compile(&component).map_err(|reason| PluginError::Refused { reason })?;
        self.keep_compiled(hash, compiled.as_ref());
        Ok(compiled)
    }

    /// A component as it was uploaded.
    pub(super) fn component(&self, hash: &str) -> Result<Vec<u8>, PluginError> {
        let path = self.component_path(hash);
        let component = fs::read(&path).map_err(io_error("read", &path))?;
        let found = sha256(&component);
        if found == hash { Ok(component) } else { Err(PluginError::Damaged { path, found }) }
    }

    /// Removes the files of components that `image` neither runs nor could go back to, and compiled code of other engines.
    pub(super) fn sweep(&self, image: &MetadataImage) {
        let used: BTreeSet<PathBuf> = image
            .plugins()
            .flat_map(|plugin| [Some(&plugin.hash), plugin.previous.as_ref()])
            .flatten()
            .flat_map(|hash| [self.component_path(hash), self.compiled_path(hash)])
            .collect();
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !used.contains(path)) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a file that no plugin uses was not removed");
            }
        }
    }

    fn component_path(&self, hash: &str) -> PathBuf {
        self.directory.join(format!("{hash}.wasm"))
    }

    fn compiled_path(&self, hash: &str) -> PathBuf {
        self.directory.join(format!("{hash}.{}.compiled", self.host.compatibility()))
    }

    /// Not being able to is no error: it costs the next start the time to compile.
    fn keep_compiled(&self, hash: &str, compiled: &dyn CompiledPlugin) {
        let path = self.compiled_path(hash);
        let written = compiled.image().and_then(|image| {
            let mut bytes = COMPILED_MAGIC.to_vec();
            bytes.extend_from_slice(&crc32c::crc32c(&image).to_le_bytes());
            bytes.extend_from_slice(&image);
            replace_file(&path, &bytes).map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), error, "compiled code was not kept; the next start compiles again");
        }
    }
}

/// What is behind the head of a compiled file, if the head is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&COMPILED_MAGIC)?;
    let (checksum, image) = rest.split_first_chunk::<4>()?;
    (crc32c::crc32c(image) == u32::from_le_bytes(*checksum)).then_some(image)
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PluginError {
    let path = path.to_path_buf();
    move |source| PluginError::Io { operation, path, source }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Looks at the components that an image names, in a data directory whose broker is stopped: what is missing or not as it was uploaded.
#[must_use]
pub fn verify_components(data_directory: &Path, image: &MetadataImage) -> Vec<PluginError> {
    let directory = data_directory.join("plugins");
    let hashes: BTreeSet<&String> =
        image.plugins().flat_map(|plugin| [Some(&plugin.hash), plugin.previous.as_ref()]).flatten().collect();
    let looked_at = hashes.into_iter().map(|hash| {
        let path = directory.join(format!("{hash}.wasm"));
        let component = fs::read(&path).map_err(io_error("read", &path))?;
        let found = sha256(&component);
        if found == *hash { Ok(()) } else { Err(PluginError::Damaged { path, found }) }
    });
    looked_at.filter_map(Result::err).collect()
}

/// The plugins of an image, ready to run. One that cannot be loaded is missing: its topics then refuse records and say why.
pub(super) fn load_all(store: &PluginStore, image: &MetadataImage) -> BTreeMap<String, LoadedPlugin> {
    let mut loaded = BTreeMap::new();
    for plugin in image.plugins() {
        match store.load(&plugin.hash) {
            Ok(compiled) => {
                let (name, version, hash) = (plugin.name.clone(), plugin.version, plugin.hash.clone());
                loaded.insert(name.clone(), LoadedPlugin { name, version, hash, compiled });
            }
            Err(error) => {
                tracing::error!(plugin = plugin.name, %error, "a plugin cannot be loaded: topics that it is attached to refuse records");
            }
        }
    }
    loaded
}

/// What a change attaches to its topic. Empty where it attaches nothing, or is refused anyway.
pub(super) fn attachments(change: &MetadataChange, image: &MetadataImage) -> Vec<Attachment> {
    let (MetadataChange::CreateTopic { configs, .. } | MetadataChange::AlterTopicConfig { configs, .. }) = change
    else {
        return Vec::new();
    };
    if image.validate(change).is_err() {
        return Vec::new();
    }
    let config = TopicConfig::resolve(configs, image.defaults());
    config
        .map_or_else(|_| Vec::new(), |config| config.attachments().map(|(_, attachment)| attachment.clone()).collect())
}

/// The first of the topics that plugins name which `exists` does not know.
///
/// # Errors
/// [`TrialError::MissingTopic`].
pub(super) fn all_exist(named: &[(String, Vec<String>)], exists: impl Fn(&str) -> bool) -> Result<(), TrialError> {
    let mut topics = named.iter().flat_map(|(plugin, topics)| topics.iter().map(move |topic| (plugin, topic)));
    match topics.find(|(_, topic)| !exists(topic)) {
        Some((plugin, topic)) => Err(TrialError::MissingTopic { plugin: plugin.clone(), topic: topic.clone() }),
        None => Ok(()),
    }
}

/// Tries code with the configuration of every topic that has a plugin of this name attached.
pub(super) fn try_attached(
    name: &str,
    compiled: &dyn CompiledPlugin,
    image: &MetadataImage,
) -> Result<(), PluginError> {
    for topic in image.topics() {
        for (world, attachment) in topic.config.attachments().filter(|(_, attachment)| attachment.plugin == name) {
            let tried = if compiled.world() == world {
                compiled.trial(attachment, &image.brokers)
            } else {
                let (plugin, found) = (name.to_owned(), compiled.world().to_owned());
                Err(TrialError::World { plugin, found, wanted: world })
            };
            tried
                .and_then(|topics| all_exist(&[(name.to_owned(), topics)], |topic| image.topic(topic).is_some()))
                .map_err(|source| PluginError::Attached { topic: topic.name.clone(), source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A host whose components are texts: `router` or `partitioner`, a space, and the only configuration that they accept beside
    /// `to `: that names topics.
    #[derive(Default)]
    pub(in crate::control) struct TextHost {
        compiled: Arc<AtomicUsize>,
    }

    struct Text(String);

    impl PluginHost for TextHost {
        fn compatibility(&self) -> String {
            "text1".to_owned()
        }

        fn compile(&self, component: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
            self.compiled.fetch_add(1, Ordering::Relaxed);
            let text = String::from_utf8(component.to_vec()).map_err(|_| "it is no text".to_owned())?;
            if !text.starts_with("router ") && !text.starts_with("partitioner ") {
                return Err("it exports no world that Tidegate knows".to_owned());
            }
            Ok(Arc::new(Text(text)))
        }

        fn load(&self, image: &[u8]) -> Result<Arc<dyn CompiledPlugin>, String> {
            Ok(Arc::new(Text(String::from_utf8(image.to_vec()).map_err(|error| error.to_string())?)))
        }
    }

    impl CompiledPlugin for Text {
        fn world(&self) -> &str {
            self.0.split(' ').next().unwrap_or_default()
        }

        fn image(&self) -> Result<Vec<u8>, String> {
            Ok(self.0.clone().into_bytes())
        }

        fn trial(&self, attachment: &Attachment, _: &[Broker]) -> Result<Vec<String>, TrialError> {
            let config = attachment.config.as_str();
            let (_, accepted) = self.0.split_once(' ').unwrap_or_default();
            match config.strip_prefix("to ") {
                Some(topics) => Ok(topics.split(' ').map(str::to_owned).collect()),
                None if accepted == config => Ok(Vec::new()),
                None => {
                    let (plugin, reason) = (attachment.plugin.clone(), format!("I do not like {config:?}"));
                    Err(TrialError::Refused { plugin, reason })
                }
            }
        }
    }

    #[test]
    fn compiled_code_is_kept_checked_and_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let host = TextHost::default();
        let count = Arc::clone(&host.compiled);
        let compilations = || count.load(Ordering::Relaxed);
        let store = PluginStore::open(directory.path(), Arc::new(host)).unwrap();
        let (hash, compiled) = store.add(b"router x").unwrap();
        assert_eq!((hash.len(), compiled.world()), (64, "router"));
        assert_eq!(store.load(&hash).unwrap().world(), "router");
        assert_eq!(compilations(), 1);
        // Damage is noticed, and mended.
        let path = store.compiled_path(&hash);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        store.load(&hash).unwrap();
        assert_eq!(compilations(), 2);
        store.load(&hash).unwrap();
        assert_eq!(compilations(), 2);
        // A damaged component is no plugin.
        fs::remove_file(&path).unwrap();
        fs::write(store.component_path(&hash), b"router y").unwrap();
        assert!(matches!(store.load(&hash), Err(PluginError::Damaged { .. })));
        assert!(matches!(store.load("00"), Err(PluginError::Io { .. })));
        assert!(matches!(store.add(b"nonsense"), Err(PluginError::Refused { .. })));
        // What nothing names goes.
        store.sweep(&MetadataImage::default());
        assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 0);
    }
}
