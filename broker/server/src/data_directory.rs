//! The data directory: who may use it, and whose it is.
//!
//! Owns two files at its top. `LOCK` is locked (`flock`) by the broker that runs on the directory and holds its process id; the
//! lock goes with the process, however it ends. `meta.properties` says what wrote the directory (the name is Kafka's, and so are
//! the keys that Kafka has too): lines `key=value`, ended by a CRC-32C of everything before it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// The version of the directory's layout that this broker writes, and the highest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const LOCK_FILE: &str = "LOCK";
const META_FILE: &str = "meta.properties";

/// What kept the broker from using its data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    #[error("cannot create the data directory {}: {source}. Create it, or name another with --data-dir", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "the data directory {} is not writable: {source}. Give this user write access (chown -R \"$(id -un)\"), remount the file \
         system read-write, or name another directory with --data-dir",
        path.display()
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error(
        "another broker ({holder}) is running on {}. Stop it first, or give this one a directory of its own with --data-dir",
        path.display()
    )]
    InUse { path: PathBuf, holder: Holder },
    #[error(
        "a broker ({holder}) is running on {}, and its files change while they are read. Stop it first (kill -TERM), or copy the \
         directory from a snapshot of its file system and look at the copy",
        path.display()
    )]
    Running { path: PathBuf, holder: Holder },
    #[error("{} is no data directory: it has no {META_FILE}. Name the directory that the broker's --data-dir names", path.display())]
    NoDataDirectory { path: PathBuf },
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} belongs to node {found}, and this broker is node {configured}. Start it with --node-id {found}, or with a directory of \
         its own",
        path.display()
    )]
    OtherNode { path: PathBuf, found: i32, configured: i32 },
    #[error(
        "{} was written in format version {found}, and this broker reads up to {FORMAT_VERSION}. Start it with the newer Tidegate that \
         wrote it",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(
        "{} is damaged: {reason}. Restore it from a backup; if there is none, move it away: the broker then writes a new one, and \
         keeps topics and records",
        path.display()
    )]
    Damaged { path: PathBuf, reason: MetaDamage },
}

/// Who holds the lock, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(process) => write!(f, "process {process}"),
            None => f.write_str("its process id is unknown"),
        }
    }
}

/// How `meta.properties` is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaDamage {
    #[error("it is no text")]
    NotText,
    #[error("its checksum is missing")]
    NoChecksum,
    #[error("its checksum is wrong")]
    WrongChecksum,
    #[error("the key {0} is missing or has a bad value")]
    Key(&'static str),
}

/// What the directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Kafka's form: 22 characters of URL-safe base64.
    pub cluster_id: String,
    pub node_id: i32,
    /// With how many shards it was last run. For people: what decides whether journals must be emptied is storage's `layout.tgm`.
    pub shards: u16,
}

/// A data directory that is ours alone until this is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    meta: Meta,
    /// Whether the directory was made by this start.
    is_new: bool,
    _lock: File,
}

impl DataDirectory {
    /// Creates the directory if it is missing, locks it and checks that it is this node's.
    ///
    /// # Errors
    /// Each says what to do.
    pub fn open(path: &Path, node_id: i32, shards: u16) -> Result<Self, DataDirectoryError> {
        fs::create_dir_all(path).map_err(|source| DataDirectoryError::Create { path: path.to_path_buf(), source })?;
        let path = path.canonicalize().map_err(io_error("resolve", path))?;
        let lock = lock(&path)?;
        let meta_path = path.join(META_FILE);
        let (meta, is_new) = match fs::read(&meta_path) {
            Ok(bytes) => (parse(&meta_path, &bytes)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let meta = Meta { cluster_id: new_cluster_id(), node_id, shards };
                write(&path, &meta)?;
                (meta, true)
            }
            Err(source) => return Err(DataDirectoryError::Io { operation: "read", path: meta_path, source }),
        };
        if meta.node_id != node_id {
            return Err(DataDirectoryError::OtherNode { path, found: meta.node_id, configured: node_id });
        }
        Ok(Self { path, meta, is_new, _lock: lock })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the directory said when it was opened: its shards are those of the last run.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Notes with how many shards it is run from now on. To be called once partitions have been moved.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_shards(&mut self, shards: u16) -> Result<(), DataDirectoryError> {
        if self.meta.shards != shards {
            self.meta.shards = shards;
            write(&self.path, &self.meta)?;
        }
        Ok(())
    }
}

/// A data directory whose broker is stopped, and stays so until this is dropped.
#[derive(Debug)]
pub struct StoppedDirectory {
    /// The absolute path.
    pub path: PathBuf,
    /// What it says of itself; damage is no hindrance to looking at the rest.
    pub meta: Result<Meta, DataDirectoryError>,
    _lock: File,
}

impl StoppedDirectory {
    /// Locks a data directory that is there, to look at it.
    ///
    /// # Errors
    /// [`DataDirectoryError::NoDataDirectory`], [`DataDirectoryError::Running`], and what the file system says.
    pub fn open(path: &Path) -> Result<Self, DataDirectoryError> {
        let path = path.canonicalize().map_err(io_error("resolve", path))?;
        let meta_path = path.join(META_FILE);
        let bytes = fs::read(&meta_path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                DataDirectoryError::NoDataDirectory { path: path.clone() }
            }
            _ => DataDirectoryError::Io { operation: "read", path: meta_path.clone(), source },
        })?;
        let lock = lock(&path).map_err(|error| match error {
            DataDirectoryError::InUse { path, holder } => DataDirectoryError::Running { path, holder },
            other => other,
        })?;
        Ok(Self { meta: parse(&meta_path, &bytes), path, _lock: lock })
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirectoryError {
    let path = path.to_path_buf();
    move |source| DataDirectoryError::Io { operation, path, source }
}

fn lock(directory: &Path) -> Result<File, DataDirectoryError> {
    let path = directory.join(LOCK_FILE);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| DataDirectoryError::NotWritable { path: directory.to_path_buf(), source })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The lock is what counts; the id in it is a help.
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(DataDirectoryError::InUse { path: directory.to_path_buf(), holder: Holder(holder) });
        }
        Err(TryLockError::Error(source)) => return Err(DataDirectoryError::Io { operation: "lock", path, source }),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|source| DataDirectoryError::NotWritable { path: directory.to_path_buf(), source });
    written.map(|()| file)
}

