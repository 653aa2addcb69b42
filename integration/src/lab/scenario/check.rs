//! Looks for what no single value shows: names, sums, times in the wrong order, plugins that refuse their settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    env::{self, consts::EXE_SUFFIX},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, is_separator},
    time::Duration,
};

use castanet::{
    BUILTIN_PLUGINS, OPT_IN_PLUGINS, conformance,
    seams::discovery::{Build, Settings},
};
use castanet_plugins::process;
use toml::Spanned;

use super::{
    Fault, HOLEPUNCH, LARGEST, MOST_HOSTS, Program, Scenario, Text,
    read::{ScenarioError, line_of},
};
use crate::{lab::run::Extra, universe::LONGEST_STORY};

/// The longest a scenario may last: a world has a day, of which some is for the warm-up and the end.
const LONGEST: Duration = LONGEST_STORY.saturating_sub(Duration::from_secs(3600));
/// The most sybils: each has a number of one byte.
const MOST_SYBILS: usize = 255;
/// The longest label of a host's name.
const LONGEST_LABEL: usize = 63;
/// Settings of a program that are no matter of a scenario's `settings`.
const OF_THE_LAB: [&str; 4] = ["name", "command", "folder", "lockstep"];

type Checked = Result<(), ScenarioError>;

/// A scenario to be checked, and what it is checked against.
pub(super) struct Check<'a> {
    text: &'a str,
    scenario: &'a Scenario,
    folder: &'a Path,
    /// The plugins that there are, but for the scenario's programs.
    plugins: BTreeMap<&'a str, Build>,
}

impl<'a> Check<'a> {
    pub(super) fn new(text: &'a str, scenario: &'a Scenario, folder: &'a Path, extra: &'a [Extra]) -> Self {
        let builtin = BUILTIN_PLUGINS.iter().filter(|(name, _)| !OPT_IN_PLUGINS.contains(name));
        Self { text, scenario, folder, plugins: builtin.chain(extra).copied().collect() }
    }

    /// Everything, up to the first flaw.
    pub(super) fn all(mut self) -> Checked {
        let lasts = self.scenario.lasts.get_ref().0;
        if lasts.is_zero() || lasts > LONGEST {
            return self.flaw(self.scenario.lasts.span(), "for", "a scenario lasts from a moment to 23 hours");
        }
        self.check_torrent()?;
        self.check_network()?;
        self.check_hosts()?;
        let (groups, trackers) = (&self.scenario.groups, &self.scenario.trackers);
        let names = groups.iter().map(|group| &group.name);
        self.check_names(("peers", "group"), names, is_word, "no dot and no white space")?;
        let names = trackers.iter().map(|tracker| &tracker.name);
        self.check_names(
            ("tracker", "tracker"),
            names,
            is_label,
            "small letters, digits and `-`, as in a host's name",
        )?;
        let names = self.scenario.programs.iter().map(|program| &program.name);
        self.check_names(("program", "plugin"), names, is_plugin_name, "small letters, digits and `-`")?;
        for (at, program) in self.scenario.programs.iter().enumerate() {
            self.check_program(&format!("program[{at}]"), program)?;
        }
        self.check_plugins()?;
        self.check_groups()?;
        self.scenario
            .faults
            .iter()
            .enumerate()
            .try_for_each(|(at, fault)| self.check_fault(&format!("fault[{at}]"), fault))
    }

    /// What is wrong there. Defaults have no place.
    fn flaw<T>(&self, span: Range<usize>, field: &str, what: impl Into<String>) -> Result<T, ScenarioError> {
        let line = (span != (0..0)).then(|| line_of(self.text, span.start));
        Err(ScenarioError { line, field: field.to_owned(), what: what.into() })
    }

