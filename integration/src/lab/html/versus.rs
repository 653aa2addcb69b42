//! Every variant beside the first, figure by figure.

use super::{
    Look, Section,
    chart::Axis,
    head::{between, difference_unit, estimate},
    variant_class,
    write::{NONE, fixed, number, row, signed, table},
};
use crate::lab::{
    experiment::{Comparison, FIGURES, Figure, Variant},
    statistics::{Difference, NOISE},
};

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let (first, others) = look.experiment.variants.split_first()?;
    let pairs: Vec<(&Comparison, &Variant)> = look.experiment.comparisons.iter().zip(others).collect();
    if pairs.is_empty() {
        return None;
    }
    let body = pairs.iter().zip(1..).map(|((comparison, other), at)| compared(look, comparison, other, first, at));
    Some(Section {
        id: "versus",
        title: if pairs.len() == 1 { "A against B" } else { "Each against the first" },
        note: format!(
            "Medians over the runs, with 95\u{a0}% intervals from six runs on. The same seeds are compared pair by pair: small \
             ticks are single runs, the dot is the middle of their differences and the line its interval. Full dots are more \
             than noise – chance alone would give such a difference less often than once in {} times.",
            number(1.0 / NOISE)
        ),
        body: body.collect(),
    })
}

fn compared(look: &Look<'_>, comparison: &Comparison, other: &Variant, first: &Variant, at: usize) -> String {
    let heads = [
        String::new(),
        look.variant_name(0),
        look.variant_name(at),
        format!("<span class=\"ends\"><span>{}</span><span>{}</span></span>", "lower", "higher"),
        "Difference".to_owned(),
        "By chance".to_owned(),
    ];
    let rows: Vec<String> = FIGURES
        .iter()
        .map(|figure| {
            let cells = [
                format!("<td class=\"n\">{}</td>", estimate(first, figure)),
                format!("<td class=\"n\">{}</td>", estimate(other, figure)),
            ];
            let rest = comparison.differences.get(figure.name).map_or_else(missing, |difference| {
                let singles = singles(figure, other, first);
                difference_cells(figure, difference, &singles, &variant_class(at))
            });
            row(figure.name, &[cells.concat(), rest])
        })
        .collect();
    table(&heads, &rows)
}

fn missing() -> String {
    format!("<td class=\"none\">not in every run</td><td class=\"n\">{NONE}</td><td class=\"n\">{NONE}</td>")
}

/// The difference of each run.
fn singles(figure: &Figure, other: &Variant, first: &Variant) -> Vec<f64> {
    let (Some(of), Some(with)) = (other.figures.get(figure.name), first.figures.get(figure.name)) else {
        return Vec::new();
    };
    of.values.iter().zip(&with.values).filter_map(|(of, with)| Some((*of)? - (*with)?)).collect()
}

fn difference_cells(figure: &Figure, difference: &Difference, singles: &[f64], class: &str) -> String {
    let unit = difference_unit(figure);
    let interval = difference.interval.map(|(low, high)| between(low, high)).unwrap_or_default();
    let size = signed(difference.median);
    let shown = if difference.is_real { format!("<b>{size}{unit}</b>") } else { format!("{size}{unit}") };
    let chance = percent(difference.chance);
    let verdict = if difference.is_real { "more than noise" } else { "noise" };
    format!(
        "<td>{}</td><td class=\"n\">{shown}<small>{interval}</small></td>\
         <td class=\"n\">{chance}\u{a0}%<small>{verdict}</small></td>",
        whiskers(difference, singles, class, &unit)
    )
}

/// A chance, of which what is small matters most.
fn percent(chance: f64) -> String {
    let percent = chance * 100.0;
    if percent < 0.05 { "&lt;\u{a0}0.1".to_owned() } else { fixed(percent, usize::from(percent < 9.95)) }
}

/// A dot with whiskers around zero. Every figure has a scale of its own, which is written at its ends.
fn whiskers(difference: &Difference, singles: &[f64], class: &str, unit: &str) -> String {
    let interval = difference.interval.map(|(low, high)| [low, high]);
    let all = singles.iter().chain(interval.iter().flatten()).chain([&difference.median]);
    let most = all.fold(0.0_f64, |most, value| most.max(value.abs()));
    let axis = Axis::to(most);
    let x = |value: f64| 50.0 + axis.percent(value.abs()).copysign(value) / 2.0;
    let mut svg = format!(
        "<svg class=\"whiskers {class}\" role=\"img\" aria-label=\"{}{unit}\">\n\
         <line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"14\" y2=\"14\"/><line class=\"axis\" x1=\"50%\" x2=\"50%\" y1=\"2\" y2=\"26\"/>\n",
        signed(difference.median)
    );
    for single in singles {
        let x = x(*single);
        svg += &format!("<line class=\"single\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"9\" y2=\"19\"/>");
    }
    if let Some([low, high]) = interval {
        svg += &format!("<line class=\"whisker\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"14\" y2=\"14\"/>", x(low), x(high));
    }
    let dot = if difference.is_real { "real" } else { "noise" };
    svg += &format!("<circle class=\"{dot}\" cx=\"{:.2}%\" cy=\"14\" r=\"5\"/>\n", x(difference.median));
    if most > 0.0 {
        let end = axis.written_end();
        svg += &format!(
            "<text x=\"0\" y=\"37\">\u{2212}{end}</text><text x=\"50%\" y=\"37\" text-anchor=\"middle\">0</text>\
             <text x=\"100%\" y=\"37\" text-anchor=\"end\">+{end}</text>\n"
        );
    }
    svg + "</svg>"
}