fn render(meta: &Meta) -> String {
    let Meta { cluster_id, node_id, shards } = meta;
    let body = format!(
        "# What wrote this directory. The broker keeps it; a change by hand makes it unreadable.\n\
         format.version={FORMAT_VERSION}\ncluster.id={cluster_id}\nnode.id={node_id}\nshards={shards}\n"
    );
    format!("{body}crc32c={:08x}\n", crc32c::crc32c(body.as_bytes()))
}

fn write(directory: &Path, meta: &Meta) -> Result<(), DataDirectoryError> {
    let path = directory.join(META_FILE);
    replace_file(&path, render(meta).as_bytes()).map_err(io_error("write", &path))
}

/// Writes a file whole, so that a crash leaves the old or the new one: to another name, synced, renamed, directory synced.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Meta, DataDirectoryError> {
    let damaged = |reason| DataDirectoryError::Damaged { path: path.to_path_buf(), reason };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged(MetaDamage::NotText))?;
    let (body, checksum) = text.split_once("crc32c=").ok_or_else(|| damaged(MetaDamage::NoChecksum))?;
    if u32::from_str_radix(checksum.trim(), 16) != Ok(crc32c::crc32c(body.as_bytes())) {
        return Err(damaged(MetaDamage::WrongChecksum));
    }
    let value = |key: &'static str| {
        body.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .ok_or_else(|| damaged(MetaDamage::Key(key)))
    };
    let found: u32 = value("format.version")?.parse().map_err(|_| damaged(MetaDamage::Key("format.version")))?;
    if found > FORMAT_VERSION {
        return Err(DataDirectoryError::NewerFormat { path: path.to_path_buf(), found });
    }
    Ok(Meta {
        cluster_id: value("cluster.id")?.to_owned(),
        node_id: value("node.id")?.parse().map_err(|_| damaged(MetaDamage::Key("node.id")))?,
        shards: value("shards")?.parse().map_err(|_| damaged(MetaDamage::Key("shards")))?,
    })
}

/// A random id as Kafka writes them: sixteen bytes in URL-safe base64 without padding, not starting with a dash.
fn new_cluster_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    loop {
        let number = uuid::Uuid::new_v4().as_u128();
        // 128 bits are 21 digits of 6 bits and one of 2, which base64 fills up from the right.
        let id: String = (0..22_u32)
            .map(|digit| {
                let bits = if digit == 21 { (number & 3) << 4 } else { number >> (122 - 6 * digit) & 63 };
                char::from(DIGITS[bits as usize])
            })
            .collect();
        if !id.starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_whose_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let first = DataDirectory::open(&path, 3, 2).unwrap();
        assert!(first.is_new());
        let cluster_id = first.meta().cluster_id.clone();
        assert_eq!(cluster_id.len(), 22);
        drop(first);
        let mut second = DataDirectory::open(&path, 3, 4).unwrap();
        assert!(!second.is_new());
        assert_eq!(*second.meta(), Meta { cluster_id: cluster_id.clone(), node_id: 3, shards: 2 });
        second.set_shards(4).unwrap();
        drop(second);
        let third = DataDirectory::open(&path, 3, 4).unwrap();
        assert_eq!(*third.meta(), Meta { cluster_id, node_id: 3, shards: 4 });
        drop(third);
        let other = DataDirectory::open(&path, 5, 4).unwrap_err().to_string();
        assert!(other.contains("belongs to node 3") && other.contains("--node-id 3"), "{other}");
    }

    #[test]
    fn a_second_broker_is_refused_with_the_process_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let _first = DataDirectory::open(directory.path(), 1, 1).unwrap();
        let second = DataDirectory::open(directory.path(), 1, 1).unwrap_err();
        let DataDirectoryError::InUse { holder, .. } = &second else { panic!("{second}") };
        assert_eq!(*holder, Holder(Some(std::process::id())));
        assert!(second.to_string().contains(&format!("process {}", std::process::id())));
    }

    #[test]
    fn a_damaged_or_newer_meta_file_is_told_apart() {
        let good = render(&Meta { cluster_id: "x".to_owned(), node_id: 1, shards: 2 });
        let path = Path::new("meta.properties");
        assert!(parse(path, good.as_bytes()).is_ok());
        let check = |text: &[u8], expected: MetaDamage| match parse(path, text) {
            Err(DataDirectoryError::Damaged { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        };
        check(b"", MetaDamage::NoChecksum);
        check(&[0xff, 0xfe], MetaDamage::NotText);
        check(good.replace("node.id=1", "node.id=2").as_bytes(), MetaDamage::WrongChecksum);
        for length in 0..good.len() - 1 {
            assert!(parse(path, &good.as_bytes()[..length]).is_err(), "cut after {length}");
        }
        let body = "format.version=9\n";
        let newer = format!("{body}crc32c={:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert!(matches!(parse(path, newer.as_bytes()), Err(DataDirectoryError::NewerFormat { found: 9, .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_a_mend() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = DataDirectory::open(&file.join("below"), 1, 1).unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
    }
}
