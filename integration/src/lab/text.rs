//! An experiment for people, on a terminal.

use super::{
    experiment::{Comparison, Experiment, FIGURES, Figure, Variant},
    report::{GroupReport, PluginWorth, Report, Spread},
    statistics::{Difference, Estimate},
};

/// The experiment in lines: one run with all that there is to say, several by their medians.
pub fn lines(experiment: &Experiment) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", experiment.scenario, experiment.about)];
    for variant in &experiment.variants {
        lines.push(String::new());
        if !variant.label.is_empty() {
            lines.push(format!("{}:", variant.label));
        }
        match &variant.reports[..] {
            [report] => lines.extend(one(report)),
            reports => lines.extend(several(variant, reports)),
        }
    }
    for comparison in &experiment.comparisons {
        lines.push(String::new());
        lines.extend(compared(comparison, experiment.seeds.len()));
    }
    lines.push(String::new());
    lines.push(format!("{}, report {}", seeds(&experiment.seeds), experiment.hash()));
    lines
}

fn seeds(seeds: &[u64]) -> String {
    match seeds {
        [one] => format!("seed {one}"),
        [first, .., last] => format!("seeds {first} to {last}"),
        [] => "no seed".to_owned(),
    }
}

fn one(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("  ended after {}", time(Some(report.lasted)))];
    let title = [
        "group",
        "complete",
        "first peer",
        "metadata",
        "completion",
        "9 of 10",
        "sent",
        "received",
        "wasted",
        "fairness",
    ];
    lines.extend(table(title, report.groups.iter().map(group)));
    lines.push(String::new());
    lines.extend(plugins(&report.plugins));
    lines.extend(overlaps(&report.plugins));
    let contacts = report.peers.iter().flat_map(|peer| &peer.contact).filter(|contact| contact.hops > 0).count();
    lines.push(format!(
        "  {} connections; {contacts} first contacts by an address that peers had passed on",
        report.connections / 2
    ));
    lines
}

fn group(group: &GroupReport) -> [String; 10] {
    let median = |spread: &Spread| time(spread.median);
    [
        group.name.clone(),
        format!("{}/{}", group.complete, group.count),
        median(&group.first_peer),
        median(&group.metadata),
        median(&group.completion),
        time(group.completion.nine_of_ten),
        size(group.uploaded),
        size(group.downloaded),
        size(group.wasted),
        group.fairness.map_or_else(|| "-".into(), |fairness| format!("{fairness:.2}")),
    ]
}

fn plugins(plugins: &[PluginWorth]) -> Vec<String> {
    let title = [
        "peers by",
        "found",
        "alone",
        "connected",
        "useful",
        "refused",
        "banned",
        "gave",
        "first after",
        "packets",
        "first contacts",
    ];
    let row = |worth: &PluginWorth| {
        [
            worth.plugin.clone(),
            worth.found.to_string(),
            worth.alone.to_string(),
            worth.connected.to_string(),
            worth.useful.to_string(),
            worth.refused.to_string(),
            worth.banned.to_string(),
            size(worth.bytes),
            time(worth.first.median),
            worth.packets.to_string(),
            worth.first_contacts.to_string(),
        ]
    };
    table(title, plugins.iter().map(row))
}

/// Pairs of plugins that found the same peers.
fn overlaps(plugins: &[PluginWorth]) -> Vec<String> {
    let pairs = plugins.iter().flat_map(|one| one.shared.iter().map(move |(other, count)| (&one.plugin, other, count)));
    let each = pairs.filter(|(one, other, _)| one < other);
    let texts: Vec<String> = each.map(|(one, other, count)| format!("{one} and {other} {count}")).collect();
    if texts.is_empty() { Vec::new() } else { vec![format!("  found by both: {}", texts.join(", "))] }
}

