//! `castanet plugins`: the ways of finding peers, and whether one keeps the contract.

use std::process::ExitCode;

use anyhow::{Result, bail};
use castanet::{
    BUILTIN_PLUGINS, OPT_IN_PLUGINS,
    conformance::{self, Check, Options, Report},
    seams::discovery::Settings as PluginSettings,
};
use serde::Serialize;

use crate::{
    args::{Common, Plugins, PluginsAction},
    config::Settings,
    output,
};

/// Lists the plugins, or checks one.
pub(crate) async fn run(plugins: &Plugins, common: &Common) -> Result<ExitCode> {
    match &plugins.action {
        None => list(common),
        Some(PluginsAction::Check { plugin, json }) => check(plugin, *json).await,
    }
}

/// What a built-in plugin finds, and what it needs for that.
fn about(name: &str) -> (&'static str, &'static str) {
    match name {
        "fixed" => ("the peers named with --peer or by a magnet link", "nothing"),
        "http-tracker" => ("peers by http: and https: trackers", "a tracker in the torrent or --tracker"),
        "udp-tracker" => ("peers by udp: trackers", "a tracker in the torrent or --tracker, UDP"),
        "dht" => ("peers by the distributed hash table", "UDP, one node to begin with"),
        "mainline" => ("peers by the DHT, as the crate mainline does it", "UDP over a socket of its own, IPv4"),
        "magnet" => ("trackers, peers and the torrent file that a magnet link names", "a magnet link"),
        "pex" => ("peers by those that are connected", "one peer"),
        "lsd" => ("peers in the local network", "multicast"),
        _ => ("peers", "nothing"),
    }
}

fn list(common: &Common) -> Result<ExitCode> {
    for (name, _) in BUILTIN_PLUGINS {
        let (finds, needs) = about(name);
        let place = if OPT_IN_PLUGINS.contains(name) { "built in, off unless --plugins names it" } else { "built in" };
        output::print(&format!("{name:<14} {place}; finds {finds}; needs {needs}"))?;
    }
    // What is built in can be told of whatever the file is like.
    match Settings::read(common).and_then(|settings| settings.programs()) {
        Ok(programs) => {
            for (name, command) in programs {
                output::print(&format!("{name:<14} in another program: {}", command.escape_debug()))?;
            }
        }
        Err(error) => output::say(&output::human::failure(&error)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(plugin: &str, json: bool) -> Result<ExitCode> {
    if plugin.trim().is_empty() {
        bail!("there is no program without a name");
    }
    let (means, options) = (conformance::island(), Options::default());
    let report = match BUILTIN_PLUGINS.iter().find(|(name, _)| *name == plugin) {
        Some((_, build)) => conformance::check(|| build(&means, &PluginSettings::default()), &options).await,
        None => {
            let settings =
                [("name", "plugin"), ("command", plugin)].map(|(key, text)| (key.to_owned(), text.to_owned()));
            conformance::check_program(&means, &PluginSettings(settings.into()), &options).await
        }
    };
    print(&report, json)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A check, or at the end how many there were. Fields are added, never renamed.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Check { name: &'a str, passed: bool, detail: &'a str },
    Summary { passed: usize, failed: usize },
}

fn print(report: &Report, json: bool) -> Result<()> {
    let passed = report.checks.iter().filter(|check| check.passed).count();
    let failed = report.checks.len() - passed;
    if json {
        let checks = report.checks.iter();
        let checks = checks.map(|Check { name, passed, detail }| Line::Check { name, passed: *passed, detail });
        for line in checks.chain([Line::Summary { passed, failed }]) {
            output::print(&serde_json::to_string(&line)?)?;
        }
        return Ok(());
    }
    for Check { name, passed, detail } in &report.checks {
        output::print(&format!("{:<6} {name}: {detail}", if *passed { "ok" } else { "FAILED" }))?;
    }
    output::print(&match failed {
        0 => format!("All {passed} checks passed."),
        _ => format!("{failed} of {} checks failed.", report.checks.len()),
    })
}
