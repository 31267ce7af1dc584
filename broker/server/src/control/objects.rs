//! The object store that offloaded segments go to: a local directory or an S3-compatible endpoint, through the crate `object_store`.
//!
//! Every call of a shard is a task of its own. Reads are bounded in time; once one has failed the others fail at once until a task that tries
//! in their place has got an answer: a fetch of a partition that is far away would hold up the others that are asked for with it. It is logged
//! once that the store is gone, and once that it is back.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart,
    aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
};
use tidegate_storage::objects::{ObjectError, ObjectErrorKind};
use tokio::runtime::Handle;

use crate::objects::{ObjectCall, ObjectClient, ObjectLocation};

/// Bytes of one part of an upload; S3 wants at least 5 MiB of all but the last.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload that are on their way.
const PARTS_MAX: usize = 2;
/// How often a store that does not answer is tried.
const PAUSE: Duration = Duration::from_secs(1);
/// Keys that are remembered as gone, so that each is logged once.
const GONE_MAX: usize = 1000;

/// How the object store is reached: the settings `object.store.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStoreOptions {
    pub location: ObjectLocation,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_file: Option<PathBuf>,
    pub secret_key_file: Option<PathBuf>,
    pub allow_http: bool,
    /// How long a read may take.
    pub timeout: Duration,
}

/// Why the object store cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    #[error(
        "object.store.url: the directory {} cannot be used: {source}. Mount it, or create it with: mkdir -p {}", path.display(),
        path.display()
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("{setting} = {}: {source}. The file must have the key in its first line", path.display())]
    KeyFile { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("object.store.url: {source}. Look at the settings object.store.* with: tidegate config check FILE")]
    Settings { source: object_store::Error },
}

struct Remote {
    store: Arc<dyn ObjectStore>,
    /// A slash at the end, or empty.
    prefix: String,
    /// The directory, where it is one.
    directory: Option<PathBuf>,
    timeout: Duration,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    /// Why reads fail at once.
    down: Option<String>,
    /// It was logged that it is gone.
    is_reported: bool,
    gone: BTreeSet<String>,
    /// What is being written now.
    uploading: BTreeSet<String>,
}

/// Prepares the object store. `runtime` is the control plane's, where the calls are made.
///
/// # Errors
/// [`ObjectStoreError`]. An endpoint that does not answer is none: the broker serves what it has, and the rest when the endpoint is back.
pub fn open(options: &ObjectStoreOptions, runtime: &Handle) -> Result<ObjectClient, ObjectStoreError> {
    let remote = Arc::new(connect(options)?);
    let looking = Arc::clone(&remote);
    runtime.spawn(async move {
        // Whoever starts a broker wants to know of a wrong key now, and not when the first segment is to go.
        if let Err(error) = looking.look().await {
            looking.note("list", &error);
        }
    });
    let runtime = runtime.clone();
    Ok(ObjectClient::new(Arc::new(move |call| {
        let remote = Arc::clone(&remote);
        drop(runtime.spawn(async move { remote.answer(call).await }));
    })))
}

fn connect(options: &ObjectStoreOptions) -> Result<Remote, ObjectStoreError> {
    let settings = |source| ObjectStoreError::Settings { source };
    let health = Mutex::default();
    let timeout = options.timeout;
    match &options.location {
        ObjectLocation::Directory(path) => {
            let unusable = |source| ObjectStoreError::Directory { path: path.clone(), source };
            let probe = path.join(".tidegate-probe");
            fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(unusable)?;
            // A segment's file goes when its object is there: the object must be on the disk by then.
            let store = Arc::new(LocalFileSystem::new_with_prefix(path).map_err(settings)?.with_fsync(true));
            Ok(Remote { store, prefix: String::new(), directory: Some(path.clone()), timeout, health })
        }
        ObjectLocation::Bucket { bucket, prefix } => {
            // Another provider may have been installed by whoever embeds the broker; then that one serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let retry = RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() },
                max_retries: 3,
                retry_timeout: Duration::from_secs(60),
            };
            // A part of an upload may take longer than a read.
            let client = ClientOptions::new().with_timeout(timeout * 6).with_connect_timeout(timeout);
            let mut builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                // Not every endpoint knows how to delete several at once.
                .with_disable_bulk_delete(true)
                .with_retry(retry)
                .with_client_options(client.with_allow_http(options.allow_http));
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if let Some(region) = &options.region {
                builder = builder.with_region(region);
            }
            if let Some(path) = &options.access_key_file {
                builder = builder.with_access_key_id(key_in(path, "object.store.access.key.file")?);
            }
            if let Some(path) = &options.secret_key_file {
                builder = builder.with_secret_access_key(key_in(path, "object.store.secret.key.file")?);
            }
            let store = Arc::new(builder.build().map_err(settings)?);
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            Ok(Remote { store, prefix, directory: None, timeout, health })
        }
    }
}

