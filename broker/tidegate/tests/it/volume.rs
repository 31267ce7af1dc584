//! A file system of its own for a broker: small enough to be filled, and one that can be made to fail.
//!
//! It is mounted in a mount namespace that lives as long as the [`Volume`], so nothing is left behind and no other process sees it.
//! Two kinds: ext4 in a file over a loop device, which only root may mount, and tmpfs in a user namespace, which most machines let
//! anybody do. Where a machine allows neither, [`Volume::all`] is empty and says why.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ext4 with `O_DIRECT`, as in production.
    Ext4,
    Tmpfs,
}

/// A mounted file system; gone with the process that holds its namespace.
pub(crate) struct Volume {
    pub(crate) kind: Kind,
    holder: Child,
    /// The mount point, as processes inside see it.
    mount_point: PathBuf,
    _directory: TempDir,
}

impl Volume {
    /// A volume of each kind that this machine lets us have. None is an error with `TIDEGATE_REQUIRE_FAULTS=1`.
    pub(crate) fn all(mebibytes: u32) -> Vec<Self> {
        let mut reasons = Vec::new();
        let mut volumes = Vec::new();
        for kind in [Kind::Ext4, Kind::Tmpfs] {
            match Self::mount(kind, mebibytes) {
                Ok(volume) => volumes.push(volume),
                Err(reason) => reasons.push(format!("{kind:?}: {reason}")),
            }
        }
        if volumes.is_empty() {
            unavailable(&format!("no small file system can be mounted: {}", reasons.join("; ")));
        }
        volumes
    }

    /// # Errors
    /// Why this machine does not allow it.
    pub(crate) fn mount(kind: Kind, mebibytes: u32) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("tidegate-volume-").tempdir().map_err(|e| e.to_string())?;
        let mount_point = directory.path().join("mounted");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        let image = directory.path().join("image");
        let mut command = Command::new("unshare");
        let script = match kind {
            Kind::Ext4 => {
                // No blocks kept for root, or a broker of root's would never see a full disk.
                "truncate -s \"$3\"M \"$2\" && mkfs.ext4 -q -m 0 \"$2\" && mount -o loop \"$2\" \"$1\""
            }
            Kind::Tmpfs => {
                command.args(["--user", "--map-root-user"]);
                "mount -t tmpfs -o size=\"$3\"m tidegate \"$1\""
            }
        };
        // Holds the namespace until its standard input ends, that is, until the test does.
        let script = format!("set -e; {script}; echo mounted; exec cat");
        let mut holder = command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .args([&mount_point, &image])
            .arg(mebibytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("standard output is a pipe");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim() != "mounted" {
            let output = holder.wait_with_output().map_err(|error| error.to_string())?;
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Self { kind, holder, mount_point, _directory: directory })
    }

    /// A directory on the volume, as processes inside see it.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.mount_point.join("data")
    }

    /// The same place as this process sees it.
    pub(crate) fn seen_from_outside(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// A command that runs where the volume is mounted.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if self.kind == Kind::Tmpfs {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    fn ballast(&self) -> PathBuf {
        self.seen_from_outside(&self.mount_point).join("ballast")
    }

    /// Takes all the room that is left, but for `except` bytes.
    pub(crate) fn fill(&self, except: u64) {
        let mut file = std::fs::File::create(self.ballast()).expect("a file on the volume");
        let block = vec![1; 64 << 10];
        let mut length = 0_u64;
        let mut written_since_sync = true;
        while written_since_sync {
            written_since_sync = false;
            loop {
                match file.write(&block) {
                    Ok(written) => length += written as u64,
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
                    Err(error) => panic!("the volume cannot be filled: {error}"),
                }
                written_since_sync = true;
            }
            // What was freed a moment ago is to be had again once the file system's own journal has committed it.
            file.sync_all().expect("the ballast is on the disk");
        }
        file.set_len(length.saturating_sub(except)).expect("the ballast can be cut");
        file.sync_all().expect("the ballast is on the disk");
    }

    /// Changes the options of the mount, such as `ro`. No file may be open for writing.
    pub(crate) fn remount(&self, options: &str) {
        let mut command = self.command("mount");
        let status = command.args(["-o", &format!("remount,{options}")]).arg(&self.mount_point).status();
        assert!(status.expect("mount runs").success(), "remount,{options}");
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("there is ballast");
    }

    /// Has every write and flush from now on fail with EIO, as a disk that has died does. ext4 only.
    pub(crate) fn break_disk(&self) {
        /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, u32)`.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: what the file system's own journal has not written stays unwritten.
        const AT_ONCE: u32 = 2;
        use std::os::fd::AsRawFd as _;
        let root = std::fs::File::open(self.seen_from_outside(&self.mount_point)).expect("the volume");
        let flags = AT_ONCE;
        // SAFETY: the request reads one u32, which lives for the call.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const flags) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Says that a fault cannot be made on this machine; an error where it must be possible.
pub(crate) fn unavailable(reason: &str) {
    let required = std::env::var("TIDEGATE_REQUIRE_FAULTS").is_ok_and(|value| value == "1");
    assert!(!required, "TIDEGATE_REQUIRE_FAULTS=1, but {reason}");
    eprintln!("skipped: {reason}");
}