fn several(variant: &Variant, reports: &[Report]) -> Vec<String> {
    let row = |figure: &Figure| {
        let Estimate { median, interval, .. } = &variant.figures[figure.name];
        let interval = interval.map_or_else(
            || "-".into(),
            |(low, high)| format!("{} to {}", value(figure, Some(low)), value(figure, Some(high))),
        );
        [figure.name.to_owned(), value(figure, *median), interval]
    };
    let mut lines = table(["median of the runs", "", "95 % interval"], FIGURES.iter().map(row));
    lines.push(String::new());
    let title = ["by group, medians", "complete", "completion", "9 of 10", "sent", "received", "wasted"];
    lines.extend(table(title, (0..reports[0].groups.len()).map(|at| group_in(reports, at))));
    lines.push(String::new());
    lines.push("  added up over the runs:".to_owned());
    let sums = added_up(reports);
    lines.extend(plugins(&sums));
    lines.extend(overlaps(&sums));
    lines
}

/// A group's usual run.
fn group_in(reports: &[Report], at: usize) -> [String; 7] {
    let middle = |what: &dyn Fn(&GroupReport) -> Option<f64>| {
        Spread::of(reports.iter().filter_map(|report| what(&report.groups[at])).collect()).median
    };
    let bytes = |what: fn(&GroupReport) -> u64| size(middle(&|group| Some(what(group) as f64)).unwrap_or(0.0) as u64);
    [
        reports[0].groups[at].name.clone(),
        middle(&GroupReport::complete_share).map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
        time(middle(&|group| group.completion.median)),
        time(middle(&|group| group.completion.nine_of_ten)),
        bytes(|group| group.uploaded),
        bytes(|group| group.downloaded),
        bytes(|group| group.wasted),
    ]
}

/// What each plugin brought in all runs; the times are those of the middle run.
fn added_up(reports: &[Report]) -> Vec<PluginWorth> {
    let mut sums: Vec<PluginWorth> = Vec::new();
    for worth in reports.iter().flat_map(|report| &report.plugins) {
        match sums.iter_mut().find(|sum| sum.plugin == worth.plugin) {
            Some(sum) => sum.add(worth),
            None => sums.push(worth.clone()),
        }
    }
    for sum in &mut sums {
        let all = reports.iter().flat_map(|report| report.plugins.iter().find(|worth| worth.plugin == sum.plugin));
        sum.first = Spread::of(all.filter_map(|worth| worth.first.median).collect());
    }
    sums
}

fn compared(comparison: &Comparison, runs: usize) -> Vec<String> {
    let row = |figure: &Figure| {
        let Difference { median, interval, chance, is_real } = comparison.differences.get(figure.name)?;
        let signed = |number: f64| format!("{}{}", if number > 0.0 { "+" } else { "" }, value(figure, Some(number)));
        let interval =
            interval.map_or_else(|| "-".into(), |(low, high)| format!("{} to {}", signed(low), signed(high)));
        let verdict = if *is_real { "more than noise" } else { "" };
        Some([figure.name.to_owned(), signed(*median), interval, format!("{chance:.4}"), verdict.to_owned()])
    };
    let mut lines = vec![format!("{} beside {}, run by run:", comparison.of, comparison.with)];
    lines.extend(table(["difference", "median", "95 % interval", "by chance", ""], FIGURES.iter().filter_map(row)));
    if runs < 8 {
        lines.push("  Fewer than 8 runs cannot tell a difference from noise: --runs 10".to_owned());
    }
    lines
}

fn value(figure: &Figure, value: Option<f64>) -> String {
    match (figure.unit, value) {
        (_, None) => "-".to_owned(),
        ("s", value) => time(value),
        ("%", Some(value)) => format!("{value:.1} %"),
        (_, Some(value)) if value.abs() < 10.0 => format!("{value:.2}"),
        (_, Some(value)) => format!("{value:.0}"),
    }
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"))
}

/// Bytes in powers of 1024.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Rows below a title, the first column to the left, all others to the right.
fn table<const N: usize>(title: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<String> {
    let mut all = vec![title.map(str::to_owned)];
    all.extend(rows);
    let widths: [usize; N] = std::array::from_fn(|at| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    all.iter().map(line).collect()
}
