//! An experiment as a page to read: one file that needs nothing else, neither a network nor a script.
//!
//! Words and numbers are HTML and the drawings SVG, both written by hand. Drawings measure in shares of their width and text in
//! pixels, so that a narrow screen gets a narrower drawing but no smaller letters. The same experiment gives the same bytes.

mod chart;
mod curves;
mod ends;
mod gave;
mod head;
mod hops;
mod tree;
mod versus;
mod worth;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::write::{swatch, text};
use super::{
    experiment::{Experiment, Variant},
    report::{GroupReport, PeerReport, Report, median},
};

const STYLE: &str = include_str!("page.css");
/// Colours there are for variants and for plugins; with more of them, they begin anew.
const COLOURS: usize = 8;

/// What one opens to see what an experiment came to.
pub fn page(experiment: &Experiment) -> String {
    let look = Look::of(experiment);
    let sections: Vec<Section> = [
        versus::section(&look),
        curves::section(&look),
        worth::section(&look),
        worth::overlap_section(&look),
        gave::section(&look),
        hops::section(&look),
        ends::section(&look),
        Some(head::replay_section(&look)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let links: String =
        sections.iter().map(|section| format!("<a href=\"#{}\">{}</a>\n", section.id, section.title)).collect();
    let bodies: String = sections.iter().map(Section::html).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n{}<nav aria-label=\"Sections\">\n{links}</nav>\n<main>\n{bodies}</main>\n</body>\n</html>\n",
        text(&experiment.scenario),
        head::header(&look),
    )
}

/// A part of the page.
struct Section {
    id: &'static str,
    title: &'static str,
    /// How to read it, in a sentence or two; HTML.
    note: String,
    body: String,
}

impl Section {
    fn html(&self) -> String {
        let Self { id, title, note, body } = self;
        format!("<section id=\"{id}\">\n<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{body}</section>\n")
    }
}

/// An experiment, and what its plugins look like on the whole page.
struct Look<'a> {
    experiment: &'a Experiment,
    /// The number of each plugin's colour, from 1 on.
    plugins: BTreeMap<&'a str, usize>,
}

impl<'a> Look<'a> {
    fn of(experiment: &'a Experiment) -> Self {
        let reports = || experiment.variants.iter().flat_map(|variant| &variant.reports);
        let worth = reports().flat_map(|report| report.plugins.iter().map(|worth| worth.plugin.as_str()));
        let hops = reports().flat_map(|report| report.hops.keys().map(String::as_str));
        let names: BTreeSet<&str> = worth.chain(hops).filter(|name| *name != "incoming").collect();
        Self { experiment, plugins: names.into_iter().zip(1..).collect() }
    }

    /// The class that gives a plugin's colour. Peers that nobody had named are grey.
    fn plugin(&self, name: &str) -> String {
        self.plugins.get(name).map_or_else(|| "p0".to_owned(), |at| format!("p{}", (at - 1) % COLOURS + 1))
    }

    /// A plugin's name with its colour.
    fn plugin_name(&self, name: &str) -> String {
        format!("{}{}", swatch(&self.plugin(name)), text(name))
    }

    /// The names of all plugins of a variant, in any of its runs.
    fn plugins_of(variant: &Variant) -> BTreeSet<&str> {
        let worth = variant.reports.iter().flat_map(|report| &report.plugins);
        worth.map(|worth| worth.plugin.as_str()).collect()
    }

    /// The variants, each with its place.
    fn variants(&self) -> impl Iterator<Item = (usize, &'a Variant)> {
        self.experiment.variants.iter().enumerate()
    }

    /// A heading for what is of one variant; nothing if there is only one.
    fn heading(&self, at: usize) -> String {
        if self.experiment.variants.len() < 2 {
            return String::new();
        }
        format!("<h3>{}</h3>\n", self.variant_name(at))
    }

    /// A variant's name with its colour.
    fn variant_name(&self, at: usize) -> String {
        format!("{}{}", swatch(&variant_class(at)), text(self.label(at)))
    }

    /// What a variant is called.
    fn label(&self, at: usize) -> &str {
        match self.experiment.variants.as_slice() {
            [only] if only.label.is_empty() => "all runs",
            all => named(all.get(at).map_or("", |variant| &variant.label)),
        }
    }
}

/// The class that gives a variant's colour.
fn variant_class(at: usize) -> String {
    format!("v{}", at % COLOURS)
}

/// A label, or words for having none.
fn named(label: &str) -> &str {
    if label.is_empty() { "as it is" } else { label }
}

/// The name of a peer's group: the peer's without its number.
fn group_name(peer: &PeerReport) -> &str {
    peer.name.rsplit_once(' ').map_or(peer.name.as_str(), |(group, _)| group)
}

/// A peer's group.
fn group_of<'a>(report: &'a Report, peer: &PeerReport) -> Option<&'a GroupReport> {
    report.groups.iter().find(|group| group.name == group_name(peer))
}

/// Had it every piece from the start?
fn is_seed(report: &Report, peer: &PeerReport) -> bool {
    group_of(report, peer).is_some_and(|group| group.seed)
}

/// The middle one of values in any order.
fn middle(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    median(&values)
}

/// The middle one of a count over all runs of a variant.
fn middle_of(variant: &Variant, count: impl Fn(&Report) -> u64) -> f64 {
    middle(variant.reports.iter().map(|report| count(report) as f64)).unwrap_or_default()
}