fn key_in(path: &FilePath, setting: &'static str) -> Result<String, ObjectStoreError> {
    let failed = |source| ObjectStoreError::KeyFile { setting, path: path.to_path_buf(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    match text.lines().next().map(str::trim).filter(|key| !key.is_empty()) {
        Some(key) => Ok(key.to_owned()),
        None => Err(failed(io::Error::other("it is empty"))),
    }
}

impl Remote {
    async fn answer(self: &Arc<Self>, call: ObjectCall) {
        // Who asked may be gone; that is its business.
        match call {
            ObjectCall::Put { key, length, pieces, answer } => {
                self.health().uploading.insert(key.clone());
                let done = self.put(&key, length, &pieces).await;
                self.health().uploading.remove(&key);
                // Whoever still waits to hand over a piece is to hear the answer.
                pieces.close();
                let _ = answer.try_send(self.judge("write", &key, done));
            }
            ObjectCall::Read { key, position, length, answer } => {
                let down = self.health().down.clone();
                let read = match down {
                    Some(reason) => {
                        Err(ObjectError { operation: "read", key, kind: ObjectErrorKind::Unavailable, message: reason })
                    }
                    None => {
                        let read = self.read(&key, position, length);
                        let read = tokio::time::timeout(self.timeout, read).await;
                        self.judge("read", &key, read.unwrap_or_else(|_| Err(self.timed_out())))
                    }
                };
                let _ = answer.try_send(read);
            }
            ObjectCall::Remove { key, answer } => {
                let done = match self.store.delete(&self.path(&key)).await {
                    Err(object_store::Error::NotFound { .. }) if self.has_directory() => Ok(()),
                    other => other.map_err(Failed::Store),
                };
                if let Some(parent) =
                    self.directory.as_ref().and_then(|root| Some(root.join(&key).parent()?.to_owned()))
                {
                    // The last object of a partition takes its directory with it; before that it is not empty.
                    let _ = fs::remove_dir(parent);
                }
                let _ = answer.try_send(self.judge("remove", &key, done));
            }
            ObjectCall::List { prefix, answer } => {
                let listed = self.list(&prefix).await;
                let _ = answer.try_send(self.judge("list", &prefix, listed));
            }
        }
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    async fn look(&self) -> Result<(), Failed> {
        if !self.has_directory() {
            return Err(Failed::NoDirectory);
        }
        let mut all = self.store.list(Some(&Path::from(self.prefix.as_str())));
        all.try_next().await.map(drop).map_err(Failed::Store)
    }

    async fn put(&self, key: &str, length: u64, pieces: &async_channel::Receiver<Bytes>) -> Result<(), Failed> {
        if !self.has_directory() {
            // It would be made anew, where nobody has mounted it.
            return Err(Failed::NoDirectory);
        }
        let path = self.path(key);
        if length <= PART_BYTES as u64 {
            let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            while let Ok(piece) = pieces.recv().await {
                whole.push(piece);
            }
            if whole.iter().map(|piece| piece.len() as u64).sum::<u64>() != length {
                return Err(Failed::GivenUp);
            }
            return self.store.put(&path, PutPayload::from_iter(whole)).await.map(drop).map_err(Failed::Store);
        }
        let upload = self.store.put_multipart(&path).await.map_err(Failed::Store)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut bytes = 0;
        while let Ok(piece) = pieces.recv().await {
            if let Err(error) = upload.wait_for_capacity(PARTS_MAX).await {
                // What is left of it is removed by the bucket's rules, or by the next listing of a directory.
                let _ = upload.abort().await;
                return Err(Failed::Store(error));
            }
            bytes += piece.len() as u64;
            upload.put(piece);
        }
        if bytes != length {
            let _ = upload.abort().await;
            return Err(Failed::GivenUp);
        }
        upload.finish().await.map(drop).map_err(Failed::Store)
    }

    async fn read(&self, key: &str, position: u64, length: usize) -> Result<Bytes, Failed> {
        let range = position..position + length as u64;
        self.store.get_range(&self.path(key), range).await.map_err(Failed::Store)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        if !self.has_directory() {
            return Err(Failed::NoDirectory);
        }
        let found: Vec<_> = self.store.list(Some(&self.path(prefix))).try_collect().await.map_err(Failed::Store)?;
        self.remove_unfinished(prefix);
        let keys = found.into_iter().filter_map(|object| {
            let key: &str = object.location.as_ref();
            Some(key.strip_prefix(&self.prefix)?.to_owned())
        });
        Ok(keys.collect())
    }

    /// What a killed process left of uploads into a directory: `NAME#1`, which is no object. Buckets have rules for that.
    fn remove_unfinished(&self, prefix: &str) {
        let Some(directory) = self.directory.as_ref().map(|directory| directory.join(prefix)) else { return };
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let unfinished = name.to_str().and_then(|name| name.split_once('#'));
            let is_nobodys = unfinished.is_some_and(|(name, number)| {
                let key = format!("{prefix}/{name}");
                number.bytes().all(|digit| digit.is_ascii_digit()) && !self.health().uploading.contains(&key)
            });
            if is_nobodys {
                // If it cannot be removed now, the next listing tries again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// False where the directory itself is not there: it was unmounted, say. Its objects are not gone then.
    fn has_directory(&self) -> bool {
        self.directory.as_ref().is_none_or(|directory| directory.is_dir())
    }

    fn timed_out(&self) -> Failed {
        Failed::TimedOut(self.timeout)
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how a call went, and says it in the words of storage.
    fn judge<T>(
        self: &Arc<Self>,
        operation: &'static str,
        key: &str,
        done: Result<T, Failed>,
    ) -> Result<T, ObjectError> {
        let error = match done {
            Ok(done) => {
                self.health().gone.remove(key);
                self.is_back();
                return Ok(done);
            }
            Err(error) => error,
        };
        let is_gone = matches!(error, Failed::Store(object_store::Error::NotFound { .. })) && self.has_directory();
        let message = match &error {
            Failed::Store(object_store::Error::NotFound { .. }) if is_gone => "there is no such object".to_owned(),
            Failed::Store(object_store::Error::NotFound { .. }) => Failed::NoDirectory.to_string(),
            error => error.to_string(),
        };
        if is_gone && operation == "read" {
            let mut health = self.health();
            if health.gone.len() < GONE_MAX && health.gone.insert(key.to_owned()) {
                tracing::error!(
                    key,
                    "an object is gone that records were offloaded to: who reads them gets KAFKA_STORAGE_ERROR. Restore it from a copy; or, \
                     to go on without, delete the records (kafka-delete-records) up to where the next segment begins"
                );
            }
        } else if !matches!(error, Failed::GivenUp) {
            self.note(operation, &error);
        }
        let kind = if is_gone { ObjectErrorKind::NotFound } else { ObjectErrorKind::Unavailable };
        Err(ObjectError { operation, key: key.to_owned(), kind, message })
    }

    /// Takes note that the store does not answer, and tries it until it does.
    fn note(self: &Arc<Self>, operation: &'static str, error: &Failed) {
        let (was_down, was_reported) = {
            let mut health = self.health();
            let was_down = health.down.replace(error.to_string()).is_some();
            (was_down, std::mem::replace(&mut health.is_reported, true))
        };
        if !was_reported {
            tracing::error!(
                operation,
                %error,
                "the object store does not answer: who reads offloaded records gets KAFKA_STORAGE_ERROR until it does, nothing is offloaded, \
                 and everything else goes on. Check that it can be reached from here, and object.store.* in the configuration"
            );
        }
        if was_down {
            return;
        }
        let remote = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(remote) = remote.upgrade() else { return };
                if remote.health().down.is_none() {
                    return;
                }
                if let Ok(Ok(())) = tokio::time::timeout(remote.timeout, remote.look()).await {
                    remote.is_back();
                    return;
                }
            }
        });
    }

    fn is_back(&self) {
        let mut health = self.health();
        health.down = None;
        if std::mem::take(&mut health.is_reported) {
            tracing::info!("the object store answers again");
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
enum Failed {
    Store(object_store::Error),
    TimedOut(Duration),
    NoDirectory,
    /// The shard did not go on with it.
    GivenUp,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => {
                write!(f, "{error}")?;
                // The crate's own words say that something failed, and its sources what.
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::TimedOut(timeout) => {
                write!(f, "no answer within {} ms (object.store.timeout.ms)", timeout.as_millis())
            }
            Self::NoDirectory => f.write_str("the directory of object.store.url is not there"),
            Self::GivenUp => f.write_str("given up"),
        }
    }
}

#[cfg(test)]
mod tests;
