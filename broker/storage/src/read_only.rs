//! Plain files that are only read: for looking at a data directory whose broker is stopped.
//!
//! The one blocking [`Disk`]: every future is ready when it is first polled, so [`block_on`] is all the executor that it needs.

use std::{
    fmt,
    fs::{self, File},
    future::Future,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::{
    disk::{Access, Disk, DiskError, DiskErrorKind, Flush, Write},
    objects::{ObjectError, ObjectErrorKind, Objects},
};

/// The files below a directory. What would write is refused with [`DiskErrorKind::ReadOnly`].
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk {
    root: Rc<PathBuf>,
}

/// An open file and its path within the data directory.
#[derive(Clone)]
pub struct ReadOnlyFile(Rc<(PathBuf, File)>);

impl fmt::Debug for ReadOnlyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyFile({})", self.0.0.display())
    }
}

impl ReadOnlyDisk {
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: Rc::new(root.to_path_buf()) }
    }
}

fn failed(operation: &'static str, path: &Path, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => DiskErrorKind::NotFound,
        _ => DiskErrorKind::Other,
    };
    DiskError { operation, path: path.to_path_buf(), kind, message: error.to_string() }
}

fn refused(operation: &'static str, path: &Path) -> DiskError {
    let message = "the directory is only looked at".to_owned();
    DiskError { operation, path: path.to_path_buf(), kind: DiskErrorKind::ReadOnly, message }
}

fn no_objects<T>(operation: &'static str, key: &str) -> Result<T, ObjectError> {
    let message = "only the files of the data directory are looked at".to_owned();
    Err(ObjectError { operation, key: key.to_owned(), kind: ObjectErrorKind::NotConfigured, message })
}

impl Objects for ReadOnlyDisk {
    type Upload = ();

    async fn begin_object(&self, key: &str, _length: u64) -> Result<(), ObjectError> {
        no_objects("write", key)
    }

    async fn add_to_object(&self, _upload: &mut (), _bytes: Bytes) -> Result<(), ObjectError> {
        no_objects("write", "")
    }

    async fn finish_object(&self, _upload: ()) -> Result<(), ObjectError> {
        no_objects("write", "")
    }

    async fn read_object(&self, key: &str, _position: u64, _length: usize) -> Result<Bytes, ObjectError> {
        no_objects("read", key)
    }

    async fn remove_object(&self, key: &str) -> Result<(), ObjectError> {
        no_objects("remove", key)
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        no_objects("list", prefix)
    }
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;

    async fn open(&self, path: &Path, _access: Access) -> Result<ReadOnlyFile, DiskError> {
        let file = File::open(self.root.join(path)).map_err(|error| failed("open", path, &error))?;
        Ok(ReadOnlyFile(Rc::new((path.to_path_buf(), file))))
    }

    async fn create(&self, path: &Path, _access: Access) -> Result<ReadOnlyFile, DiskError> {
        Err(refused("create", path))
    }

    async fn read(&self, file: &ReadOnlyFile, position: u64, length: usize) -> Result<Bytes, DiskError> {
        let (path, file) = &*file.0;
        // What a damaged length asks for is not allocated: a file cannot give more than it has.
        let left = file.metadata().map_err(|error| failed("read", path, &error))?.len().saturating_sub(position);
        let mut bytes = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, position).map_err(|error| failed("read", path, &error))?;
        Ok(bytes.into())
    }

    async fn commit(&self, writes: Vec<Write<ReadOnlyFile>>, _flush: Flush) -> Result<(), DiskError> {
        match writes.first() {
            Some(write) => Err(refused("write", &write.file.0.0)),
            None => Ok(()),
        }
    }

    async fn sync(&self, file: &ReadOnlyFile) -> Result<(), DiskError> {
        Err(refused("sync", &file.0.0))
    }

    async fn length(&self, file: &ReadOnlyFile) -> Result<u64, DiskError> {
        let (path, file) = &*file.0;
        Ok(file.metadata().map_err(|error| failed("read", path, &error))?.len())
    }

    async fn set_length(&self, file: &ReadOnlyFile, _length: u64) -> Result<(), DiskError> {
        Err(refused("resize", &file.0.0))
    }

    async fn replace(&self, path: &Path, _content: &[u8]) -> Result<(), DiskError> {
        Err(refused("write", path))
    }

    async fn rename(&self, from: &Path, _to: &Path) -> Result<(), DiskError> {
        Err(refused("rename", from))
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("remove", path))
    }

    async fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("create", path))
    }

    async fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("remove", path))
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let entries = match fs::read_dir(self.root.join(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", path, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed("list", path, &error))?.file_name();
            // No name of ours is anything but ASCII.
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn bytes_free(&self) -> Result<u64, DiskError> {
        Ok(0)
    }

    async fn yield_now(&self) {}
}

/// Runs what uses a [`ReadOnlyDisk`].
///
/// # Panics
/// When `future` waits for anything else.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("nothing that reads plain files has to wait"),
    }
}
