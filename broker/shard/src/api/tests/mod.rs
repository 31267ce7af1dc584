//! Requests as frames, through the shards of a broker without a disk, threads or sockets.

mod admin;
mod bounds;
mod configs;
mod fetch_sessions;
mod frames;
mod rig;
mod routed_crashes;
mod routed_parts;
