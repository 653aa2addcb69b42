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
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let man = Man::new(sub.clone());
        page.extend_from_slice(format!(".SH \"CASTANET {}\"\n", sub.get_name().to_uppercase()).as_bytes());
        page.extend_from_slice(b".SS DESCRIPTION\n");
        page.extend_from_slice(format!("{}\n", sub.get_about().unwrap_or_default()).as_bytes());
        let mut below = Vec::new();
        man.render_synopsis_section(&mut below)?;
        man.render_options_section(&mut below)?;
        page.extend_from_slice(String::from_utf8_lossy(&below).replace("\n.SH ", "\n.SS ").as_bytes());
    }
    output::print(String::from_utf8_lossy(&page).trim_end())
}
