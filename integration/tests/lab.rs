//! The engine's hard promises, held in the lab with many seeds: trading, the end of a download, the spread of pieces, power
//! cuts, partitions. `CASTANET_SEEDS` says how many seeds each has; thousands take minutes in a release build:
//! `CASTANET_SEEDS=1000 cargo test --release -p castanet-integration --test lab`
#![allow(missing_docs)]

use std::{fs, path::PathBuf, sync::Arc, thread};

use castanet_integration::lab::{
    GroupReport, Plan, Report, Scenario,
    experiment::{Form, conduct},
};

/// Seeds of each promise, unless the environment says otherwise.
const SEEDS: u64 = 40;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/lab")
}

fn seeds() -> u64 {
    std::env::var("CASTANET_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("CASTANET_SEEDS is a number"))
}

fn scenario(text: &str) -> Arc<Scenario> {
    Arc::new(Scenario::read(text, &folder(), &[]).unwrap_or_else(|error| panic!("{error}")))
}

/// Runs a scenario with every seed, and holds each report against a promise. Whoever breaks it is told with the command that
/// shows it again.
fn promise(name: &str, kept: impl Fn(&Report) -> Result<(), String>) {
    let text = fs::read_to_string(folder().join(format!("{name}.toml"))).expect("the scenario is there");
    let plan = Plan { name: name.into(), scenario: scenario(&text), folder: folder(), extra: Vec::new(), seed: 0 };
    let seeds: Vec<u64> = (1..=seeds()).collect();
    let replay = |seed| format!("castanet lab integration/tests/lab/{name}.toml --seed {seed}");
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let experiment = conduct(&[Form { label: String::new(), plan }], &seeds, jobs, &|_, _| {})
        .unwrap_or_else(|broken| panic!("{broken}\nsee it again: {}", replay(broken.seed)));
    let broken = experiment.variants[0].reports.iter().filter_map(|report| Some((report.seed, kept(report).err()?)));
    let broken: Vec<String> = broken.map(|(seed, why)| format!("{why}\n  see it again: {}", replay(seed))).collect();
    assert!(broken.is_empty(), "{} of {} seeds:\n{}", broken.len(), seeds.len(), broken.join("\n"));
}

fn group<'a>(report: &'a Report, name: &str) -> &'a GroupReport {
    report.groups.iter().find(|group| group.name == name).expect("the group is there")
}

fn hold(is_kept: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is_kept { Ok(()) } else { Err(what()) }
}

/// Everyone who should be is complete, within so many seconds.
fn all_complete(report: &Report, within: f64) -> Result<(), String> {
    let incomplete = report.groups.iter().find(|group| group.complete < group.count);
    incomplete
        .map_or(Ok(()), |group| Err(format!("{} of {} {} are complete", group.complete, group.count, group.name)))?;
    let last = report.completions.last().copied().unwrap_or_default();
    hold(last <= within, || format!("the last was complete after {last:.1} s, not {within} s"))
}

#[test]
fn who_gives_is_served_before_who_only_takes() {
    promise("tit-for-tat", |report| {
        all_complete(report, 1200.0)?;
        let [honest, riders] =
            ["honest", "riders"].map(|name| group(report, name).completion.median.unwrap_or(f64::MAX));
        hold(honest < riders, || format!("honest peers took {honest:.1} s, free riders {riders:.1} s"))?;
        hold(group(report, "riders").uploaded == 0, || "free riders gave something".into())
    });
}

#[test]
fn a_slow_peer_does_not_hold_up_the_end() {
    // 2 MiB at 512 KiB/s take 4 s if the seed sends each piece once and the leeches trade.
    promise("endgame", |report| all_complete(report, 16.0));
}

#[test]
fn rare_pieces_are_spread_before_their_seed_leaves() {
    promise("rarest-first", |report| all_complete(report, 400.0));
}

#[test]
fn a_power_cut_loses_no_piece_that_was_on_disk() {
    promise("crash", |report| {
        all_complete(report, 120.0)?;
        let leeches = group(report, "leeches");
        let (useful, needed) = (leeches.downloaded - leeches.wasted, 6 * 256 * (16 << 10));
        // What was under way when the power went is fetched again, and no more.
        hold(useful <= needed + needed / 20, || format!("{useful} bytes were fetched where {needed} are needed"))
    });
}

#[test]
fn who_was_cut_off_goes_on_when_the_network_is_whole() {
    promise("partition", |report| {
        all_complete(report, 400.0)?;
        let [near, far] = ["near", "far"].map(|name| group(report, name).completion.median.unwrap_or(f64::MAX));
        hold(near < 68.0 && far > 68.0, || format!("near {near:.1} s, far {far:.1} s: the cut did not part them"))
    });
}
