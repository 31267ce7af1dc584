//! What the broker needs of the machine, asked before anything is opened, with the mend for what is missing.
//!
//! Needed: io_uring, `memlock` for the executors, open files. Reported and lived with: a file system without `O_DIRECT`, one where a
//! flush of one file does not make others durable, `memlock` below what registered buffers would like.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use io_uring::{IoUring, Probe, opcode};
use tidegate_storage::disk::{AlignedBuffer, BLOCK_BYTES};

/// What a shard's thread needs before it starts (glommio refuses below it).
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// File descriptors for everything that is neither a connection nor a log file: rings, sockets, the metadata log, plugins.
const OPEN_FILES_OWN: u64 = 256;

/// What the broker is about to use.
#[derive(Clone, Debug)]
pub struct Needs {
    pub data_directory: PathBuf,
    pub shards: u16,
    /// Memory that each executor registers with its rings, in bytes.
    pub registered_bytes_per_shard: u64,
    /// Log files and connections, as configured.
    pub open_files: u64,
}

/// What was found. Everything that the broker can live with but its operator should know is in `notices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupReport {
    pub file_system: FileSystem,
    /// Whether files bypass the page cache.
    pub direct_io: bool,
    /// Whether one flush of the device makes the writes of all files durable.
    pub one_flush_for_all_files: bool,
    /// The limit on open files after it was raised as far as it may be.
    pub open_files_max: u64,
    pub notices: Vec<Notice>,
}

/// The file systems that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
    Overlay,
    Other(i64),
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ext4 => f.write_str("ext4"),
            Self::Xfs => f.write_str("xfs"),
            Self::Btrfs => f.write_str("btrfs"),
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Overlay => f.write_str("overlayfs"),
            Self::Other(magic) => write!(f, "a file system of type {magic:#x}"),
        }
    }
}

/// Something that works less well than it could.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    #[error(
        "{file_system} refuses O_DIRECT in {}: writes go through the page cache, slower and with more memory. Put the data directory on \
         ext4 or xfs (in a container: on a volume, not in the image's layers)",
        path.display()
    )]
    NoDirectIo { path: PathBuf, file_system: FileSystem },
    #[error(
        "{} is on {file_system}, for which one flush is not known to make all files durable: every touched file is flushed, which is slower \
         with many partitions. Put the data directory on ext4 or xfs on one block device",
        path.display()
    )]
    FlushPerFile { path: PathBuf, file_system: FileSystem },
    #[error("{} is on tmpfs: nothing in it survives a restart of the machine", path.display())]
    NotPersistent { path: PathBuf },
    #[error(
        "the locked-memory limit is {limit} bytes, and registered buffers would like {wanted}: the executors go on without, a little slower. \
         Raise it: `ulimit -l {}`, in a systemd unit `LimitMEMLOCK={wanted}`, with Docker `--ulimit memlock={wanted}`",
        wanted.div_ceil(1024)
    )]
    LowMemlock { limit: u64, wanted: u64 },
    #[error(
        "the limit on open files is {limit}, and the configuration may need {wanted}: connections or log files are limited to what there is. \
         Raise it: `ulimit -n {wanted}`, in a systemd unit `LimitNOFILE={wanted}`, with Docker `--ulimit nofile={wanted}`, or lower \
         `open.files.max` and `max.connections`"
    )]
    LowOpenFiles { limit: u64, wanted: u64 },
}

