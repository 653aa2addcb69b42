//! `castanet config`.

use anyhow::Result;

/// Prints the documented template of a configuration file.
pub(crate) fn run() -> Result<()> {
    crate::output::print(crate::config::template().trim_end())
}
