//! Scratch.
use castanet_integration::lab::{Plan, Scenario, run};
use std::{collections::BTreeSet, sync::Arc, time::Instant};
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let seed = std::env::args().nth(2).map_or(1, |s| s.parse().unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    let plugins: BTreeSet<String> = castanet::BUILTIN_PLUGINS.iter().map(|(n, _)| n.to_string()).collect();
    let scenario = Scenario::read(&text, &plugins).unwrap_or_else(|e| panic!("{e}"));
    let begun = Instant::now();
    let report = run(&Plan { name: path, scenario: Arc::new(scenario), folder: ".".into(), extra: vec![], seed });
    println!("{}", serde_json::to_string_pretty(&(&report.groups, &report.plugins, &report.hops, &report.ends, report.connections)).unwrap());
    println!("{} lasted {} events {} took {:?}", report.hash(), report.lasted, report.events, begun.elapsed());
}