    fn check_torrent(&self) -> Checked {
        let (pieces, piece) = (&self.scenario.torrent.pieces, &self.scenario.torrent.piece);
        if !piece.get_ref().0.is_power_of_two() || !(256..=16 << 20).contains(&piece.get_ref().0) {
            return self.flaw(
                piece.span(),
                "torrent.piece",
                "a piece is a power of two long, from 256 bytes to 16 MiB",
            );
        }
        let length = u64::from(*pieces.get_ref()) * piece.get_ref().0;
        if length == 0 || length > LARGEST {
            return self.flaw(pieces.span(), "torrent.pieces", "a torrent has at least one piece and at most 1 GiB");
        }
        Ok(())
    }

    fn check_network(&self) -> Checked {
        let network = &self.scenario.network;
        if !(0.0..=1.0).contains(network.loss.get_ref()) {
            return self.flaw(network.loss.span(), "network.loss", "a share is from 0 to 1");
        }
        if let Some(rate) = network.bandwidth.as_ref().filter(|rate| rate.get_ref().0 == 0) {
            return self.flaw(rate.span(), "network.bandwidth", "nothing passes at 0 bytes a second");
        }
        let ways = network.transports.get_ref();
        if ways.is_empty() || ways.iter().collect::<BTreeSet<_>>().len() < ways.len() {
            let what = "peers need a way to each other, each named once: tcp, utp or both";
            return self.flaw(network.transports.span(), "network.transports", what);
        }
        Ok(())
    }

    /// How many there are.
    fn check_hosts(&self) -> Checked {
        let dht = &self.scenario.dht;
        if *dht.sybils.get_ref() > MOST_SYBILS {
            return self.flaw(dht.sybils.span(), "dht.sybils", format!("there are at most {MOST_SYBILS} of them"));
        }
        if dht.known_sybils > dht.sybils {
            let what = "there are no more of them than of sybils";
            return self.flaw(dht.known_sybils.span(), "dht.known-sybils", what);
        }
        let counts = self.scenario.groups.iter().map(|group| {
            let field = format!("peers.{}.count", group.name.get_ref());
            (field, &group.count)
        });
        let mut hosts = 0_usize;
        for (field, count) in [("dht.nodes".to_owned(), &dht.nodes)].into_iter().chain(counts) {
            hosts = hosts.saturating_add(*count.get_ref());
            if hosts > MOST_HOSTS {
                let what = format!("more than {MOST_HOSTS} peers and DHT nodes are too many");
                return self.flaw(count.span(), &field, what);
            }
        }
        if hosts == *dht.nodes.get_ref() { self.flaw(0..0, "peers", "a swarm needs peers") } else { Ok(()) }
    }

    /// Names of one kind, in lists of this field: well formed, and each once.
    fn check_names(
        &self,
        (field, kind): (&str, &str),
        names: impl Iterator<Item = &'a Spanned<String>>,
        is_name: fn(&str) -> bool,
        rule: &str,
    ) -> Checked {
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        if kind == "plugin" {
            taken.extend(self.plugins.keys().chain([&HOLEPUNCH]));
        }
        for (at, placed) in names.enumerate() {
            let (name, field) = (placed.get_ref(), format!("{field}[{at}].name"));
            if !is_name(name) {
                let what = format!("`{}` is no {kind}'s name: {rule}", name.escape_debug());
                return self.flaw(placed.span(), &field, what);
            }
            if !taken.insert(name) {
                return self.flaw(placed.span(), &field, format!("there is another {kind} called `{name}`"));
            }
        }
        Ok(())
    }

    fn check_program(&self, field: &str, program: &Program) -> Checked {
        let (field, command) = (format!("{field}.command"), program.command.get_ref());
        let flaw = |what: String| self.flaw(program.command.span(), &field, what);
        self.check_told(command, program.command.span(), &field)?;
        let Some(words) = shlex::split(command) else { return flaw("there is an open quote".to_owned()) };
        match words.first() {
            Some(word) if is_program(self.folder, word) => Ok(()),
            Some(word) if word.contains(is_separator) => flaw(format!("there is no program `{word}` in its folder")),
            Some(word) => flaw(format!("there is no program `{word}` on the PATH")),
            None => flaw("a program is expected here".to_owned()),
        }
    }

