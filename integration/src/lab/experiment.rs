//! Several runs of one scenario, as it is and changed: what they have in common, and whether a difference is more than noise.
//!
//! Variants are run with the same seeds, so that they are compared pair by pair. Every number here follows from the reports
//! alone.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use castanet_core::digest::sha1;
use serde::Serialize;

use super::{
    report::{Report, hex, median},
    run::{Plan, run},
    statistics::{Difference, Estimate},
};

/// One form of the scenario.
#[derive(Debug, Clone)]
pub struct Form {
    /// How it differs from the others; empty if there is only one.
    pub label: String,
    /// What is run. Its seed is replaced.
    pub plan: Plan,
}

/// What came of all runs.
#[derive(Debug, Clone, Serialize)]
pub struct Experiment {
    /// The scenario.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// The seed of each run.
    pub seeds: Vec<u64>,
    /// Each form of the scenario, with its runs.
    pub variants: Vec<Variant>,
    /// Every form but the first, compared with the first.
    pub comparisons: Vec<Comparison>,
}

/// One form of the scenario and its runs.
#[derive(Debug, Clone, Serialize)]
pub struct Variant {
    /// How it differs.
    pub label: String,
    /// The figures over all runs.
    pub figures: BTreeMap<&'static str, Estimate>,
    /// Each run, in the order of the seeds.
    pub reports: Vec<Report>,
}

/// One form beside another.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The one.
    pub of: String,
    /// The other.
    pub with: String,
    /// By figure: `of` minus `with`.
    pub differences: BTreeMap<&'static str, Difference>,
}

/// A run that broke.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the run with seed {seed}{} broke off: {reason}", if label.is_empty() { String::new() } else { format!(" and {label}") })]
pub struct Broken {
    /// Its seed.
    pub seed: u64,
    /// The place of its form among all forms.
    pub form: usize,
    /// How that form differs from the others.
    pub label: String,
    /// Why, as the engine or the universe put it.
    pub reason: String,
}

/// A figure that a run comes to.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is called.
    pub name: &'static str,
    /// Its unit: `s`, `%` or empty.
    pub unit: &'static str,
    /// The figure, if the run has it.
    pub of: fn(&Report) -> Option<f64>,
}

/// The figures by which runs are compared, over all honest peers that began without the torrent.
pub const FIGURES: &[Figure] = &[
    Figure { name: "complete", unit: "%", of: |run| run.seekers.complete_share().map(|share| share * 100.0) },
    Figure { name: "first peer", unit: "s", of: |run| run.seekers.first_peer.median },
    Figure { name: "metadata", unit: "s", of: |run| run.seekers.metadata.median },
    Figure { name: "completion", unit: "s", of: |run| run.seekers.completion.median },
    Figure { name: "completion of nine in ten", unit: "s", of: |run| run.seekers.completion.nine_of_ten },
    Figure { name: "packets for finding, each", unit: "", of: |run| run.seekers.each(|worth| worth.packets, run) },
    Figure { name: "peers found, each", unit: "", of: |run| run.seekers.each(|worth| worth.found, run) },
    Figure { name: "useful peers, each", unit: "", of: |run| run.seekers.each(|worth| worth.useful, run) },
    Figure { name: "wasted", unit: "%", of: |run| run.seekers.wasted_share().map(|share| share * 100.0) },
    Figure { name: "fairness", unit: "", of: |run| run.seekers.fairness },
];

/// Runs every form with every seed, as many at once as there are `jobs`, and tells each that is through.
///
/// # Errors
/// If a run breaks: the first of them, in the order of forms and seeds.
pub fn conduct(
    forms: &[Form],
    seeds: &[u64],
    jobs: usize,
    through: &(dyn Fn(usize, usize) + Sync),
) -> Result<Experiment, Broken> {
    let all = forms.len() * seeds.len();
    let (next, done, results) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|place| *place < all);
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, all.max(1)) {
            scope.spawn(|| {
                while let Some(place) = take() {
                    let result = one(forms, place / seeds.len(), seeds[place % seeds.len()]);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(place, result);
                    through(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let reports = results.into_values().collect::<Result<Vec<Report>, Broken>>()?;
    let mut reports = reports.into_iter();
    let variants: Vec<Variant> = forms
        .iter()
        .map(|form| Variant::of(form.label.clone(), reports.by_ref().take(seeds.len()).collect()))
        .collect();
    let comparisons = variants
        .split_first()
        .map_or_else(Vec::new, |(first, others)| others.iter().map(|other| Comparison::of(other, first)).collect());
    let plan = forms.first().map(|form| &form.plan);
    Ok(Experiment {
        scenario: plan.map(|plan| plan.name.clone()).unwrap_or_default(),
        about: plan.map(|plan| plan.scenario.about.clone()).unwrap_or_default(),
        seeds: seeds.to_vec(),
        variants,
        comparisons,
    })
}

/// One run. A panic is told as what it says.
fn one(forms: &[Form], form: usize, seed: u64) -> Result<Report, Broken> {
    let Form { label, plan } = &forms[form];
    let plan = Plan { seed, ..plan.clone() };
    catch_unwind(AssertUnwindSafe(|| run(&plan))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Broken { seed, form, label: label.clone(), reason: text.unwrap_or("for an unknown reason").to_owned() }
    })
}

impl Variant {
    fn of(label: String, reports: Vec<Report>) -> Self {
        let estimate = |figure: &Figure| (figure.name, Estimate::of(reports.iter().map(figure.of).collect()));
        Self { label, figures: FIGURES.iter().map(estimate).collect(), reports }
    }
}

impl Comparison {
    fn of(one: &Variant, other: &Variant) -> Self {
        let difference = |figure: &Figure| {
            let pairs = one.figures[figure.name].values.iter().zip(&other.figures[figure.name].values);
            let differences: Option<Vec<f64>> = pairs.map(|(one, other)| Some((*one)? - (*other)?)).collect();
            Some((figure.name, Difference::of(differences?)?))
        };
        let differences = FIGURES.iter().filter_map(difference).collect();
        Self { of: one.label.clone(), with: other.label.clone(), differences }
    }
}

impl Experiment {
    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an experiment has text for keys")
    }

    /// What tells it from every other: a digest of its JSON. The same scenario, seeds and engine give the same.
    pub fn hash(&self) -> String {
        hex(&sha1(self.to_json().as_bytes()).0)
    }

    /// The middle of the runs' values of a plugin, for the form of this place.
    pub fn of_plugin(
        &self,
        variant: usize,
        plugin: &str,
        what: impl Fn(&super::PluginWorth) -> Option<f64>,
    ) -> Option<f64> {
        let reports = &self.variants.get(variant)?.reports;
        let worth = reports.iter().flat_map(|report| report.plugins.iter().find(|worth| worth.plugin == plugin));
        let mut values: Vec<f64> = worth.filter_map(what).collect();
        values.sort_by(f64::total_cmp);
        median(&values)
    }
}
