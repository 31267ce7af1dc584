//! What the kernel is asked to do, one operation at a time, with everything that it points to.
//!
//! An operation owns its buffer, path and file until the kernel is done with it: see [`super::reactor`]. Nothing here knows what the
//! bytes mean.

use std::{
    cell::Cell,
    ffi::CString,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

use io_uring::{opcode, squeue, types};
use tidegate_storage::disk::AlignedBuffer;

/// What new files and directories may be, before the umask: the same as the standard library's.
const FILE_MODE: libc::mode_t = 0o666;
const DIRECTORY_MODE: libc::mode_t = 0o777;

/// An open file, or a directory to be synced. Closed when the last operation and the last owner are gone.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) descriptor: OwnedFd,
    /// Where it was when it was opened; for messages only (renaming does not follow).
    pub(crate) path: PathBuf,
    /// Whether the file system took `O_DIRECT` for it.
    pub(crate) direct: bool,
    /// Writes that promised nothing, and how many of them a later sync has covered.
    pub(crate) unsynced: Cell<u64>,
    pub(crate) synced: Cell<u64>,
}

impl OpenFile {
    pub(crate) fn new(descriptor: OwnedFd, path: PathBuf, direct: bool) -> Self {
        Self { descriptor, path, direct, unsynced: Cell::new(0), synced: Cell::new(0) }
    }

    /// Whether everything that was written to it is on stable storage.
    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced == self.synced
    }
}

/// How much a write promises when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The kernel has the bytes.
    No,
    /// The bytes and what is needed to read them back are on stable storage (`RWF_DSYNC`).
    Data,
}

/// One operation and everything that it points to.
#[derive(Debug)]
pub(crate) enum Operation {
    Write {
        file: Rc<OpenFile>,
        position: u64,
        buffer: Arc<AlignedBuffer>,
        start: usize,
        length: usize,
        sync: Sync,
    },
    WriteBytes {
        file: Rc<OpenFile>,
        position: u64,
        bytes: Vec<u8>,
    },
    /// Reads `length` bytes into `buffer`, behind the `filled` first.
    Read {
        file: Rc<OpenFile>,
        position: u64,
        buffer: AlignedBuffer,
        filled: usize,
        length: usize,
    },
    /// `fdatasync`.
    SyncData {
        file: Rc<OpenFile>,
    },
    /// `fsync`: for directories.
    SyncAll {
        file: Rc<OpenFile>,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Remove {
        path: CString,
    },
    /// Opens a file, or makes it where `flags` have `O_CREAT`. Once it is complete, `opened` has it.
    Open {
        path: CString,
        flags: libc::c_int,
        opened: Option<OwnedFd>,
    },
    CreateDirectory {
        path: CString,
    },
    RemoveDirectory {
        path: CString,
    },
    /// Waits until a socket has what `events` says (`POLLIN`, `POLLOUT`), or an end. Its owner keeps the descriptor open meanwhile, or
    /// shuts the socket down, which completes it.
    Poll {
        socket: RawFd,
        events: libc::c_short,
    },
}

impl Operation {
    /// The word for it in error messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } | Self::WriteBytes { .. } => "write",
            Self::Read { .. } => "read",
            Self::SyncData { .. } | Self::SyncAll { .. } => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::Open { .. } => "open",
            Self::CreateDirectory { .. } => "create directory",
            Self::RemoveDirectory { .. } => "remove directory",
            Self::Poll { .. } => "poll",
        }
    }

    /// What it is done to, for error messages.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Write { file, .. }
            | Self::WriteBytes { file, .. }
            | Self::Read { file, .. }
            | Self::SyncData { file }
            | Self::SyncAll { file } => file.path.clone(),
            Self::Rename { from: path, .. }
            | Self::Remove { path }
            | Self::Open { path, .. }
            | Self::CreateDirectory { path }
            | Self::RemoveDirectory { path } => PathBuf::from(path.to_string_lossy().into_owned()),
            Self::Poll { socket, .. } => PathBuf::from(format!("socket {socket}")),
        }
    }

    /// The number of bytes that a completion must report; `None` where it may report less (a read at the end of a file).
    pub(super) fn expected(&self) -> Option<u32> {
        match self {
            Self::Write { length, .. } => Some(u32::try_from(*length).expect("writes are split far below 4 GiB")),
            Self::WriteBytes { bytes, .. } => Some(u32::try_from(bytes.len()).expect("small files are below 4 GiB")),
            Self::Read { .. } | Self::Poll { .. } | Self::Open { .. } => None,
            _ => Some(0),
        }
    }

    /// Takes what the kernel gave for it: a descriptor is closed from here on by whoever drops the operation.
    pub(super) fn take(&mut self, result: u32) {
        if let Self::Open { opened, .. } = self {
            // SAFETY: a successful open gives a descriptor that nobody else has.
            *opened = Some(unsafe { OwnedFd::from_raw_fd(result.cast_signed()) });
        }
    }

    /// The kernel's form. It points into `self`, whose heap memory stays where it is when `self` moves.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let cwd = types::Fd(libc::AT_FDCWD);
        let fd = |file: &OpenFile| types::Fd(file.descriptor.as_raw_fd());
        let length = |bytes: usize| u32::try_from(bytes).expect("operations are far below 4 GiB");
        match self {
            Self::Write { file, position, buffer, start, length: bytes, sync } => {
                let part = &buffer.as_slice()[*start..*start + *bytes];
                let flags = if *sync == Sync::Data { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(fd(file), part.as_ptr(), length(part.len()))
                    .offset(*position)
                    .rw_flags(flags)
                    .build()
            }
            Self::WriteBytes { file, position, bytes } => {
                opcode::Write::new(fd(file), bytes.as_ptr(), length(bytes.len())).offset(*position).build()
            }
            Self::Read { file, position, buffer, filled, length: bytes } => {
                let part = &mut buffer.as_mut_slice()[*filled..*filled + *bytes];
                opcode::Read::new(fd(file), part.as_mut_ptr(), length(part.len())).offset(*position).build()
            }
            Self::SyncData { file } => opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build(),
            Self::SyncAll { file } => opcode::Fsync::new(fd(file)).build(),
            Self::Rename { from, to } => opcode::RenameAt::new(cwd, from.as_ptr(), cwd, to.as_ptr()).build(),
            Self::Remove { path } => opcode::UnlinkAt::new(cwd, path.as_ptr()).build(),
            Self::Open { path, flags, .. } => {
                let flags = *flags | libc::O_CLOEXEC;
                opcode::OpenAt::new(cwd, path.as_ptr()).flags(flags).mode(FILE_MODE).build()
            }
            Self::CreateDirectory { path } => opcode::MkDirAt::new(cwd, path.as_ptr()).mode(DIRECTORY_MODE).build(),
            Self::RemoveDirectory { path } => {
                opcode::UnlinkAt::new(cwd, path.as_ptr()).flags(libc::AT_REMOVEDIR).build()
            }
            Self::Poll { socket, events } => {
                opcode::PollAdd::new(types::Fd(*socket), u32::from(events.cast_unsigned())).build()
            }
        }
    }
}

/// What is known of operations that were started together, once all of them are complete.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) operations: Vec<Operation>,
    /// Bytes that the last operation to complete transferred; what a single read wants to know.
    pub(crate) transferred: usize,
    /// The first operation that failed, and how.
    pub(crate) failure: Option<(usize, Failure)>,
}

/// How an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Errno(i32),
    /// Fewer bytes were written than asked for: no room, or a file that is smaller than it should be.
    Short {
        expected: u32,
        written: u32,
    },
}