    /// The groups in a text's `{peers:GROUP}`.
    fn check_told(&self, text: &str, span: Range<usize>, field: &str) -> Checked {
        match told(text).into_iter().find(|group| !self.is_group(group)) {
            Some(group) => self.flaw(span, field, format!("there is no group `{group}`")),
            None => Ok(()),
        }
    }

    fn check_plugins(&mut self) -> Checked {
        let programs =
            self.scenario.programs.iter().map(|program| (program.name.get_ref().as_str(), process::build as Build));
        self.plugins.extend(programs);
        let all: BTreeSet<&str> = self.plugins.keys().copied().chain([HOLEPUNCH]).collect();
        let named = all.iter().copied().collect::<Vec<_>>().join(", ");
        let unknown = |name: &str| format!("there is no plugin `{name}`; there are: {named}");
        let groups = self.scenario.groups.iter().filter_map(|group| {
            let field = format!("peers.{}.plugins", group.name.get_ref());
            Some((field, group.plugins.as_ref()?))
        });
        let mut used = BTreeSet::new();
        for (field, named) in [("plugins".to_owned(), &self.scenario.plugins)].into_iter().chain(groups) {
            if let Some(name) = named.iter().find(|name| !all.contains(name.get_ref().as_str())) {
                return self.flaw(name.span(), &field, unknown(name.get_ref()));
            }
            used.extend(named.iter().map(|name| name.get_ref().as_str()));
        }
        for (plugin, settings) in &self.scenario.settings {
            if !self.plugins.contains_key(plugin.as_str()) {
                return self.flaw(first_place(settings), &format!("settings.{plugin}"), unknown(plugin));
            }
            let is_program = self.scenario.programs.iter().any(|program| program.name.get_ref() == plugin);
            for (key, value) in settings {
                if is_program && OF_THE_LAB.contains(&key.as_str()) {
                    let what = "the lab itself sets this, from what the [[program]] says";
                    return self.flaw(value.span(), &format!("settings.{plugin}.{key}"), what);
                }
                self.check_told(&value.get_ref().0, value.span(), &format!("settings.{plugin}.{key}"))?;
            }
            used.insert(plugin);
        }
        // The engine itself does that.
        used.remove(HOLEPUNCH);
        used.into_iter().try_for_each(|plugin| self.check_settings(plugin))
    }

    /// Would the plugin work with its settings? Then every engine of a run will have it.
    fn check_settings(&self, plugin: &str) -> Checked {
        let (build, means) = (self.plugins[plugin], conformance::island());
        let program = self.scenario.programs.iter().find(|program| program.name.get_ref() == plugin);
        let refusal = |settings: &BTreeMap<&String, &Spanned<Text>>| {
            let own = program
                .into_iter()
                .flat_map(|program| [("name", plugin), ("command", program.command.get_ref()), ("lockstep", "true")]);
            let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let told = settings.iter().map(|(key, value)| ((*key).clone(), with_somebody(&value.get_ref().0)));
            let settings = Settings(own.chain(told).collect());
            // A panic is dealt with in the run, as the engine does.
            let built = catch_unwind(AssertUnwindSafe(|| build(&means, &settings))).ok()?;
            built.err().map(|error| error.to_string())
        };
        let empty = BTreeMap::new();
        let settings = self.scenario.settings.get(plugin).unwrap_or(&empty);
        let Some(why) = refusal(&settings.iter().collect()) else { return Ok(()) };
        // The one for which it says the same when it stands alone.
        let meant = settings.iter().find(|setting| refusal(&BTreeMap::from([*setting])).as_ref() == Some(&why));
        match meant {
            Some((key, value)) => self.flaw(value.span(), &format!("settings.{plugin}.{key}"), why),
            None => self.flaw(first_place(settings), &format!("settings.{plugin}"), why),
        }
    }

    fn is_group(&self, name: &str) -> bool {
        self.scenario.groups.iter().any(|group| group.name.get_ref() == name)
    }

