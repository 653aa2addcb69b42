//! From the text of a scenario file to a checked [`Scenario`]; whatever is wrong is told with its line and field.

use std::{collections::BTreeSet, fmt, ops::Range, time::Duration};

use toml::{Spanned, Table, Value};

use super::{Fault, LARGEST, MOST_HOSTS, Scenario};
use crate::universe::LONGEST_STORY;

/// The longest a scenario may last: a world has a day, of which some is for the warm-up and the end.
const LONGEST: Duration = LONGEST_STORY.saturating_sub(Duration::from_secs(3600));

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

/// A change to a scenario: a field, and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field, such as `plugins`, `network.loss` or `peers.leeches.count`: those in lists go by their name or number.
    pub field: String,
    /// Its new value, as in a file, but a text needs no quotes, and a list is written `a+b`.
    pub value: String,
}

impl Scenario {
    /// Reads a scenario. `plugins` are the names that there are, besides its own programs.
    ///
    /// # Errors
    /// For the first thing that is wrong with it.
    pub fn read(text: &str, plugins: &BTreeSet<String>) -> Result<Self, ScenarioError> {
        let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong(text, &error, String::new()))?;
        let read: Result<Self, _> = serde_path_to_error::deserialize(deserializer);
        let scenario = read.map_err(|error| {
            let field = error.path().to_string();
            wrong(text, error.inner(), field)
        })?;
        let flaw = Flaws { text: Some(text) };
        flaw.check(&scenario, plugins)?;
        Ok(scenario)
    }

    /// The scenario with some fields changed.
    ///
    /// # Errors
    /// If there is no such field, or the value does not fit; with the field, without a line.
    pub fn changed(text: &str, changes: &[Change], plugins: &BTreeSet<String>) -> Result<Self, ScenarioError> {
        let mut table: Table = toml::from_str(text).map_err(|error| wrong(text, &error, String::new()))?;
        for change in changes {
            change.apply(&mut table)?;
        }
        let changed = toml::to_string(&table).map_err(|error| unplaced("", error.to_string()))?;
        // The lines are not those of the file any more.
        Self::read(&changed, plugins).map_err(|error| ScenarioError { line: None, ..error })
    }
}

impl Change {
    fn apply(&self, table: &mut Table) -> Result<(), ScenarioError> {
        let missing = |what: &str| unplaced(&self.field, format!("there is no {what} in this scenario"));
        let (path, last) =
            self.field.rsplit_once('.').map_or((None, self.field.as_str()), |(path, last)| (Some(path), last));
        let mut place = table;
        let mut steps = path.map(|path| path.split('.')).into_iter().flatten();
        while let Some(step) = steps.next() {
            let next = place.entry(step).or_insert_with(|| Value::Table(Table::new()));
            place = match next {
                Value::Table(table) => table,
                Value::Array(list) => {
                    let name = steps.next().ok_or_else(|| missing(step))?;
                    let is_meant = |(at, item): &(usize, &mut Value)| {
                        item.get("name").and_then(Value::as_str) == Some(name) || name.parse() == Ok(*at)
                    };
                    let found = list.iter_mut().enumerate().find(is_meant).map(|(_, item)| item);
                    found.and_then(Value::as_table_mut).ok_or_else(|| missing(&format!("`{name}` among its {step}")))?
                }
                _ => return Err(missing(step)),
            };
        }
        place.insert(last.to_owned(), self.value(place.get(last), last));
        Ok(())
    }

