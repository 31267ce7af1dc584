//! `tidegate`: the broker, and the command line to it and to any other Kafka cluster.
//!
//! Each command is a file under `commands/`. What it prints for its user goes to standard output, what it says of itself to standard
//! error. Exit codes: 0 done, 1 failed, 2 asked for wrongly.

mod client;
mod commands;
mod librdkafka;
mod moment;
mod offset_spec;
mod output;
mod record_format;

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

use commands::{Cli, Said, Usage};

/// A shard allocates and frees with each request; glibc's arenas answer that with a system call (`mprotect`) every few of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory stays with the allocator before the kernel gets it back. By default a second, in which a busy broker frees
/// tens of megabytes that then count as its own; measured, this gives them back and costs no processor time.
const PURGE_DELAY_MILLISECONDS: std::ffi::c_long = 10;
/// `mi_option_purge_delay` of mimalloc.h, which the bindings do not name; it comes before `use_numa_nodes`.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;

fn main() -> ExitCode {
    // SAFETY: sets an integer that the allocator reads; no other thread runs yet. `MIMALLOC_PURGE_DELAY` in the environment wins.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MILLISECONDS) };
    let cli = Cli::parse();
    let mut out = BufWriter::new(io::stdout());
    let result = cli.run(&mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => {
            // What is still buffered has no reader.
            let _ = out.into_parts();
            ExitCode::SUCCESS
        }
        Err(error) => {
            // What was said before the error stays said.
            let _ = out.flush();
            let said = error.downcast_ref::<Said>();
            if said.is_none() {
                let _ = writeln!(io::stderr(), "error: {}", output::whole(&error));
            }
            let is_usage = said.map_or_else(|| error.is::<Usage>(), |said| said.is_usage);
            if is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
