//! The program `castanet`: one command a file in `commands`, all of it over the façade library.

mod args;
mod commands;
mod config;
mod damage;
mod hashing;
mod interrupt;
mod network;
mod output;
mod source;
mod swarm;
mod values;

use std::{io, process::ExitCode, sync::Once};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use interrupt::Interrupt;
use output::{ClosedOutput, above_bars, has_screen, human::failure, say};

fn main() -> ExitCode {
    hide_panics();
    let cli = Cli::parse();
    log(cli.common.verbose);
    match run(cli) {
        Ok(code) => code,
        // Who closed our output knows how far we came; it is no success only if there was more to do than to print.
        Err(error) if error.is::<ClosedOutput>() => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("castanet: {}", failure(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { common, command } = cli;
    let interrupt = || Interrupt::listen().context("cannot listen for interruptions");
    match command {
        Command::Get(get) => download(commands::get::run(get, &common, interrupt()?)),
        Command::Seed(seed) => download(commands::seed::run(seed, &common, interrupt()?)),
        Command::Create(create) => commands::create::run(&create, &interrupt()?),
        Command::Show(show) => on_runtime(commands::show::run(show, &common)),
        Command::Verify(verify) => on_runtime(commands::verify::run(verify, &common, interrupt()?)),
        Command::Discover(discover) => on_runtime(commands::discover::run(discover, &common, interrupt()?)),
        Command::Demo(demo) => on_runtime(commands::demo::run(&demo, interrupt()?)),
        Command::Lab(lab) => commands::lab::run(&lab),
        Command::Plugins(plugins) => on_runtime(commands::plugins::run(&plugins, &common)),
        Command::Config => commands::config::run().map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => commands::completions::run(shell).map(|()| ExitCode::SUCCESS),
        Command::Man => commands::man::run().map(|()| ExitCode::SUCCESS),
    }
}

/// Runs what takes an engine. The engine has threads of its own: one thread is enough to watch it.
fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(command)
}

/// As [`on_runtime`], for commands that have more to do than to print: stopped early, they have failed.
fn download(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    match on_runtime(command) {
        Err(error) if error.is::<ClosedOutput>() => Ok(ExitCode::FAILURE),
        ended => ended,
    }
}

/// Logs to stderr what RUST_LOG or `-v` ask for; else only warnings that no message to the user repeats.
fn log(verbose: u8) {
    let filter = match (std::env::var("RUST_LOG"), verbose) {
        (Ok(filter), 0) if !filter.is_empty() => EnvFilter::new(filter),
        (_, 0) => EnvFilter::new("warn,castanet_actors::torrent=error"),
        (_, 1) => EnvFilter::new("info"),
        (_, 2) => {
            EnvFilter::new("info,castanet=debug,castanet_actors=debug,castanet_plugins=debug,castanet_storage=debug")
        }
        (_, _) => EnvFilter::new("trace"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(has_screen()).with_writer(|| AboveBars).init();
}

/// stderr, with the bars out of the way.
struct AboveBars;

impl io::Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        above_bars(|| io::stderr().write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A defect shows as one sentence, not as a stack of program text. Actors are supervised: the rest goes on.
fn hide_panics() {
    static ONCE: Once = Once::new();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(%panic, "panic");
        ONCE.call_once(|| {
            say(&format!(
                "castanet: an internal error happened at {place}; please report it. What is on disk is safe."
            ));
        });
    }));
}
