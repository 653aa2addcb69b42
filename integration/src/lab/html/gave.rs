//! Who gave how much for what they took.

use super::{
    Look, Section,
    chart::Axis,
    group_name, middle, variant_class,
    write::{NONE, bar, bytes, cell, fixed, number, or_none, row, table, text},
};
use crate::lab::{
    experiment::Variant,
    report::{GroupReport, Report},
};

/// Peers of a group that are drawn one by one.
const DRAWN: usize = 300;

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let is_empty = look.variants().all(|(_, variant)| variant.reports.iter().all(|report| report.groups.is_empty()));
    (!is_empty).then(|| Section {
        id: "fairness",
        title: "Who gave, and who took",
        note: "Bytes of one peer of the group, the median run. Each dot is a peer of the first run, placed by how much it sent for \
               each byte it received. Fairness is Jain's index of these ratios: 1 if all gave alike, near 0 if one gave for all."
            .to_owned(),
        body: look.variants().map(|(at, variant)| look.heading(at) + &of_variant(look, at, variant)).collect(),
    })
}

fn of_variant(look: &Look<'_>, at: usize, variant: &Variant) -> String {
    let Some(first) = variant.reports.first() else { return "<p class=\"none\">Nobody was there.</p>\n".to_owned() };
    let across = Axis::to(most_ratio(look));
    let most = most_bytes(look);
    let class = variant_class(at);
    let rows: Vec<String> = first
        .groups
        .iter()
        .map(|group| {
            let sent = each(variant, &group.name, |group| group.uploaded);
            let taken = each(variant, &group.name, |group| group.downloaded);
            let wasted = each(variant, &group.name, |group| group.wasted);
            let joined = middle(of_runs(variant, &group.name).map(|group| group.joined as f64));
            let fairness = middle(of_runs(variant, &group.name).filter_map(|group| group.fairness));
            let cells = [
                cell(&or_none(joined, super::write::count)),
                bar(sent, most, &class, bytes),
                bar(taken, most, &class, bytes),
                cell(&or_none(wasted, bytes)),
                ratios(first, &group.name, across, &class),
                cell(&or_none(fairness, |fairness| fixed(fairness, 2))),
            ];
            row(&text(&group.name), &cells)
        })
        .collect();
    let scale = format!(
        "<span class=\"ends\"><span>0</span><span>sent per byte received</span><span>{}</span></span>",
        across.written_end()
    );
    let heads = ["", "Came", "Sent", "Received", "Wasted", &scale, "Fairness"].map(str::to_owned);
    table(&heads, &rows)
}

fn of_runs<'a>(variant: &'a Variant, name: &str) -> impl Iterator<Item = &'a GroupReport> {
    variant.reports.iter().filter_map(move |report| report.groups.iter().find(|group| group.name == name))
}

/// What one of the group comes to, in the median run.
fn each(variant: &Variant, name: &str, what: fn(&GroupReport) -> u64) -> Option<f64> {
    let came = of_runs(variant, name).filter(|group| group.joined > 0);
    middle(came.map(|group| what(group) as f64 / group.joined as f64))
}

/// The longest bar of all variants.
fn most_bytes(look: &Look<'_>) -> f64 {
    let bars = look.variants().flat_map(|(_, variant)| {
        let names = variant.reports.first().into_iter().flat_map(|report| &report.groups);
        names.flat_map(|group| {
            [each(variant, &group.name, |group| group.uploaded), each(variant, &group.name, |group| group.downloaded)]
        })
    });
    bars.flatten().fold(0.0, f64::max)
}

/// What each peer of a group sent for each byte it received, of those that received any.
fn ratios_of<'a>(report: &'a Report, group: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let members = report.peers.iter().filter(move |peer| group_name(peer) == group && peer.downloaded > 0);
    members.map(|peer| (peer.name.as_str(), peer.uploaded as f64 / peer.downloaded as f64))
}

fn most_ratio(look: &Look<'_>) -> f64 {
    let firsts = look.variants().filter_map(|(_, variant)| variant.reports.first());
    let all = firsts.flat_map(|report| report.groups.iter().flat_map(|group| ratios_of(report, &group.name)));
    all.fold(1.0, |most, (_, ratio)| most.max(ratio))
}

/// Peers as dots along a line, one above the other in three rows so that fewer hide each other.
fn ratios(report: &Report, group: &str, across: Axis, class: &str) -> String {
    let all: Vec<(&str, f64)> = ratios_of(report, group).collect();
    if all.is_empty() {
        return format!("<td class=\"wide none\">{NONE}</td>");
    }
    let step = all.len().div_ceil(DRAWN);
    let mut svg = format!(
        "<svg class=\"strip {class}\" role=\"img\" aria-label=\"Sent per byte received, each peer\">\n\
         <line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"15\" y2=\"15\"/>\
         <line class=\"axis\" x1=\"{0:.2}%\" x2=\"{0:.2}%\" y1=\"2\" y2=\"28\"/>\n",
        across.percent(1.0)
    );
    for (at, (name, ratio)) in all.iter().enumerate().step_by(step) {
        let y = 9 + 6 * (at / step % 3);
        svg += &format!(
            "<circle cx=\"{:.2}%\" cy=\"{y}\" r=\"4\"><title>{}: {}</title></circle>\n",
            across.percent(*ratio),
            text(name),
            number(*ratio)
        );
    }
    format!("<td class=\"wide\">{svg}</svg></td>")
}
