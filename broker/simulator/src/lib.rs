//! The other shell: the broker's storage on a simulated machine that crashes, under a seed that repeats.
//!
//! A run is decided by its seed alone: the workload, the schedule of the tasks, the disk's delays and losses, when the machine stops.
//! What was acknowledged is checked against an oracle after every recovery. See `README.md`.

pub mod batches;
pub mod disk;
pub mod executor;
pub mod oracle;
pub mod random;
pub mod rig;
pub mod run;
pub mod trace;