    /// The value in the form of the one before.
    fn value(&self, before: Option<&Value>, field: &str) -> Value {
        let text = self.value.as_str();
        let is_list =
            matches!(before, Some(Value::Array(_))) || ["plugins", "knows", "part", "transports"].contains(&field);
        if is_list {
            let items = text.split('+').map(str::trim).filter(|item| !item.is_empty());
            return Value::Array(items.map(|item| Value::String(item.to_owned())).collect());
        }
        // `true`, 3 and 0.5 are what they look like; all else is text.
        let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
        parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

fn unplaced(field: &str, what: String) -> ScenarioError {
    ScenarioError { line: None, field: field.to_owned(), what }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What the parser says.
fn wrong(text: &str, error: &toml::de::Error, field: String) -> ScenarioError {
    let line = error.span().map(|span| line_of(text, span.start));
    // Its way to say "at the top of the file".
    let field = if field == "." { String::new() } else { field };
    ScenarioError { line, field, what: error.message().replace('\n', ", ") }
}

/// Looks for what no single field shows.
struct Flaws<'a> {
    text: Option<&'a str>,
}

impl Flaws<'_> {
    fn at<T>(&self, span: Range<usize>, field: &str, what: impl Into<String>) -> Result<T, ScenarioError> {
        let line = self.text.filter(|_| span != (0..0)).map(|text| line_of(text, span.start));
        Err(ScenarioError { line, field: field.to_owned(), what: what.into() })
    }

    fn check(&self, scenario: &Scenario, plugins: &BTreeSet<String>) -> Result<(), ScenarioError> {
        let lasts = scenario.lasts.get_ref().0;
        if lasts.is_zero() || lasts > LONGEST {
            return self.at(scenario.lasts.span(), "for", "a scenario lasts from a moment to 23 hours");
        }
        self.check_torrent(scenario)?;
        let loss = &scenario.network.loss;
        if !(0.0..=1.0).contains(loss.get_ref()) {
            return self.at(loss.span(), "network.loss", "a share is from 0 to 1");
        }
        if scenario.network.transports.is_empty() {
            return self.at(0..0, "network.transports", "peers need a way to each other: tcp, utp or both");
        }
        if scenario.dht.known_sybils > scenario.dht.sybils || scenario.dht.sybils > 255 {
            return self.at(0..0, "dht.sybils", "there are at most 255 of them, and at least as many as known-sybils");
        }
        self.check_plugins(scenario, plugins)?;
        self.check_groups(scenario)?;
        scenario.faults.iter().enumerate().try_for_each(|(at, fault)| self.check_fault(scenario, at, fault))
    }

    fn check_torrent(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        let (pieces, piece) = (&scenario.torrent.pieces, &scenario.torrent.piece);
        if !piece.get_ref().0.is_power_of_two() || !(256..=16 << 20).contains(&piece.get_ref().0) {
            return self.at(piece.span(), "torrent.piece", "a piece is a power of two long, from 256 bytes to 16 MiB");
        }
        let length = u64::from(*pieces.get_ref()) * piece.get_ref().0;
        if length == 0 || length > LARGEST {
            return self.at(pieces.span(), "torrent.pieces", "a torrent has at least one piece and at most 1 GiB");
        }
        Ok(())
    }

    fn check_plugins(&self, scenario: &Scenario, plugins: &BTreeSet<String>) -> Result<(), ScenarioError> {
        let mut known = plugins.clone();
        for (at, program) in scenario.programs.iter().enumerate() {
            let name = program.name.get_ref();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
                let what = format!("`{name}` is no plugin's name: small letters, digits and `-`");
                return self.at(program.name.span(), &format!("program[{at}].name"), what);
            }
            self.check_told(scenario, &program.command, &format!("program[{at}].command"))?;
            if !known.insert(name.clone()) {
                let what = format!("there is another plugin called `{name}`");
                return self.at(program.name.span(), &format!("program[{at}].name"), what);
            }
        }
        let check =
            |field: &str, named: &[Spanned<String>]| match named.iter().find(|name| !known.contains(name.get_ref())) {
                Some(name) => {
                    let all = known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    self.at(name.span(), field, format!("there is no plugin `{}`; there are: {all}", name.get_ref()))
                }
                None => Ok(()),
            };
        check("plugins", &scenario.plugins)?;
        for group in &scenario.groups {
            check(&format!("peers.{}.plugins", group.name.get_ref()), group.plugins.as_deref().unwrap_or_default())?;
        }
        for (plugin, settings) in &scenario.settings {
            if !known.contains(plugin) {
                return self.at(0..0, &format!("settings.{plugin}"), format!("there is no plugin `{plugin}`"));
            }
            for (key, value) in settings {
                self.check_told(scenario, value, &format!("settings.{plugin}.{key}"))?;
            }
        }
        Ok(())
    }