    fn check_groups(&self) -> Checked {
        for group in &self.scenario.groups {
            let field = |what: &str| format!("peers.{}.{what}", group.name.get_ref());
            self.check_named(&group.knows, &field("knows"))?;
            for (rate, what) in [(&group.up, "up"), (&group.down, "down")] {
                if let Some(rate) = rate.as_ref().filter(|rate| rate.get_ref().0 == 0) {
                    return self.flaw(rate.span(), &field(what), "nothing passes at 0 bytes a second");
                }
            }
            if *group.connections.get_ref() == 0 {
                return self.flaw(group.connections.span(), &field("connections"), "a peer needs at least one");
            }
            if let Some(leave) = group.leave.as_ref().filter(|at| at.get_ref().latest() <= group.join.earliest()) {
                return self.flaw(leave.span(), &field("leave"), "they are gone before they come");
            }
        }
        Ok(())
    }

    fn check_named(&self, named: &[Spanned<String>], field: &str) -> Checked {
        match named.iter().find(|name| !self.is_group(name.get_ref())) {
            Some(name) => self.flaw(name.span(), field, format!("there is no group `{}`", name.get_ref())),
            None => Ok(()),
        }
    }

    fn check_fault(&self, field: &str, fault: &Fault) -> Checked {
        let kinds = [fault.tracker.is_some(), fault.dht, fault.part.is_some(), fault.kill.is_some()];
        if kinds.into_iter().filter(|kind| *kind).count() != 1 {
            return self.flaw(fault.at.span(), field, "a fault has one of: tracker, dht, part, kill");
        }
        if let Some(until) = fault.until.as_ref().filter(|until| until.get_ref() <= fault.at.get_ref()) {
            return self.flaw(until.span(), &format!("{field}.until"), "it is over before it begins");
        }
        if let Some(name) = &fault.tracker
            && !self.scenario.trackers.iter().any(|tracker| tracker.name.get_ref() == name.get_ref())
        {
            let what = format!("there is no tracker `{}`", name.get_ref());
            return self.flaw(name.span(), &format!("{field}.tracker"), what);
        }
        let part = format!("{field}.part");
        if fault.part.as_ref().is_some_and(Vec::is_empty) {
            return self.flaw(fault.at.span(), &part, "it names no group");
        }
        self.check_named(fault.part.as_deref().unwrap_or_default(), &part)?;
        self.check_named(fault.kill.as_slice(), &format!("{field}.kill"))
    }
}

/// The groups in a text's `{peers:GROUP}`.
fn told(text: &str) -> Vec<&str> {
    text.split("{peers:").skip(1).map(|rest| rest.split_once('}').map_or(rest, |(group, _)| group)).collect()
}

/// A text with some address for each `{peers:GROUP}`: who will be there is not known yet.
fn with_somebody(text: &str) -> String {
    told(text).iter().fold(text.to_owned(), |text, group| text.replace(&format!("{{peers:{group}}}"), "192.0.2.1:6881"))
}

/// Where the first of these settings is.
fn first_place(settings: &BTreeMap<String, Spanned<Text>>) -> Range<usize> {
    settings.values().map(Spanned::span).min_by_key(|span| span.start).unwrap_or_default()
}

/// One word without a dot, which `--set` could not tell from a field.
fn is_word(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '.' || c.is_whitespace())
}

fn is_plugin_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A label of a host's name, in small letters: hosts are looked up so.
fn is_label(name: &str) -> bool {
    is_plugin_name(name) && name.len() <= LONGEST_LABEL && !name.starts_with('-') && !name.ends_with('-')
}

/// Is there a program of this name: from its folder on if it is a path, else on the PATH?
fn is_program(folder: &Path, word: &str) -> bool {
    let is_in = |place: &Path| {
        let file = folder.join(place);
        file.join(word).is_file() || file.join(format!("{word}{EXE_SUFFIX}")).is_file()
    };
    if word.contains(is_separator) {
        return is_in(Path::new(""));
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|place| is_in(&place)))
}
