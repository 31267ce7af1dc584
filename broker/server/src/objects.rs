//! How shards reach the object store, which the control plane's runtime talks to: calls that go there and are answered.
//!
//! Names neither glommio nor tokio: both sides of the server use it. What an object store is called in the configuration is read here, too.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use tidegate_storage::objects::{ObjectError, ObjectErrorKind};

/// Pieces of an object that may be on their way to the control plane.
const PIECES_MAX: usize = 4;

/// Where an answer goes. Dropped without one, the broker is stopping.
pub type Answer<T> = async_channel::Sender<Result<T, ObjectError>>;

/// What the object store is asked for.
pub enum ObjectCall {
    /// Write an object of `length` bytes. `pieces` ends early where it is given up.
    Put {
        key: String,
        length: u64,
        pieces: async_channel::Receiver<Bytes>,
        answer: Answer<()>,
    },
    Read {
        key: String,
        position: u64,
        length: usize,
        answer: Answer<Bytes>,
    },
    Remove {
        key: String,
        answer: Answer<()>,
    },
    List {
        prefix: String,
        answer: Answer<Vec<String>>,
    },
}

/// Asks the object store, from any thread; there may be none. Cheap to clone.
#[derive(Clone, Default)]
pub struct ObjectClient {
    calls: Option<Arc<dyn Fn(ObjectCall) + Send + Sync>>,
}

/// An object that is being written.
pub struct Upload {
    key: String,
    pieces: async_channel::Sender<Bytes>,
    done: async_channel::Receiver<Result<(), ObjectError>>,
}

impl fmt::Debug for ObjectClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectClient").field("configured", &self.is_configured()).finish()
    }
}

impl ObjectClient {
    pub fn new(calls: Arc<dyn Fn(ObjectCall) + Send + Sync>) -> Self {
        Self { calls: Some(calls) }
    }

    /// Whether there is an object store.
    pub fn is_configured(&self) -> bool {
        self.calls.is_some()
    }

    fn send(&self, operation: &'static str, key: &str, call: ObjectCall) -> Result<(), ObjectError> {
        let Some(calls) = &self.calls else {
            let message =
                "there is no object store: set object.store.url in the broker's configuration, and restart it";
            let (kind, message) = (ObjectErrorKind::NotConfigured, message.to_owned());
            return Err(ObjectError { operation, key: key.to_owned(), kind, message });
        };
        calls(call);
        Ok(())
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        key: &str,
        call: impl FnOnce(Answer<T>) -> ObjectCall,
    ) -> Result<T, ObjectError> {
        let (answer, answered) = async_channel::bounded(1);
        self.send(operation, key, call(answer))?;
        answered.recv().await.unwrap_or_else(|_| Err(stopping(operation, key)))
    }

    pub(crate) fn begin(&self, key: &str, length: u64) -> Result<Upload, ObjectError> {
        let (pieces, received) = async_channel::bounded(PIECES_MAX);
        let (answer, done) = async_channel::bounded(1);
        self.send("write", key, ObjectCall::Put { key: key.to_owned(), length, pieces: received, answer })?;
        Ok(Upload { key: key.to_owned(), pieces, done })
    }

    pub(crate) async fn read(&self, key: &str, position: u64, length: usize) -> Result<Bytes, ObjectError> {
        self.ask("read", key, |answer| ObjectCall::Read { key: key.to_owned(), position, length, answer }).await
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<(), ObjectError> {
        self.ask("remove", key, |answer| ObjectCall::Remove { key: key.to_owned(), answer }).await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.ask("list", prefix, |answer| ObjectCall::List { prefix: prefix.to_owned(), answer }).await
    }
}

impl Upload {
    pub(crate) async fn add(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        if self.pieces.send(bytes).await.is_ok() {
            return Ok(());
        }
        // Nobody takes pieces any more: the answer says why.
        Err(match self.done.recv().await {
            Ok(Err(error)) => error,
            _ => stopping("write", &self.key),
        })
    }

    pub(crate) async fn finish(self) -> Result<(), ObjectError> {
        let Self { key, pieces, done } = self;
        drop(pieces);
        done.recv().await.unwrap_or_else(|_| Err(stopping("write", &key)))
    }
}

fn stopping(operation: &'static str, key: &str) -> ObjectError {
    let message = "the broker is stopping".to_owned();
    ObjectError { operation, key: key.to_owned(), kind: ObjectErrorKind::Unavailable, message }
}

/// Where objects go: `object.store.url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectLocation {
    Directory(PathBuf),
    /// `prefix` has no slash at its ends, and may be empty.
    Bucket {
        bucket: String,
        prefix: String,
    },
}

impl ObjectLocation {
    /// Reads `file:///DIRECTORY` or `s3://BUCKET/PREFIX`.
    pub fn parse(url: &str) -> Option<Self> {
        let plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter));
        if let Some(path) = url.strip_prefix("file://") {
            return (path.starts_with('/') && !path.contains('\0')).then(|| Self::Directory(PathBuf::from(path)));
        }
        let (bucket, prefix) = url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
        let prefix = prefix.trim_matches('/');
        let is_prefix = plain(prefix) && prefix.split('/').all(|part| part != "." && part != "..");
        (!bucket.is_empty() && plain(bucket) && is_prefix)
            .then(|| Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_store_is_a_directory_or_a_bucket() {
        let bucket = |bucket: &str, prefix: &str| {
            Some(ObjectLocation::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        assert_eq!(ObjectLocation::parse("file:///var/lib/x"), Some(ObjectLocation::Directory("/var/lib/x".into())));
        assert_eq!(ObjectLocation::parse("s3://logs"), bucket("logs", ""));
        assert_eq!(ObjectLocation::parse("s3://logs/tide/gate/"), bucket("logs", "tide/gate"));
        for bad in ["", "file://relative", "s3://", "s3:///x", "http://x", "s3://b/..", "s3://b/a b", "/var/lib"] {
            assert_eq!(ObjectLocation::parse(bad), None, "{bad}");
        }
    }
}
