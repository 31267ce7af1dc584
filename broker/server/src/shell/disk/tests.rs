use std::{future::Future, sync::Arc};

use tempfile::TempDir;

use super::*;
use crate::shell::runtime::Runtime;

/// Runs `test` in an executor on a fresh directory.
fn with_disk<T: 'static, F: Future<Output = T> + 'static>(
    one_flush: bool,
    test: impl FnOnce(UringDisk, PathBuf) -> F + 'static,
) -> T {
    let directory = TempDir::new().expect("a temporary directory");
    let root = directory.path().to_path_buf();
    Runtime::new().expect("io_uring is to be had").run(async move {
        let options =
            DiskOptions { root: root.clone(), one_flush_for_all_files: one_flush, objects: ObjectClient::default() };
        test(UringDisk::new(options, Arc::default()), root).await
    })
}

fn pattern(seed: usize, bytes: usize) -> Arc<AlignedBuffer> {
    let mut buffer = AlignedBuffer::with_capacity(bytes);
    let content: Vec<u8> = (0..bytes).map(|index| ((index * 31 + seed * 7 + index / 4096) % 251) as u8).collect();
    buffer.extend_from_slice(&content);
    buffer.share()
}

fn write(file: &DiskFile, position: u64, buffer: &Arc<AlignedBuffer>) -> Write<DiskFile> {
    Write { file: file.clone(), position, buffer: Arc::clone(buffer), range: 0..buffer.len() }
}

#[test]
fn what_was_committed_is_read_back_at_any_alignment() {
    with_disk(true, |disk, _directory| async move {
        let path = Path::new("file");
        let file = disk.create(path, Access::Direct).await.unwrap();
        let buffer = pattern(1, 5 << 20);
        disk.commit(vec![write(&file, 0, &buffer)], Flush::Durable).await.unwrap();
        assert_eq!(disk.length(&file).await.unwrap(), 5 << 20);
        let end = buffer.len();
        for (position, length) in [
            (0, 1),
            (0, 4096),
            (1, 4096),
            (4095, 2),
            (4096, 1 << 20),
            (777, 3 << 20),
            (end - 5, 5),
            (end - 5, 50),
            (end, 9),
        ] {
            let read = disk.read(&file, position as u64, length).await.unwrap();
            let expected = &buffer.as_slice()[position..end.min(position + length)];
            assert!(read == expected, "{position} {length}: {} of {} bytes", read.len(), expected.len());
        }
        assert!(disk.read(&file, 1 << 40, 100).await.unwrap().is_empty());
        assert!(disk.read(&file, 3, 0).await.unwrap().is_empty());
    });
}

#[test]
fn a_file_that_ends_between_blocks_is_read_to_its_end() {
    with_disk(true, |disk, _directory| async move {
        disk.replace(Path::new("small"), &[5; 5000]).await.unwrap();
        for access in [Access::Direct, Access::Buffered] {
            let file = disk.open(Path::new("small"), access).await.unwrap();
            assert_eq!(disk.read(&file, 0, 10_000).await.unwrap(), [5; 5000].as_slice());
            assert_eq!(disk.read(&file, 4990, 100).await.unwrap(), [5; 10].as_slice());
            assert!(disk.read(&file, 5001, 100).await.unwrap().is_empty());
        }
    });
}

#[test]
fn many_files_are_committed_in_one_round() {
    for one_flush in [true, false] {
        with_disk(one_flush, |disk, _directory| async move {
            let mut writes = Vec::new();
            let mut files = Vec::new();
            // More than the ring has entries, so that it is submitted in several calls.
            for number in 0..300_usize {
                let file = disk.create(Path::new(&format!("file-{number}")), Access::Direct).await.unwrap();
                let buffer = pattern(number, 4096 * (1 + number % 3));
                writes.push(write(&file, 0, &buffer));
                files.push((file, buffer));
            }
            disk.commit(writes, Flush::Durable).await.unwrap();
            for (file, buffer) in files {
                assert_eq!(disk.read(&file, 0, buffer.len()).await.unwrap(), buffer.as_slice());
            }
            assert_eq!(disk.shared.metrics.sync_latency.read(crate::metrics::HistogramUnit::Latency).count, 1);
        });
    }
}

