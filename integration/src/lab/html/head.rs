//! What the page is about, and the answer in words.

use super::{
    Look, Section, named,
    write::{list, number, or_none, plural, signed, text, unit},
};
use crate::lab::{
    experiment::{Comparison, Experiment, FIGURES, Figure, Variant},
    statistics::Difference,
};

/// Runs below which even the same sign in all of them is no more than noise.
const FEWEST: usize = 8;

pub(super) fn header(look: &Look<'_>) -> String {
    let experiment = look.experiment;
    format!(
        "<header>\n<p class=\"kind\">Castanet lab</p>\n<h1>{}</h1>\n<p class=\"about\">{}</p>\n\
         <div class=\"answer\">\n{}</div>\n<dl>\n<div><dt>Seeds</dt><dd>{}</dd></div>\n{}\
         <div><dt>Hash</dt><dd><code>{}</code></dd></div>\n</dl>\n</header>\n",
        text(&experiment.scenario),
        text(&experiment.about),
        answer(experiment),
        seeds(&experiment.seeds),
        variants(look),
        experiment.hash(),
    )
}

/// The variants by name; nothing if there is but the scenario as it is.
fn variants(look: &Look<'_>) -> String {
    let title = match look.experiment.variants.as_slice() {
        [] => return String::new(),
        [only] if only.label.is_empty() => return String::new(),
        [_] => "Variant",
        _ => "Variants",
    };
    let names: String = look.variants().map(|(at, _)| format!("<span>{}</span> ", look.variant_name(at))).collect();
    format!("<div><dt>{title}</dt><dd class=\"names\">{names}</dd></div>\n")
}

/// Seeds that follow each other, from and to.
fn spans(seeds: &[u64]) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for seed in seeds {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*seed) => *last = *seed,
            _ => spans.push((*seed, *seed)),
        }
    }
    spans
}

fn seeds(seeds: &[u64]) -> String {
    let written: Vec<String> = spans(seeds)
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
        .collect();
    format!("{} ({})", list(&written), plural(seeds.len(), "run", "runs"))
}

/// What came out, for those who read no further.
fn answer(experiment: &Experiment) -> String {
    match experiment.variants.as_slice() {
        [] => "<p>Nothing was run.</p>\n".to_owned(),
        [only] => format!("<p>{}</p>\n", came_to(only)),
        [first, ..] => {
            experiment.comparisons.iter().map(|comparison| format!("<p>{}</p>\n", differs(comparison, first))).collect()
        }
    }
}

/// One variant: how many got there, and when.
fn came_to(variant: &Variant) -> String {
    let sum = |what: fn(&crate::lab::GroupReport) -> usize| -> usize {
        variant.reports.iter().map(|report| what(&report.seekers)).sum()
    };
    let (joined, complete) = (sum(|seekers| seekers.joined), sum(|seekers| seekers.complete));
    if joined == 0 {
        return "Nobody came who was to find the torrent.".to_owned();
    }
    let runs = plural(variant.reports.len(), "run", "runs");
    let share = number(complete as f64 / joined as f64 * 100.0);
    let completed = format!("<b>{complete} of {joined} honest peers completed</b> ({share}\u{a0}%) in {runs}");
    let estimate = variant.figures.get("completion");
    match estimate.and_then(|estimate| estimate.median.map(|median| (median, estimate.interval))) {
        Some((median, interval)) => {
            let within = interval.map(|(low, high)| format!(" (95\u{a0}%: {}\u{a0}s)", between(low, high)));
            format!(
                "{completed}, the median one <b>{}\u{a0}s</b>{} after joining.",
                number(median),
                within.unwrap_or_default()
            )
        }
        None => format!("{completed}."),
    }
}

pub(super) fn between(low: f64, high: f64) -> String {
    format!("{} to {}", number(low), number(high))
}