    /// The groups in a text's `{peers:GROUP}`.
    fn check_told(&self, scenario: &Scenario, text: &Spanned<String>, field: &str) -> Result<(), ScenarioError> {
        let told = text.get_ref().split("{peers:").skip(1);
        let mut told = told.map(|rest| rest.split_once('}').map_or(rest, |(group, _)| group));
        match told.find(|group| scenario.groups.iter().all(|known| known.name.get_ref() != group)) {
            Some(group) => self.at(text.span(), field, format!("there is no group `{group}`")),
            None => Ok(()),
        }
    }

    fn check_groups(&self, scenario: &Scenario) -> Result<(), ScenarioError> {
        let mut names = BTreeSet::new();
        let mut hosts = scenario.dht.nodes;
        for group in &scenario.groups {
            let name = group.name.get_ref();
            let field = |what: &str| format!("peers.{name}.{what}");
            if !names.insert(name) {
                return self.at(group.name.span(), &field("name"), "there is another group of this name");
            }
            hosts = hosts.saturating_add(*group.count.get_ref());
            if hosts > MOST_HOSTS {
                let what = format!("more than {MOST_HOSTS} peers and DHT nodes are too many");
                return self.at(group.count.span(), &field("count"), what);
            }
            self.check_named(scenario, &group.knows, &field("knows"))?;
        }
        if names.is_empty() || hosts == scenario.dht.nodes {
            return self.at(0..0, "peers", "a swarm needs peers");
        }
        let mut names = BTreeSet::new();
        match scenario.trackers.iter().find(|tracker| !names.insert(tracker.name.get_ref())) {
            Some(tracker) => self.at(tracker.name.span(), "tracker.name", "there is another tracker of this name"),
            None => Ok(()),
        }
    }

    fn check_named(&self, scenario: &Scenario, named: &[Spanned<String>], field: &str) -> Result<(), ScenarioError> {
        let is_there =
            |name: &&Spanned<String>| scenario.groups.iter().any(|group| group.name.get_ref() == name.get_ref());
        match named.iter().find(|name| !is_there(name)) {
            Some(name) => self.at(name.span(), field, format!("there is no group `{}`", name.get_ref())),
            None => Ok(()),
        }
    }

    fn check_fault(&self, scenario: &Scenario, at: usize, fault: &Fault) -> Result<(), ScenarioError> {
        let field = |what: &str| format!("fault[{at}]{what}");
        let kinds = [fault.tracker.is_some(), fault.dht, fault.part.is_some(), fault.kill.is_some()];
        if kinds.into_iter().filter(|kind| *kind).count() != 1 {
            return self.at(fault.at.span(), &field(""), "a fault has one of: tracker, dht, part, kill");
        }
        if let Some(until) = fault.until.as_ref().filter(|until| until.get_ref() <= fault.at.get_ref()) {
            return self.at(until.span(), &field(".until"), "it is over before it begins");
        }
        if let Some(name) = &fault.tracker
            && !scenario.trackers.iter().any(|tracker| tracker.name.get_ref() == name.get_ref())
        {
            return self.at(name.span(), &field(".tracker"), format!("there is no tracker `{}`", name.get_ref()));
        }
        self.check_named(scenario, fault.part.as_deref().unwrap_or_default(), &field(".part"))?;
        self.check_named(scenario, fault.kill.as_slice(), &field(".kill"))
    }
}
