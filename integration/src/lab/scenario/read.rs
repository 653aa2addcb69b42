//! From the text of a scenario file to a checked [`Scenario`]; whatever is wrong is told with its line and field.

use std::{fmt, path::Path};

use toml::Table;

use super::{Change, Scenario, check::Check};
use crate::lab::run::Extra;

/// What `toml` puts into the path of a value whose place is kept.
const PLACED: &str = ".$__serde_spanned_private_value";
/// What serde calls a type, and what docs/LAB.md calls it.
const TYPES: [(&str, &str); 10] = [
    ("struct ", "a table"),
    ("a map", "a table"),
    ("map", "a table"),
    ("a sequence", "a list"),
    ("sequence", "a list"),
    ("a boolean", "true or false"),
    ("u8", "a whole number from 0 to 255"),
    ("u", "a whole number from 0 on"),
    ("f64", "a number"),
    ("a string", "a text"),
];

/// What is wrong with a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ScenarioError {
    /// The line, from 1 on, where it is known.
    pub line: Option<usize>,
    /// The field, such as `network.latency`; empty if it is the file as a whole.
    pub field: String,
    /// What is wrong, in words.
    pub what: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.field.as_str()) {
            (Some(line), "") => write!(f, "line {line}: {}", self.what),
            (Some(line), field) => write!(f, "line {line}, {field}: {}", self.what),
            (None, "") => f.write_str(&self.what),
            (None, field) => write!(f, "{field}: {}", self.what),
        }
    }
}

impl Scenario {
    /// Reads a scenario whose programs run in `folder`. `extra` are plugins besides the built-in ones and its own programs.
    ///
    /// # Errors
    /// For the first thing that is wrong with it.
    pub fn read(text: &str, folder: &Path, extra: &[Extra]) -> Result<Self, ScenarioError> {
        let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong(text, &error, ""))?;
        let read: Result<Self, _> = serde_path_to_error::deserialize(deserializer);
        let scenario = read.map_err(|error| wrong(text, error.inner(), &error.path().to_string()))?;
        Check::new(text, &scenario, folder, extra).all()?;
        Ok(scenario)
    }

    /// The scenario with some fields changed.
    ///
    /// # Errors
    /// If there is no such field, or the value does not fit; with the field, without a line.
    pub fn changed(text: &str, changes: &[Change], folder: &Path, extra: &[Extra]) -> Result<Self, ScenarioError> {
        let mut table: Table = toml::from_str(text).map_err(|error| wrong(text, &error, ""))?;
        for change in changes {
            change.apply(&mut table)?;
        }
        let changed = toml::to_string(&table).map_err(|error| unplaced("", error.to_string()))?;
        // The lines are not those of the file any more.
        Self::read(&changed, folder, extra).map_err(|error| ScenarioError { line: None, ..error })
    }
}

/// What is wrong with a field, wherever it is.
pub(super) fn unplaced(field: &str, what: String) -> ScenarioError {
    ScenarioError { line: None, field: field.to_owned(), what }
}

/// The line in which this byte is, from 1 on.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What the parser says of a field.
fn wrong(text: &str, error: &toml::de::Error, path: &str) -> ScenarioError {
    let line = error.span().map(|span| line_of(text, span.start));
    // A `.` is its way to say "at the top of the file".
    let field = if path == "." { String::new() } else { path.replace(PLACED, "") };
    ScenarioError { line, field, what: plain(error.message()).replace('\n', ", ") }
}

/// What serde says, in the words of docs/LAB.md.
fn plain(message: &str) -> String {
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} must be there");
    }
    // Of a name such as that of a NAT.
    if message == "wanted string or table" {
        return "a text is expected here".to_owned();
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    if let Some(field) = found.strip_prefix("unknown field ") {
        return format!("there is no field {field}, only {}", expected.trim_start_matches("one of "));
    }
    if let Some(value) = found.strip_prefix("unknown variant ") {
        return format!("{value} is not known, only {}", expected.trim_start_matches("one of "));
    }
    if !found.starts_with("invalid ") {
        return message.to_owned();
    }
    let known = TYPES.iter().find(|(name, _)| expected.starts_with(name));
    format!("{} is expected here", known.map_or(expected, |(_, plain)| plain))
}
