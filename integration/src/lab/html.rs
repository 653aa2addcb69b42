//! Placeholder until the drawing lands.

use super::experiment::Experiment;

/// A page.
pub fn page(experiment: &Experiment) -> String {
    experiment.hash()
}
