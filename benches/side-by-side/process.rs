//! A broker's process seen from outside: its processor time, its memory, its end.

use std::{
    collections::BTreeMap,
    fs,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A child that is stopped when it is dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    /// User and system time of all its threads so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&format!("/proc/{}/stat", self.child.id()))
    }

    /// The most memory that was resident at any time so far, in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in status")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the broker ended by itself: {status}");
        }
        Ok(())
    }
}

/// User and system time of each thread of this process so far, in seconds.
pub(crate) fn own_threads_cpu_seconds() -> Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        // One that has ended meanwhile is none.
        if let Ok(seconds) = cpu_seconds(&thread.join("stat").to_string_lossy()) {
            threads.insert(thread.to_string_lossy().into_owned(), seconds);
        }
    }
    Ok(threads)
}

/// Waits until no disk has done anything for a second, half a minute at most: where files were removed, ext4 goes on to discard their
/// blocks for seconds, and the broker that is measured next would share the disk with that.
pub(crate) fn wait_for_idle_disks() {
    let begun = Instant::now();
    let (mut seen, mut since) = (operations(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
        let now = operations();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// Writes and discards that each disk has completed, as the kernel counts them (`Documentation/admin-guide/iostats.rst`).
fn operations() -> Vec<(String, String, String)> {
    let stats = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let count = |line: &str| {
        let mut fields = line.split_whitespace().map(str::to_owned);
        Some((fields.nth(2)?, fields.nth(4)?, fields.nth(6).unwrap_or_default()))
    };
    stats.lines().filter_map(count).collect()
}

fn cpu_seconds(path: &str) -> Result<f64> {
    let stat = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    // The command's name is in parentheses and may hold anything; the numbers follow the last one.
    let (_, fields) = stat.rsplit_once(')').context("no command name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("stat is short")?.parse()?) };
    let ticks = ticks()? + ticks()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let asked = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if asked.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
