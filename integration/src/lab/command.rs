//! `castanet lab`: the command, for the program `castanet` and for programs that bring plugins of their own.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};

use super::{
    experiment::{Broken, Form, conduct},
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
        let cannot_write =
            || self.html.as_ref().map(|page| format!("cannot write {}", page.display())).unwrap_or_default();
        // Before the runs, which may take hours.
        self.html.as_deref().map_or(Ok(()), try_to_write).with_context(cannot_write)?;
        let experiment = conduct(&forms, &seeds, jobs, &through)
            .map_err(|broken| anyhow!("{broken}\nTo see it again: {}", self.replay(file, &broken, extra)))?;
        if let Some(page) = &self.html {
            fs::write(page, html::page(&experiment)).with_context(cannot_write)?;
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
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What is wrong with the file as it is is told with its line.
        Scenario::read(&text, folder, extra).with_context(|| file.to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut forms = Vec::new();
        for changes in self.variations() {
            let all: Vec<Change> = self.set.iter().chain(&changes).cloned().collect();
            let scenario = Scenario::changed(&text, &all, folder, extra).with_context(|| format!("{file}, changed"))?;
            let label = changes.iter().map(|change| format!("{} = {}", change.field, change.value));
            let (scenario, folder, extra) = (Arc::new(scenario), folder.to_owned(), extra.to_vec());
            let plan = Plan { name: name.clone(), scenario, folder, extra, seed: 0 };
            forms.push(Form { label: label.collect::<Vec<_>>().join(", "), plan });
        }
        Ok(forms)
    }

    /// The command that shows a broken run again, and nothing else.
    fn replay(&self, file: &Path, broken: &Broken, extra: &[Extra]) -> String {
        // Who has plugins of its own is another program, with the lab's arguments.
        let own = env::args_os().next().filter(|_| !extra.is_empty());
        let own = own.map(|own| vec![own.to_string_lossy().into_owned()]);
        let mut words = own.unwrap_or_else(|| vec!["castanet".into(), "lab".into()]);
        words.extend([file.display().to_string(), "--seed".into(), broken.seed.to_string()]);
        for Change { field, value } in self.set.iter().chain(&self.variations()[broken.form]) {
            words.extend(["--set".into(), format!("{field}={value}")]);
        }
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
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

/// Can this file be written? What is in it stays.
fn try_to_write(file: &Path) -> io::Result<()> {
    match fs::metadata(file) {
        Ok(there) if there.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")),
        Ok(there) if there.is_file() => OpenOptions::new().append(true).open(file).map(drop),
        // Such as a pipe: whoever reads it would take an attempt for the end.
        Ok(_) => Ok(()),
        Err(_) => OpenOptions::new().write(true).create_new(true).open(file).and_then(|_| fs::remove_file(file)),
    }
}

fn read(file: &Path) -> Result<String> {
    if fs::metadata(file)?.len() > LONGEST {
        bail!("it is longer than 1 MiB");
    }
    Ok(fs::read_to_string(file)?)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        lab: Lab,
    }

    const TWO: &str = r#"
about = "Two who know each other."
for = "1m"
plugins = []
torrent.pieces = 2
[[peers]]
name = "seed"
seed = true
[[peers]]
name = "leech"
knows = ["seed"]
"#;

    fn lab(words: &[&str], extra: &[Extra]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let Program { lab } = Program::parse_from([&["lab"], words].concat());
        lab.run(extra, &mut |line| {
            lines.push(line.to_owned());
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn a_broken_run_is_told_with_the_whole_command() {
        let folder = tempfile::tempdir().unwrap();
        let (file, page) = (folder.path().join("two of us.toml"), folder.path().join("page.html"));
        fs::write(&file, TWO).unwrap();
        let (file, drawn) = (file.to_str().unwrap(), page.to_str().unwrap());
        let extra: Extra = ("fragile", |_, _| panic!("it broke"));
        let args = [file, "--seed", "5", "--runs", "2", "--jobs", "1", "--html", drawn, "--set", "about=Two, who"];
        let vary = ["--vary", "plugins=,fragile", "--vary", "peers.leech.count=1,2"];
        fs::write(&page, "the page before").unwrap();
        let broken = lab(&[&args[..], &vary].concat(), slice::from_ref(&extra)).unwrap_err().to_string();
        let replay = broken.lines().last().unwrap().strip_prefix("To see it again: ").unwrap();
        let words = shlex::split(replay).unwrap();
        let set = ["--set", "about=Two, who", "--set", "plugins=fragile", "--set", "peers.leech.count=1"];
        let own = env::args().next().unwrap();
        assert_eq!(words, [&[&own, file, "--seed", "5"], &set[..]].concat());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let again = lab(&words[1..], slice::from_ref(&extra)).unwrap_err().to_string();
        assert!(again.contains("the run with seed 5 broke off"), "{again}");
        assert_eq!(fs::read_to_string(&page).unwrap(), "the page before");
    }

    #[test]
    fn a_plugin_of_ones_own_refuses_its_settings_in_its_own_words() {
        let build: castanet::seams::discovery::Build = |_, settings| {
            let why = if settings.0.contains_key("depth") { "it is too deep" } else { "it needs a depth" };
            Err(castanet::seams::discovery::DiscoveryError::Unusable(why.into()))
        };
        let told = |head: &str| {
            let text = TWO.replacen("plugins = []", &format!("plugins = [\"mine\"]\n{head}"), 1);
            Scenario::read(&text, Path::new("."), &[("mine", build)]).unwrap_err().to_string()
        };
        assert_eq!(told(""), "settings.mine: it needs a depth");
        assert_eq!(told("settings.mine.colour = 1"), "line 5, settings.mine.colour: it needs a depth");
        assert_eq!(told("settings.mine = { depth = 3, colour = 1 }"), "line 5, settings.mine.depth: it is too deep");
    }

    #[test]
    fn http_trackers_are_reached_by_tcp_whatever_peers_use() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("utp.toml");
        let tracker = "[[tracker]]\nname = \"one\"\n";
        let text = TWO.replace("plugins = []", "plugins = [\"http-tracker\"]").replace("knows = [\"seed\"]\n", tracker);
        fs::write(&file, text).unwrap();
        for transports in ["utp", "tcp", "tcp+utp", "utp+tcp"] {
            let set = format!("network.transports={transports}");
            let lines = lab(&[file.to_str().unwrap(), "--json", "--set", &set], &[]).unwrap();
            let report: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!(report["variants"][0]["reports"][0]["seekers"]["complete"], 1, "{transports}: {lines:?}");
        }
    }
}
