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

use commands::{Cli, Usage};

/// A shard allocates and frees with each request; glibc's arenas answer that with a system call (`mprotect`) every few of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
            let _ = writeln!(io::stderr(), "error: {}", output::whole(&error));
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
