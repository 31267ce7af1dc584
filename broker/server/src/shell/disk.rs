//! [`Disk`] over io_uring: what storage asks of a disk, on its thread's ring.
//!
//! - A commit of one small write is one operation, a write that is itself durable (`RWF_DSYNC`). A larger one is written in
//!   parallel pieces of at most 256 KiB and then flushed once; where one flush of the device is not known to hold
//!   for all files (anything but ext4 and XFS on one block device), every touched file is flushed.
//! - What may take long goes through the ring: besides sync, rename and remove also making files and directories, for which ext4
//!   needs a millisecond each where many were removed within the last minutes. Listing and asking for lengths are plain calls of some
//!   microseconds.
//! - A file system that refuses `O_DIRECT` (tmpfs, some overlays) gets buffered I/O instead, and [`UringDisk::is_direct`] says so.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use tidegate_storage::{
    disk::{Access, AlignedBuffer, BLOCK_BYTES, Disk, DiskError, DiskErrorKind, Flush, Write},
    objects::{ObjectError, Objects},
};

use crate::{
    metrics::ShardMetrics,
    objects::{ObjectClient, Upload},
    shell::{
        operation::{Completed, Failure, OpenFile, Operation, Sync},
        reactor::Reactor,
        runtime,
    },
};

/// Writes are split into pieces of this size, which the device takes in parallel: one of 2 MiB ran at a third of the speed.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// The same of writes that nobody waits for: fewer requests cost the processor less.
const BACKGROUND_WRITE_BYTES_MAX: usize = 1024 * 1024;
/// One read asks for at most this much.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Kept at the top of the data directory and given up, a step at a time, when a small file finds the disk full: deleting records and segments,
/// which makes room, needs some first.
const RESERVE_FILE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;
/// More than a manifest takes, and too little for records to be written in its place. A deletion of records needs two.
const RESERVE_STEP_BYTES: u64 = 64 << 10;
/// It is made again only where so many times its size are free.
const RESERVE_SHARE: u64 = 16;

/// Makes the reserve of a data directory, where it is not whole and there is room.
///
/// # Errors
/// The file could not be made; it is tried again later.
pub(crate) fn keep_reserve(root: &Path) -> io::Result<()> {
    let path = root.join(RESERVE_FILE);
    let is_whole = fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= RESERVE_BYTES);
    if is_whole || free_bytes(root)? < RESERVE_BYTES * RESERVE_SHARE {
        return Ok(());
    }
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    // SAFETY: allocates blocks for an open file; no pointers are passed.
    let refused = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, RESERVE_BYTES.cast_signed()) };
    if refused != 0 {
        fs::remove_file(&path)?;
        return Err(io::Error::from_raw_os_error(refused));
    }
    Ok(())
}

/// What is fixed for a disk at start-up.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// The data directory; all paths are relative to it.
    pub root: PathBuf,
    /// Whether one flush of the device holds for all files of the directory: see `startup_check`.
    pub one_flush_for_all_files: bool,
    /// The object store beside it.
    pub objects: ObjectClient,
}

/// A shard's disk. Clones share the ring; it lives on one thread.
#[derive(Clone)]
pub struct UringDisk {
    shared: Rc<Shared>,
}

struct Shared {
    reactor: Rc<Reactor>,
    options: DiskOptions,
    metrics: Arc<ShardMetrics>,
    /// Cleared when the file system refuses `O_DIRECT`.
    direct: Cell<bool>,
}

/// A file open on a [`UringDisk`].
#[derive(Clone, Debug)]
pub struct DiskFile(Rc<OpenFile>);

impl UringDisk {
    /// A disk on the ring of this thread, which runs a [`runtime::Runtime`].
    pub fn new(options: DiskOptions, metrics: Arc<ShardMetrics>) -> Self {
        let reactor = runtime::reactor();
        Self { shared: Rc::new(Shared { reactor, options, metrics, direct: Cell::new(true) }) }
    }

    /// Whether files that asked for it bypass the page cache; true until a file system has refused it.
    pub fn is_direct(&self) -> bool {
        self.shared.direct.get()
    }

