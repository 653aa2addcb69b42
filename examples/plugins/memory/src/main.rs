//! The lab with this plugin in it: `cargo run -- scenarios/power-cut.toml`, and all else that `castanet lab` takes.

use std::io::{Write as _, stdout};

use castanet_integration::lab::command::Lab;
use clap::Parser;
use memory::{NAME, build};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    lab: Lab,
}

fn main() -> anyhow::Result<()> {
    Program::parse().lab.run(&[(NAME, build)], &mut |line| Ok(writeln!(stdout(), "{line}")?))
}