/// Why the broker cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled={value}). Switch it on: `sysctl -w kernel.io_uring_disabled=0` \
         (and in /etc/sysctl.d/ to keep it){}",
        if *value == 1 { "; 1 lets only processes with CAP_SYS_ADMIN or in the group of kernel.io_uring_group use it" } else { "" }
    )]
    IoUringDisabled { value: u32 },
    #[error(
        "io_uring is not permitted to this process: a seccomp filter, as container engines have it, blocks it. With Docker or Podman: \
         `--security-opt seccomp=unconfined`, or a profile that allows io_uring_setup, io_uring_enter and io_uring_register; in Kubernetes \
         `securityContext.seccompProfile.type: Unconfined` or a Localhost profile; in a systemd unit `SystemCallFilter=@io-event`"
    )]
    IoUringBlocked,
    #[error(
        "this kernel ({kernel}) has no io_uring. Linux 5.19 or newer is needed; io_uring must not be compiled out (CONFIG_IO_URING)"
    )]
    IoUringMissing { kernel: String },
    #[error("this kernel ({kernel}) is too old: its io_uring lacks {missing}. Linux 5.19 or newer is needed")]
    KernelTooOld { kernel: String, missing: &'static str },
    #[error("io_uring cannot be set up: {source}")]
    IoUring { source: io::Error },
    #[error(
        "the locked-memory limit is {limit} bytes, and io_uring needs at least {MEMLOCK_BYTES_MIN}; this broker would like {wanted}. \
         Raise it: `ulimit -l {}`, in a systemd unit `LimitMEMLOCK={wanted}`, with Docker `--ulimit memlock={wanted}`, for a user \
         `* - memlock {}` in /etc/security/limits.conf",
        wanted.div_ceil(1024), wanted.div_ceil(1024)
    )]
    Memlock { limit: u64, wanted: u64 },
    #[error(
        "the limit on open files is {limit}, and the broker needs at least {needed} for itself. Raise it: `ulimit -n {needed}`, in a systemd \
         unit `LimitNOFILE={needed}`, with Docker `--ulimit nofile={needed}`"
    )]
    OpenFiles { limit: u64, needed: u64 },
    #[error(
        "the data directory {} is not writable: {source}. Give this user write access, remount the file system read-write, or name another \
         directory with --data-dir",
        path.display()
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("there is no room in the data directory {}. Free some space, or name another directory with --data-dir", path.display())]
    Full { path: PathBuf },
    #[error("cannot ask for {what}: {source}")]
    Ask { what: &'static str, source: io::Error },
}

/// Asks the machine for everything in `needs`. The data directory must exist.
///
/// # Errors
/// What the broker cannot run without, with the mend.
pub fn check(needs: &Needs) -> Result<StartupReport, StartupError> {
    check_io_uring()?;
    let mut notices = Vec::new();
    check_memlock(needs, &mut notices)?;
    let open_files_max = check_open_files(needs, &mut notices)?;
    let path = &needs.data_directory;
    let file_system = file_system(path)?;
    let direct_io = probe_direct_io(path)?;
    if !direct_io {
        notices.push(Notice::NoDirectIo { path: path.clone(), file_system });
    }
    let one_flush_for_all_files =
        matches!(file_system, FileSystem::Ext4 | FileSystem::Xfs) && on_one_block_device(path);
    if file_system == FileSystem::Tmpfs {
        notices.push(Notice::NotPersistent { path: path.clone() });
    } else if !one_flush_for_all_files {
        notices.push(Notice::FlushPerFile { path: path.clone(), file_system });
    }
    Ok(StartupReport { file_system, direct_io, one_flush_for_all_files, open_files_max, notices })
}

fn check_io_uring() -> Result<(), StartupError> {
    let uring: IoUring = match IoUring::builder().setup_coop_taskrun().build(8) {
        Ok(uring) => uring,
        Err(error) => return Err(explain_refusal(error, io_uring_disabled(), kernel_release())),
    };
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).map_err(|source| StartupError::IoUring { source })?;
    for (code, missing) in [
        (opcode::Write::CODE, "WRITE"),
        (opcode::Read::CODE, "READ"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::RenameAt::CODE, "RENAMEAT"),
        (opcode::UnlinkAt::CODE, "UNLINKAT"),
        (opcode::OpenAt::CODE, "OPENAT"),
        (opcode::MkDirAt::CODE, "MKDIRAT"),
    ] {
        if !probe.is_supported(code) {
            return Err(StartupError::KernelTooOld { kernel: kernel_release(), missing });
        }
    }
    Ok(())
}

/// Why setting up a ring failed. `disabled` is the value of `kernel.io_uring_disabled`, if the kernel has it.
fn explain_refusal(error: io::Error, disabled: Option<u32>, kernel: String) -> StartupError {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(value @ 1..)) => StartupError::IoUringDisabled { value },
        // Docker's default profile answers EPERM, Podman's and older ones ENOSYS.
        (Some(libc::EPERM | libc::EACCES), _) => StartupError::IoUringBlocked,
        (Some(libc::ENOSYS), Some(_)) => StartupError::IoUringBlocked,
        (Some(libc::ENOSYS), None) => StartupError::IoUringMissing { kernel },
        (Some(libc::EINVAL), _) => StartupError::KernelTooOld { kernel, missing: "COOP_TASKRUN" },
        _ => StartupError::IoUring { source: error },
    }
}

