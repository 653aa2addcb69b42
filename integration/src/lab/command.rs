//! `castanet lab`: the command, for the program `castanet` and for programs that bring plugins of their own.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};

use super::{
    experiment::{Form, conduct},
    html,
    run::{Extra, Plan},
    scenario::{Change, Scenario},
    skeleton, text,
};

/// The longest scenario file in bytes.
const LONGEST: u64 = 1 << 20;
/// The most runs of one experiment.
const MOST_RUNS: u64 = 10_000;

/// What the command takes.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Lab {
    /// Something else than an experiment.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// A scenario file (docs/LAB.md)
    #[arg(required = true)]
    pub scenario: Option<PathBuf>,
    /// The seed of the first run; each further run has the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many runs, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_RUNS))]
    pub runs: u64,
    /// Compares forms of the scenario, such as plugins=dht,dht+pex or peers.leeches.count=10,100 (repeatable)
    #[arg(long, value_name = "FIELD=A,B...", value_parser = variation)]
    pub vary: Vec<(String, Vec<String>)>,
    /// Changes a field of the scenario for all runs (repeatable)
    #[arg(long, value_name = "FIELD=VALUE", value_parser = change)]
    pub set: Vec<Change>,
    /// How many runs at once [default: one per core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// One JSON object on stdout: all runs, with every peer
    #[arg(long)]
    pub json: bool,
    /// Draws the result into a file that needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What there is besides experiments.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Write a discovery plugin that works, in Python or Rust, with its scenario and its test, to begin with
    NewPlugin {
        /// Its name: small letters, digits and `-`
        name: String,
        /// Where [default: a new folder of that name]
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// In Rust, not Python; CHECKOUT is a folder with Castanet's sources, for Cargo to build upon
        #[arg(long, value_name = "CHECKOUT")]
        rust: Option<PathBuf>,
    },
}

fn change(text: &str) -> Result<Change, String> {
    let wrong = || format!("`{}` is not FIELD=VALUE, such as network.loss=0.01", text.escape_debug());
    let (field, value) = text.split_once('=').filter(|(field, _)| !field.is_empty()).ok_or_else(wrong)?;
    Ok(Change { field: field.to_owned(), value: value.to_owned() })
}

fn variation(text: &str) -> Result<(String, Vec<String>), String> {
    let wrong = || format!("`{}` is not FIELD=A,B..., such as plugins=dht,dht+pex", text.escape_debug());
    let Change { field, value } = change(text).map_err(|_| wrong())?;
    let values: Vec<String> = value.split(',').map(|value| value.trim().to_owned()).collect();
    if values.len() < 2 { Err(wrong()) } else { Ok((field, values)) }
}

impl Lab {
    /// Runs what was asked for. `extra` are plugins besides the built-in ones, and `print` takes each line of the result.
    ///
    /// # Errors
    /// In words, if the scenario cannot be read or makes no sense, a run breaks, or the result cannot be written.
    pub fn run(&self, extra: &[Extra], print: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if let Some(Action::NewPlugin { name, folder, rust }) = &self.action {
            let folder = folder.clone().unwrap_or_else(|| PathBuf::from(name));
            return skeleton::write(name, &folder, rust.as_deref())?.iter().try_for_each(|line| print(line));
        }
        let file = self.scenario.as_deref().context("which scenario?")?;
        let forms = self.forms(file, extra)?;
        let last = self.seed.checked_add(self.runs - 1).ok_or_else(|| anyhow!("there are no seeds so large"))?;
        let seeds: Vec<u64> = (self.seed..=last).collect();
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let shows = io::stderr().is_terminal();
        let through = |done: usize, all: usize| {
            if shows && all > 1 {
                eprint!("\r{done} of {all} runs{}", if done == all { "\n" } else { "" });
            }
        };
        let experiment = conduct(&forms, &seeds, jobs, &through).map_err(|broken| {
            let replay = format!("castanet lab {} --seed {}", file.display(), broken.seed);
            anyhow!("{broken}\nTo see it again: {replay}")
        })?;
        if let Some(file) = &self.html {
            fs::write(file, html::page(&experiment)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.json {
            return print(&experiment.to_json());
        }
        text::lines(&experiment).iter().try_for_each(|line| print(line))
    }

    /// Every form of the scenario that is asked for.
    fn forms(&self, path: &Path, extra: &[Extra]) -> Result<Vec<Form>> {
        let file = path.display();
        let text = read(path).with_context(|| format!("cannot read the scenario {file}"))?;
        let builtin = castanet::BUILTIN_PLUGINS.iter().filter(|(name, _)| !castanet::OPT_IN_PLUGINS.contains(name));
        let names: BTreeSet<String> = builtin.chain(extra).map(|(name, _)| (*name).to_owned()).collect();
        // What is wrong with the file as it is is told with its line.
        Scenario::read(&text, &names).with_context(|| file.to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut forms = Vec::new();
        for changes in self.variations() {
            let all: Vec<Change> = self.set.iter().chain(&changes).cloned().collect();
            let scenario = Scenario::changed(&text, &all, &names).with_context(|| format!("{file}, changed"))?;
            let label = changes.iter().map(|change| format!("{} = {}", change.field, change.value));
            let (scenario, folder, extra) = (Arc::new(scenario), folder.to_owned(), extra.to_vec());
            let plan = Plan { name: name.clone(), scenario, folder, extra, seed: 0 };
            forms.push(Form { label: label.collect::<Vec<_>>().join(", "), plan });
        }
        Ok(forms)
    }

    /// Every combination of what is varied.
    fn variations(&self) -> Vec<Vec<Change>> {
        let mut all = vec![Vec::new()];
        for (field, values) in &self.vary {
            let with = |before: &Vec<Change>, value: &String| {
                let change = Change { field: field.clone(), value: value.clone() };
                before.iter().cloned().chain([change]).collect()
            };
            all = all
                .iter()
                .flat_map(|before| values.iter().map(|value| with(before, value)).collect::<Vec<_>>())
                .collect();
        }
        all
    }
}

fn read(file: &Path) -> Result<String> {
    if fs::metadata(file)?.len() > LONGEST {
        bail!("it is longer than 1 MiB");
    }
    Ok(fs::read_to_string(file)?)
}
