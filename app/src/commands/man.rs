//! `castanet man`: one page with every command in it.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::{args::Cli, output};

/// Prints the page.
pub(crate) fn run() -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let man = Man::new(sub.clone());
        page.extend_from_slice(format!(".SH \"CASTANET {}\"\n", sub.get_name().to_uppercase()).as_bytes());
        page.extend_from_slice(b".SS DESCRIPTION\n");
        page.extend_from_slice(format!("{}\n", sub.get_about().unwrap_or_default()).as_bytes());
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    output::print(String::from_utf8_lossy(&page).trim_end())
}