#[test]
fn rounds_that_overlap_are_all_completed() {
    with_disk(true, |disk, _directory| async move {
        let file = disk.create(Path::new("journal"), Access::Direct).await.unwrap();
        let tasks: Vec<_> = (0..16_usize)
            .map(|number| {
                let (disk, file) = (disk.clone(), file.clone());
                runtime::spawn_local(async move {
                    let length = if number % 3 == 0 { 4096 } else { 600 * 1024 };
                    let buffer = pattern(number, length);
                    let position = (number << 20) as u64;
                    disk.commit(vec![write(&file, position, &buffer)], Flush::Durable).await.unwrap();
                    assert_eq!(disk.read(&file, position, length).await.unwrap(), buffer.as_slice());
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn a_dropped_commit_is_completed_and_its_buffer_kept() {
    with_disk(true, |disk, directory| async move {
        let file = disk.create(Path::new("file"), Access::Direct).await.unwrap();
        let buffer = pattern(3, 1 << 20);
        {
            let mut commit = Box::pin(disk.commit(vec![write(&file, 0, &buffer)], Flush::Durable));
            // Polled once, so that it is started, and dropped.
            assert!(futures_lite::future::poll_once(&mut commit).await.is_none());
        }
        // The ring holds the buffer until the kernel is done with it. Whatever comes later waits for it.
        disk.commit(vec![write(&file, 1 << 20, &buffer)], Flush::Durable).await.unwrap();
        drop((disk, file));
        assert!(fs::read(directory.join("file")).unwrap()[..1 << 20] == *buffer.as_slice());
        assert_eq!(Arc::strong_count(&buffer), 1);
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    with_disk(true, |disk, _directory| async move {
        let deep = Path::new("a/b/c");
        disk.create_directory(deep).await.unwrap();
        disk.create_directory(deep).await.unwrap();
        for name in ["2", "1"] {
            disk.replace(&deep.join(name), name.as_bytes()).await.unwrap();
        }
        assert_eq!(disk.list(deep).await.unwrap(), ["1", "2"]);
        assert!(disk.list(Path::new("nowhere")).await.unwrap().is_empty());
        disk.rename(&deep.join("1"), Path::new("a/moved")).await.unwrap();
        disk.replace(&deep.join("2"), b"again").await.unwrap();
        let file = disk.open(&deep.join("2"), Access::Buffered).await.unwrap();
        assert_eq!(disk.read(&file, 0, 10).await.unwrap(), b"again".as_slice());
        disk.remove(&deep.join("2")).await.unwrap();
        disk.remove(&deep.join("2")).await.unwrap();
        disk.remove_directory(deep).await.unwrap();
        disk.remove_directory(deep).await.unwrap();
        assert_eq!(disk.list(Path::new("a")).await.unwrap(), ["b", "moved"]);
        assert!(disk.bytes_free().await.unwrap() > 0);
    });
}

#[test]
fn a_length_is_set_and_read() {
    with_disk(true, |disk, _directory| async move {
        let file = disk.create(Path::new("file"), Access::Direct).await.unwrap();
        disk.set_length(&file, 1 << 20).await.unwrap();
        assert_eq!(disk.length(&file).await.unwrap(), 1 << 20);
        assert_eq!(disk.read(&file, 8192, 4096).await.unwrap(), [0; 4096].as_slice());
        disk.set_length(&file, 4096).await.unwrap();
        assert_eq!(disk.length(&file).await.unwrap(), 4096);
        disk.sync(&file).await.unwrap();
    });
}

#[test]
fn an_error_names_the_operation_the_file_and_the_kind() {
    with_disk(true, |disk, directory| async move {
        let check = |error: DiskError, operation: &str, name: &str, kind: DiskErrorKind| {
            assert_eq!((error.operation, error.kind), (operation, kind), "{error}");
            assert_eq!(error.path, directory.join(name));
        };
        let missing = disk.open(Path::new("missing"), Access::Direct).await.unwrap_err();
        check(missing, "open", "missing", DiskErrorKind::NotFound);
        disk.create(Path::new("there"), Access::Buffered).await.unwrap();
        let exists = disk.create(Path::new("there"), Access::Buffered).await.unwrap_err();
        check(exists, "open", "there", DiskErrorKind::Other);
        let rename = disk.rename(Path::new("missing"), Path::new("other")).await.unwrap_err();
        check(rename, "rename", "missing", DiskErrorKind::NotFound);
        // A device that takes no byte.
        std::os::unix::fs::symlink("/dev/full", directory.join("full")).unwrap();
        let full = disk.open(Path::new("full"), Access::Buffered).await.unwrap();
        for (flush, bytes) in [(Flush::Durable, 4096), (Flush::Durable, 1 << 20), (Flush::Written, 4096)] {
            let error = disk.commit(vec![write(&full, 0, &pattern(0, bytes))], flush).await.unwrap_err();
            check(error, "write", "full", DiskErrorKind::Full);
        }
        // What is merely missing does not count.
        assert_eq!(disk.shared.metrics.disk_errors.value(), 4);
    });
}

#[test]
fn a_failing_flush_wakes_who_waits_for_it() {
    with_disk(true, |disk, directory| async move {
        // A pipe cannot be flushed (EINVAL) and takes writes at position 0.
        let path = c_path(&directory.join("pipe"));
        // SAFETY: `path` is a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let pipe = disk.open(Path::new("pipe"), Access::Buffered).await.unwrap();
        let file = disk.create(Path::new("file"), Access::Direct).await.unwrap();
        let buffer = pattern(0, 4096);
        let writes = vec![write(&pipe, 0, &buffer), write(&file, 0, &buffer)];
        let error = disk.commit(writes, Flush::Durable).await.unwrap_err();
        assert_eq!((error.operation, error.kind), ("sync", DiskErrorKind::Other), "{error}");
        // The ring goes on.
        disk.commit(vec![write(&file, 0, &buffer), write(&file, 4096, &buffer)], Flush::Durable).await.unwrap();
    });
}