    /// The path below the data directory. Storage names its files itself, so anything else is our own mistake.
    fn full_path(&self, path: &Path) -> PathBuf {
        assert!(
            path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)),
            "paths are relative to the data directory and stay in it: {}",
            path.display()
        );
        self.shared.options.root.join(path)
    }

    fn fail(&self, operation: &'static str, path: &Path, failure: Failure) -> DiskError {
        // Asking for a file that may not be there is no fault.
        if failure != Failure::Errno(libc::ENOENT) {
            self.shared.metrics.disk_errors.add(1);
        }
        let (kind, message) = match failure {
            Failure::Errno(errno) => (kind(errno), io::Error::from_raw_os_error(errno).to_string()),
            Failure::Short { expected, written } => {
                // The kernel writes what fits and reports an error only with the next try. Asking for the space tells which it was.
                let needed = u64::from(expected - written.min(expected));
                let full = free_bytes(&self.shared.options.root).is_ok_and(|free| free < needed.max(1 << 20));
                let kind = if full { DiskErrorKind::Full } else { DiskErrorKind::Other };
                (kind, format!("{written} of {expected} bytes written"))
            }
        };
        DiskError { operation, path: path.to_path_buf(), kind, message }
    }

    fn fail_io(&self, operation: &'static str, path: &Path, error: &io::Error) -> DiskError {
        match error.raw_os_error() {
            Some(errno) => self.fail(operation, path, Failure::Errno(errno)),
            None => {
                self.shared.metrics.disk_errors.add(1);
                let kind = DiskErrorKind::Other;
                DiskError { operation, path: path.to_path_buf(), kind, message: error.to_string() }
            }
        }
    }

    /// Whether there was something of the reserve left, of which a step is free now.
    fn give_up_reserve(&self) -> bool {
        let path = self.shared.options.root.join(RESERVE_FILE);
        let cut = || -> io::Result<u64> {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            let bytes = file.metadata()?.len();
            file.set_len(bytes.saturating_sub(RESERVE_STEP_BYTES))?;
            Ok(bytes)
        };
        let bytes = cut().unwrap_or(0);
        if bytes == RESERVE_BYTES {
            tracing::warn!("the disk is full: the last {} KiB are used to delete records", RESERVE_BYTES >> 10);
        }
        bytes > 0
    }

    async fn replace_once(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        let path = self.full_path(path);
        let mut name = path.file_name().expect("a file has a name").to_os_string();
        name.push(".new");
        let temporary = path.with_file_name(name);
        let file = self.open_file(temporary.clone(), libc::O_CREAT | libc::O_TRUNC, Access::Buffered).await?;
        if !content.is_empty() {
            let bytes = content.to_vec();
            self.run(Operation::WriteBytes { file: Rc::clone(&file.0), position: 0, bytes }).await?;
        }
        self.sync(&file).await?;
        self.rename_full(&temporary, &path).await
    }

    /// The completed operations, or the error of the first that failed.
    fn check(&self, completed: Completed) -> Result<Completed, DiskError> {
        match completed.failure {
            None => Ok(completed),
            Some((number, failure)) => {
                let operation = &completed.operations[number];
                Err(self.fail(operation.name(), &operation.path(), failure))
            }
        }
    }

    fn count_object<T>(&self, done: Result<T, ObjectError>) -> Result<T, ObjectError> {
        if done.is_err() {
            self.shared.metrics.object_errors.add(1);
        }
        done
    }

    async fn run(&self, operation: Operation) -> Result<Completed, DiskError> {
        self.check(self.shared.reactor.start(operation).await)
    }

    /// Opens for reading and writing; `flags` are those of open(2) beside that.
    async fn open_file(&self, path: PathBuf, mut flags: libc::c_int, access: Access) -> Result<DiskFile, DiskError> {
        flags |= libc::O_RDWR;
        if access == Access::Direct && self.shared.direct.get() {
            match self.open_descriptor(&path, flags | libc::O_DIRECT).await {
                Ok(descriptor) => return Ok(DiskFile(Rc::new(OpenFile::new(descriptor, path, true)))),
                Err(Failure::Errno(libc::EINVAL)) => {
                    tracing::warn!(
                        path = %path.display(),
                        "the file system refuses O_DIRECT: using the page cache, which costs throughput and memory"
                    );
                    self.shared.direct.set(false);
                    // A refused open with O_CREAT may have left the file behind.
                    flags &= !libc::O_EXCL;
                }
                Err(failure) => return Err(self.fail("open", &path, failure)),
            }
        }
        let descriptor =
            self.open_descriptor(&path, flags).await.map_err(|failure| self.fail("open", &path, failure))?;
        Ok(DiskFile(Rc::new(OpenFile::new(descriptor, path, false))))
    }

    async fn open_descriptor(&self, path: &Path, flags: libc::c_int) -> Result<OwnedFd, Failure> {
        let open = Operation::Open { path: c_path(path), flags, opened: None };
        let completed = self.shared.reactor.start(open).await;
        if let Some((_, failure)) = completed.failure {
            return Err(failure);
        }
        match completed.operations.into_iter().next() {
            Some(Operation::Open { opened: Some(descriptor), .. }) => Ok(descriptor),
            _ => unreachable!("an open that succeeded has its descriptor"),
        }
    }

    /// Makes the entries of the directory that holds `path` durable.
    async fn sync_directory_of(&self, path: &Path) -> Result<(), DiskError> {
        let directory = path.parent().unwrap_or(&self.shared.options.root);
        let descriptor = self
            .open_descriptor(directory, libc::O_RDONLY | libc::O_DIRECTORY)
            .await
            .map_err(|failure| self.fail("open", directory, failure))?;
        let file = Rc::new(OpenFile::new(descriptor, directory.to_path_buf(), false));
        self.run(Operation::SyncAll { file }).await?;
        Ok(())
    }

    async fn rename_full(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.run(Operation::Rename { from: c_path(from), to: c_path(to) }).await?;
        self.sync_directory_of(to).await?;
        if from.parent() != to.parent() {
            self.sync_directory_of(from).await?;
        }
        Ok(())
    }

    /// The files to flush after `writes`, each once.
    fn files_to_flush(&self, writes: &[Write<DiskFile>]) -> Vec<Rc<OpenFile>> {
        if self.shared.options.one_flush_for_all_files {
            return writes.first().map(|write| Rc::clone(&write.file.0)).into_iter().collect();
        }
        let files: BTreeMap<i32, Rc<OpenFile>> =
            writes.iter().map(|write| (write.file.0.descriptor.as_raw_fd(), Rc::clone(&write.file.0))).collect();
        files.into_values().collect()
    }
}

