//! `castanet lab`: a whole swarm in simulation.

use std::process::ExitCode;

use anyhow::Result;
use castanet_integration::lab::command::Lab;

use crate::output;

/// Runs the scenario and prints what came of it.
pub(crate) fn run(lab: &Lab) -> Result<ExitCode> {
    lab.run(&[], &mut |line| output::print(line))?;
    Ok(ExitCode::SUCCESS)
}
