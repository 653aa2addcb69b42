//! How connections and dials ended.

use std::collections::BTreeMap;

use super::{
    Look, Section, middle_of, variant_class,
    write::{bar, count, plural, row, table, text},
};

/// Reasons that are listed one by one.
const LISTED: usize = 30;

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let reasons = reasons(look);
    if reasons.is_empty() {
        return None;
    }
    let most = reasons.iter().flat_map(|(_, counts)| counts).fold(0.0_f64, |most, count| most.max(*count));
    let rows: Vec<String> = reasons
        .iter()
        .take(LISTED)
        .map(|(reason, counts)| {
            let bars = counts.iter().enumerate().map(|(at, ended)| bar(Some(*ended), most, &variant_class(at), count));
            row(&text(reason), &bars.collect::<Vec<_>>())
        })
        .collect();
    let is_alone = look.experiment.variants.len() == 1;
    let names = look.variants().map(|(at, _)| if is_alone { "Times".to_owned() } else { look.variant_name(at) });
    let heads: Vec<String> = [String::new()].into_iter().chain(names).collect();
    let rest = reasons.len().saturating_sub(LISTED);
    let rest = if rest == 0 {
        String::new()
    } else {
        format!(" {} not shown.", plural(rest, "rarer reason", "rarer reasons"))
    };
    Some(Section {
        id: "ends",
        title: "How connections ended",
        note: format!(
            "Connections and dials of everybody, in the engine's words, each told at its own end; the median run.{rest}"
        ),
        body: format!("<div class=\"prose\">{}</div>\n", table(&heads, &rows)),
    })
}

/// Reasons with how often in each variant, the most frequent first.
fn reasons<'a>(look: &Look<'a>) -> Vec<(&'a str, Vec<f64>)> {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for reason in look.variants().flat_map(|(_, variant)| &variant.reports).flat_map(|report| report.ends.keys()) {
        all.entry(reason).or_insert_with(|| {
            let ended = |report: &crate::lab::Report| report.ends.get(reason).copied().unwrap_or_default();
            look.variants().map(|(_, variant)| middle_of(variant, ended)).collect()
        });
    }
    let mut all: Vec<(&str, Vec<f64>)> = all.into_iter().collect();
    let size = |counts: &[f64]| counts.iter().copied().fold(0.0, f64::max);
    all.sort_by(|(_, one), (_, other)| size(other).total_cmp(&size(one)));
    all
}