impl Objects for UringDisk {
    type Upload = Upload;

    async fn begin_object(&self, key: &str, length: u64) -> Result<Upload, ObjectError> {
        self.count_object(self.shared.options.objects.begin(key, length))
    }

    async fn add_to_object(&self, upload: &mut Upload, bytes: Bytes) -> Result<(), ObjectError> {
        let length = bytes.len() as u64;
        self.count_object(upload.add(bytes).await)?;
        self.shared.metrics.object_write_bytes.add(length);
        Ok(())
    }

    async fn finish_object(&self, upload: Upload) -> Result<(), ObjectError> {
        self.count_object(upload.finish().await)
    }

    async fn read_object(&self, key: &str, position: u64, length: usize) -> Result<Bytes, ObjectError> {
        let started = Instant::now();
        let bytes = self.count_object(self.shared.options.objects.read(key, position, length).await)?;
        self.shared.metrics.object_read_latency.record_latency(started.elapsed());
        self.shared.metrics.object_read_bytes.add(bytes.len() as u64);
        Ok(bytes)
    }

    async fn remove_object(&self, key: &str) -> Result<(), ObjectError> {
        self.count_object(self.shared.options.objects.remove(key).await)
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        self.count_object(self.shared.options.objects.list(prefix).await)
    }
}

impl Disk for UringDisk {
    type File = DiskFile;