/// Two variants: what differs by more than noise.
fn differs(comparison: &Comparison, first: &Variant) -> String {
    let of_figure = |figure: &'static Figure| comparison.differences.get(figure.name).map(|found| (figure, found));
    let all: Vec<(&Figure, &Difference)> = FIGURES.iter().filter_map(of_figure).collect();
    let real: Vec<String> = all
        .iter()
        .filter(|(_, difference)| difference.is_real)
        .map(|(figure, difference)| in_words(figure, difference, first))
        .collect();
    let (of, with) = (text(named(&comparison.of)), text(named(&comparison.with)));
    let pair = format!("<strong>{of}</strong> against <strong>{with}</strong>");
    let runs = first.reports.len();
    if all.is_empty() {
        return format!("{pair}: no run has anything to compare.");
    }
    if !real.is_empty() {
        let others = if real.len() == all.len() { "" } else { " Nothing else differs by more than noise." };
        return format!("{pair}, over {}: {}.{others}", plural(runs, "run", "runs"), list(&real));
    }
    if runs < FEWEST {
        return format!(
            "{pair}: nothing can be told from noise by {} – it takes {FEWEST} or more.",
            plural(runs, "run", "runs")
        );
    }
    format!("{pair}: over {}, no figure differs by more than noise.", plural(runs, "run", "runs"))
}

fn in_words(figure: &Figure, difference: &Difference, first: &Variant) -> String {
    let way = if difference.median < 0.0 { "lower" } else { "higher" };
    let relative = relative(difference, figure, first).map(|share| format!(" ({}\u{a0}%)", signed(share)));
    let size = number(difference.median.abs());
    let (name, unit) = (figure.name, difference_unit(figure));
    format!("<em>{name}</em> is <b>{size}{unit} {way}</b>{}", relative.unwrap_or_default())
}

/// A difference in percent of what it is compared with, if that tells anything.
fn relative(difference: &Difference, figure: &Figure, first: &Variant) -> Option<f64> {
    let base = first.figures.get(figure.name)?.median?;
    (base.abs() > 1e-9 && figure.unit != "%").then(|| (difference.median / base * 100.0).round())
}

/// Two shares differ by points.
pub(super) fn difference_unit(figure: &Figure) -> String {
    unit(if figure.unit == "%" { "points" } else { figure.unit })
}

/// An estimate's middle with its interval below.
pub(super) fn estimate(variant: &Variant, figure: &Figure) -> String {
    let found = variant.figures.get(figure.name);
    let middle = or_none(found.and_then(|found| found.median), |median| number(median) + &unit(figure.unit));
    let interval = found.and_then(|found| found.interval).map(|(low, high)| between(low, high));
    format!("{middle}<small>{}</small>", interval.unwrap_or_default())
}

/// The command that gives the same again.
pub(super) fn replay_section(look: &Look<'_>) -> Section {
    let experiment = look.experiment;
    let commands: Vec<String> = spans(&experiment.seeds)
        .into_iter()
        .map(|(first, last)| {
            let runs = u128::from(last - first) + 1;
            format!("castanet lab {} --seed {first} --runs {runs}", text(&word(&experiment.scenario)))
        })
        .collect();
    let labels: Vec<String> = experiment
        .variants
        .iter()
        .filter(|variant| !variant.label.is_empty())
        .map(|variant| format!("<code>{}</code>", text(&variant.label)))
        .collect();
    let changes = if labels.is_empty() { String::new() } else { format!(" The variants: {}.", list(&labels)) };
    Section {
        id: "replay",
        title: "Replay",
        note: format!(
            "The same scenario, seeds and engine give every number on this page again, and the same hash.{changes}"
        ),
        body: format!("<pre class=\"scroll\" tabindex=\"0\"><code>{}</code></pre>\n", commands.join("\n")),
    }
}

/// As a shell takes it for one word.
fn word(raw: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./+=:,".contains(letter);
    if !raw.is_empty() && raw.chars().all(is_plain) {
        raw.to_owned()
    } else {
        format!("'{}'", raw.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_follow_each_other_are_one_span() {
        assert_eq!(spans(&[1, 2, 3, 7, u64::MAX, 0]), [(1, 3), (7, 7), (u64::MAX, u64::MAX), (0, 0)]);
        assert_eq!(seeds(&[4, 5, 9]), "4 to 5 and 9 (3\u{a0}runs)");
    }

    #[test]
    fn a_name_is_one_word_for_the_shell() {
        assert_eq!(word("scenarios/magnet-dht.toml"), "scenarios/magnet-dht.toml");
        assert_eq!(word("it's"), "'it'\\''s'");
    }
}