fn io_uring_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn check_memlock(needs: &Needs, notices: &mut Vec<Notice>) -> Result<(), StartupError> {
    let (limit, _) = resource_limit(libc::RLIMIT_MEMLOCK)?;
    // A ring's own memory is a few tens of KiB; each thread has one, and glommio three that it hardly uses.
    let wanted = u64::from(needs.shards) * (needs.registered_bytes_per_shard + MEMLOCK_BYTES_MIN);
    if limit < MEMLOCK_BYTES_MIN {
        return Err(StartupError::Memlock { limit, wanted: wanted.max(MEMLOCK_BYTES_MIN) });
    }
    if limit < wanted && !may_lock_memory() {
        notices.push(Notice::LowMemlock { limit, wanted });
    }
    Ok(())
}

/// The cores that this process may run on, in order; at least one.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: all-zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` has room for the size that is given, for the duration of the call.
    let asked = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    let size = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `cpu` is below CPU_SETSIZE, the capacity of the set.
    let cpus: Vec<usize> = (0..size).filter(|cpu| asked == 0 && unsafe { libc::CPU_ISSET(*cpu, &set) }).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// How many log files and connections there may be under the limit on open files that was found. Log files get at most half.
pub fn share_open_files(limit: u64, log_files_wanted: u64, connections_wanted: u64) -> (u64, u64) {
    let budget = limit.saturating_sub(OPEN_FILES_OWN).max(2);
    let log_files = log_files_wanted.min((budget / 2).max(budget.saturating_sub(connections_wanted)));
    (log_files, connections_wanted.min(budget - log_files))
}

/// Whether the process has CAP_IPC_LOCK, for which the limit does not hold.
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).is_some_and(|caps| caps & CAP_IPC_LOCK != 0)
}

/// Raises the soft limit on open files as far as the hard one, or as needed, and returns it.
fn check_open_files(needs: &Needs, notices: &mut Vec<Notice>) -> Result<u64, StartupError> {
    let (soft, hard) = resource_limit(libc::RLIMIT_NOFILE)?;
    let wanted = needs.open_files.saturating_add(OPEN_FILES_OWN);
    let mut limit = soft;
    if soft < wanted && soft < hard {
        let raised = wanted.min(hard);
        let new = libc::rlimit { rlim_cur: raised, rlim_max: hard };
        // SAFETY: `new` is a valid limit for the duration of the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const new) } == 0 {
            limit = raised;
        }
    }
    if limit < OPEN_FILES_OWN {
        return Err(StartupError::OpenFiles { limit, needed: OPEN_FILES_OWN });
    }
    if limit < wanted {
        notices.push(Notice::LowOpenFiles { limit, wanted });
    }
    Ok(limit)
}

/// The soft and the hard limit.
fn resource_limit(resource: libc::__rlimit_resource_t) -> Result<(u64, u64), StartupError> {
    let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `found` has room for the result for the duration of the call.
    if unsafe { libc::getrlimit(resource, &raw mut found) } != 0 {
        return Err(StartupError::Ask { what: "a resource limit", source: io::Error::last_os_error() });
    }
    Ok((found.rlim_cur, found.rlim_max))
}

fn file_system(path: &Path) -> Result<FileSystem, StartupError> {
    use std::os::unix::ffi::OsStrExt as _;
    let ask = |source| StartupError::Ask { what: "the type of the file system", source };
    let c_path = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|error| ask(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `c_path` is a C string, `found` has room for the result; it is read only after the call has succeeded.
    let magic = unsafe {
        if libc::statfs(c_path.as_ptr(), found.as_mut_ptr()) != 0 {
            return Err(ask(io::Error::last_os_error()));
        }
        found.assume_init().f_type
    };
    Ok(match magic {
        libc::EXT4_SUPER_MAGIC => FileSystem::Ext4,
        libc::XFS_SUPER_MAGIC => FileSystem::Xfs,
        libc::BTRFS_SUPER_MAGIC => FileSystem::Btrfs,
        libc::TMPFS_MAGIC => FileSystem::Tmpfs,
        libc::OVERLAYFS_SUPER_MAGIC => FileSystem::Overlay,
        other => FileSystem::Other(other),
    })
}

/// Whether the file system of `path` is on one block device: a disk, a partition, or a device mapper or RAID device that is made of
/// one. A flush of a device made of several reaches all of them, but promises no order between them.
fn on_one_block_device(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    let device = metadata.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let mut slaves = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/slaves"));
    if !slaves.parent().is_some_and(Path::exists) {
        // Without sysfs (some sandboxes) the type of the file system has to do: ext4 and XFS have one device each.
        return major != 0;
    }
    loop {
        let mut below = match fs::read_dir(&slaves) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
            Err(_) => return true,
        };
        match (below.pop(), below.pop()) {
            (None, _) => return true,
            (Some(only), None) => slaves = only.join("slaves"),
            (Some(_), Some(_)) => return false,
        }
    }
}

