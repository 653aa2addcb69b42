//! `castanet completions`.

use anyhow::Result;
use clap::CommandFactory as _;

use crate::{args::Cli, output};

/// Prints the completions for a shell.
pub(crate) fn run(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "castanet", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())
}