    async fn open(&self, path: &Path, access: Access) -> Result<DiskFile, DiskError> {
        self.open_file(self.full_path(path), 0, access).await
    }

    async fn create(&self, path: &Path, access: Access) -> Result<DiskFile, DiskError> {
        let path = self.full_path(path);
        let file = self.open_file(path.clone(), libc::O_CREAT | libc::O_EXCL, access).await?;
        self.sync_directory_of(&path).await?;
        Ok(file)
    }

    async fn read(&self, file: &DiskFile, position: u64, length: usize) -> Result<Bytes, DiskError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let block = BLOCK_BYTES as u64;
        let start = position / block * block;
        let skipped = (position - start) as usize;
        let mut buffer = AlignedBuffer::uncleared(skipped + length);
        let wanted = buffer.len();
        let mut filled = 0;
        while filled < wanted {
            // Pieces in order: a read that ends early ends the file, and nothing behind it need be asked for.
            let end = wanted.min(filled + READ_BYTES_MAX);
            let mut piece = AlignedBuffer::with_capacity(0);
            std::mem::swap(&mut piece, &mut buffer);
            let operation = Operation::Read {
                file: Rc::clone(&file.0),
                position: start + filled as u64,
                buffer: piece,
                filled,
                length: end - filled,
            };
            let completed = self.run(operation).await?;
            let transferred = completed.transferred;
            let Some(Operation::Read { buffer: piece, .. }) = completed.operations.into_iter().next() else {
                unreachable!("a read comes back as it was started");
            };
            buffer = piece;
            filled += transferred;
            // O_DIRECT goes on from whole blocks only; what ends between them ends the file.
            if transferred == 0 || (file.0.direct && !transferred.is_multiple_of(BLOCK_BYTES)) {
                break;
            }
        }
        self.shared.metrics.disk_read_bytes.add(filled as u64);
        let available = filled.saturating_sub(skipped).min(length);
        Ok(buffer.share().bytes().slice(skipped.min(filled)..skipped.min(filled) + available))
    }

    async fn commit(&self, writes: Vec<Write<DiskFile>>, flush: Flush) -> Result<(), DiskError> {
        let started = Instant::now();
        let bytes: usize = writes.iter().map(|write| write.range.len()).sum();
        if bytes == 0 {
            return Ok(());
        }
        let piece = if flush == Flush::Durable { WRITE_BYTES_MAX } else { BACKGROUND_WRITE_BYTES_MAX };
        let pieces: usize = writes.iter().map(|write| write.range.len().div_ceil(piece)).sum();
        // A device may make such a write durable without those before it (FUA), so there must be none that are not.
        let alone = pieces == 1 && writes.iter().all(|write| write.file.0.is_synced());
        let sync = if flush == Flush::Durable && alone { Sync::Data } else { Sync::No };
        if sync == Sync::No {
            for Write { file, .. } in &writes {
                file.0.unsynced.set(file.0.unsynced.get() + 1);
            }
        }
        let mut operations = Vec::with_capacity(pieces + 1);
        for Write { file, position, buffer, range } in &writes {
            for start in range.clone().step_by(piece) {
                operations.push(Operation::Write {
                    file: Rc::clone(&file.0),
                    position: position + (start - range.start) as u64,
                    buffer: Arc::clone(buffer),
                    start,
                    length: piece.min(range.end - start),
                    sync,
                });
            }
        }
        let reactor = &self.shared.reactor;
        if flush == Flush::Written || sync == Sync::Data {
            self.check(reactor.start_all(operations).await)?;
        } else {
            let flushed = self.files_to_flush(&writes);
            // One round is in flight at a time on a file, so the flush covers all that were counted until now.
            let covered: Vec<_> = flushed.iter().map(|file| (Rc::clone(file), file.unsynced.get())).collect();
            self.check(reactor.start_all(operations).await)?;
            let flush = flushed.into_iter().map(|file| Operation::SyncData { file }).collect();
            self.check(reactor.start_all(flush).await)?;
            for (file, count) in covered {
                file.synced.set(count);
            }
        }
        let metrics = &self.shared.metrics;
        metrics.disk_write_bytes.add(bytes as u64);
        if flush == Flush::Durable {
            metrics.sync_latency.record_latency(started.elapsed());
        }
        Ok(())
    }

    async fn sync(&self, file: &DiskFile) -> Result<(), DiskError> {
        let started = Instant::now();
        let covered = file.0.unsynced.get();
        self.run(Operation::SyncData { file: Rc::clone(&file.0) }).await?;
        file.0.synced.set(covered);
        self.shared.metrics.sync_latency.record_latency(started.elapsed());
        Ok(())
    }

    async fn length(&self, file: &DiskFile) -> Result<u64, DiskError> {
        let error = |error: io::Error| self.fail_io("stat", &file.0.path, &error);
        let std_file = file_of(&file.0).map_err(error)?;
        Ok(std_file.metadata().map_err(error)?.len())
    }

    async fn set_length(&self, file: &DiskFile, length: u64) -> Result<(), DiskError> {
        let error = |error: io::Error| self.fail_io("truncate", &file.0.path, &error);
        file_of(&file.0).map_err(error)?.set_len(length).map_err(error)
    }

    async fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        loop {
            match self.replace_once(path, content).await {
                // Others may have been faster.
                Err(error) if error.kind == DiskErrorKind::Full && self.give_up_reserve() => {}
                done => return done,
            }
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.rename_full(&self.full_path(from), &self.full_path(to)).await
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let path = self.full_path(path);
        let completed = self.shared.reactor.start(Operation::Remove { path: c_path(&path) }).await;
        if matches!(completed.failure, Some((_, Failure::Errno(libc::ENOENT)))) {
            return Ok(());
        }
        self.check(completed)?;
        Ok(())
    }

    async fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        let mut missing = Vec::new();
        let mut next = self.full_path(path);
        while next != self.shared.options.root && !next.is_dir() {
            missing.push(next.clone());
            let Some(parent) = next.parent() else { break };
            next = parent.to_path_buf();
        }
        for directory in missing.into_iter().rev() {
            let completed = self.shared.reactor.start(Operation::CreateDirectory { path: c_path(&directory) }).await;
            // Another shard may be creating a parent that both need.
            let is_there = matches!(completed.failure, Some((_, Failure::Errno(libc::EEXIST)))) && directory.is_dir();
            if !is_there {
                self.check(completed)?;
            }
            self.sync_directory_of(&directory).await?;
        }
        Ok(())
    }

    async fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        let path = self.full_path(path);
        let completed = self.shared.reactor.start(Operation::RemoveDirectory { path: c_path(&path) }).await;
        if matches!(completed.failure, Some((_, Failure::Errno(libc::ENOENT)))) {
            return Ok(());
        }
        self.check(completed)?;
        self.sync_directory_of(&path).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let path = self.full_path(path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.fail_io("list", &path, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.fail_io("list", &path, &error))?;
            // Our own names are ASCII; what is not, is not ours and is left alone.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn bytes_free(&self) -> Result<u64, DiskError> {
        let root = &self.shared.options.root;
        free_bytes(root).map_err(|error| self.fail_io("statvfs", root, &error))
    }

    async fn yield_now(&self) {
        futures_lite::future::yield_now().await;
    }
}

/// A duplicate of the descriptor with the standard library's methods.
fn file_of(file: &OpenFile) -> io::Result<fs::File> {
    Ok(file.descriptor.as_fd().try_clone_to_owned()?.into())
}

/// Bytes that an unprivileged process may still write on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = c_path(path);
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string, `found` has room for the result; it is read only after the call has succeeded.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        found.assume_init()
    };
    Ok(found.f_bavail * found.f_frsize)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("our own names and a checked data directory have no NUL")
}

fn kind(errno: i32) -> DiskErrorKind {
    match errno {
        libc::ENOENT => DiskErrorKind::NotFound,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => DiskErrorKind::Full,
        libc::EROFS | libc::EACCES | libc::EPERM => DiskErrorKind::ReadOnly,
        _ => DiskErrorKind::Other,
    }
}

#[cfg(test)]
mod tests;