/// Whether a file in `directory` takes `O_DIRECT` writes. Leaves nothing behind.
fn probe_direct_io(directory: &Path) -> Result<bool, StartupError> {
    let path = directory.join(".tidegate-direct-io");
    let not_writable = |source: io::Error| {
        if source.kind() == io::ErrorKind::StorageFull {
            StartupError::Full { path: directory.to_path_buf() }
        } else {
            StartupError::NotWritable { path: directory.to_path_buf(), source }
        }
    };
    // First without: so that a directory that is not writable is told apart.
    fs::File::create(&path).map_err(not_writable)?;
    let block = AlignedBuffer::zeroed(BLOCK_BYTES);
    let written = fs::File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .and_then(|mut file| file.write_all(block.as_slice()));
    let removed = fs::remove_file(&path);
    match written {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
        Err(error) => return Err(not_writable(error)),
    }
    removed.map_err(not_writable)?;
    Ok(true)
}

/// Keeps transparent huge pages to the memory that asks for them: storage's buffers, which stay. What comes and goes in between must not
/// have them: each piece keeps 2 MiB resident and has them zeroed first (measured: half of the memory and a fifth of the processor time
/// at 400 MB/s). Where the system gives them to everybody and a process can only refuse all of them (before 6.18), it refuses all.
pub fn limit_huge_pages() {
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    // SAFETY: this option takes no pointers; a kernel without it refuses.
    let limited = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, EXCEPT_ADVISED, 0, 0) } == 0;
    let everybody = fs::read_to_string(SETTING).is_ok_and(|setting| setting.contains("[always]"));
    if !limited && everybody {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(directory: &Path) -> Needs {
        Needs {
            data_directory: directory.to_path_buf(),
            shards: 2,
            registered_bytes_per_shard: 64 * 1024,
            open_files: 64,
        }
    }

    #[test]
    fn this_machine_is_fit_and_the_probe_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let report = check(&needs(directory.path())).unwrap();
        assert!(report.open_files_max >= OPEN_FILES_OWN);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_refusal_of_io_uring_is_told_apart() {
        let check = |errno, disabled| {
            explain_refusal(io::Error::from_raw_os_error(errno), disabled, "5.4.0".to_owned()).to_string()
        };
        insta::assert_snapshot!(
            [
                check(libc::EPERM, Some(2)),
                check(libc::EPERM, Some(1)),
                check(libc::EPERM, Some(0)),
                check(libc::EPERM, None),
                check(libc::ENOSYS, None),
                check(libc::EINVAL, None),
                check(libc::ENOMEM, Some(0)),
            ]
            .join("\n")
        );
    }

    #[test]
    fn limits_are_reported_with_the_line_that_mends_them() {
        let path = PathBuf::from("/data");
        let errors = [
            StartupError::Memlock { limit: 65536, wanted: 2 << 20 }.to_string(),
            StartupError::OpenFiles { limit: 20, needed: 256 }.to_string(),
            Notice::LowMemlock { limit: 1 << 20, wanted: 8 << 20 }.to_string(),
            Notice::LowOpenFiles { limit: 1024, wanted: 20_000 }.to_string(),
            Notice::NoDirectIo { path: path.clone(), file_system: FileSystem::Overlay }.to_string(),
            Notice::FlushPerFile { path, file_system: FileSystem::Other(0x6969) }.to_string(),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn open_files_are_shared_between_logs_and_connections() {
        assert_eq!(share_open_files(1_000_000, 4096, 10_000), (4096, 10_000));
        assert_eq!(share_open_files(1256, 4096, 10_000), (500, 500));
        assert_eq!(share_open_files(1256, 100, 10_000), (100, 900));
        assert_eq!(share_open_files(1256, 4096, 100), (900, 100));
        assert_eq!(share_open_files(10, 4096, 100), (1, 1));
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(probe_direct_io(&directory.path().join("missing")), Err(StartupError::NotWritable { .. })));
    }
}
