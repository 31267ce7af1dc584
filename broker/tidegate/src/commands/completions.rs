//! `tidegate completions`: what a shell needs to complete the command line.

use std::io::Write;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate completions bash > /etc/bash_completion.d/tidegate
  tidegate completions zsh > \"${fpath[1]}/_tidegate\"
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        // The generator panics where its writer fails, so it does not get ours.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "tidegate", &mut script);
        Ok(out.write_all(&script)?)
    }
}
