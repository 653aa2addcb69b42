//! Which share of those who sought had got how far by when.

use super::{
    Look, Section,
    chart::{Axis, Curve, frame},
    is_seed, variant_class,
    write::{NONE, cell, fixed, number, row, table, text},
};
use crate::lab::{
    experiment::Variant,
    report::{PeerReport, Report},
};

/// Steps of a curve; no screen shows more.
const STEPS: f64 = 1000.0;

/// How far a peer may have got.
struct Station {
    name: &'static str,
    /// Larger than the others.
    is_main: bool,
    of: fn(&PeerReport) -> Option<f64>,
}

const STATIONS: &[Station] = &[
    Station { name: "Complete", is_main: true, of: |peer| peer.complete },
    Station { name: "First peer known", is_main: false, of: |peer| peer.first_peer },
    Station { name: "Metadata known", is_main: false, of: |peer| peer.metadata },
];

/// When some of many got somewhere.
struct Times {
    sorted: Vec<f64>,
    /// How many they are of.
    came: usize,
}

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let is_empty = look.variants().all(|(_, variant)| variant.reports.is_empty());
    (!is_empty).then(|| Section {
        id: "completion",
        title: "Completion",
        note: "All peers that began without the torrent, honest or not, counted from the joining of each. Strong lines: all runs together; \
               thin ones: single runs. A line that ends below 100\u{a0}% leaves out those who never got there."
            .to_owned(),
        body: format!(
            "<div class=\"plots\">\n{}</div>\n",
            STATIONS.iter().map(|station| plot(look, station)).collect::<String>()
        ),
    })
}

fn plot(look: &Look<'_>, station: &Station) -> String {
    let pooled: Vec<Times> = look.variants().map(|(_, variant)| Times::of(&variant.reports, station)).collect();
    let most = pooled.iter().filter_map(|times| times.sorted.last()).fold(0.0_f64, |most, last| most.max(*last));
    let axis = Axis::to(most);
    let mut curves = Vec::new();
    for (at, variant) in look.variants() {
        curves.extend(single(variant, at, station, axis));
    }
    for ((at, _), times) in look.variants().zip(&pooled) {
        let title = format!("{}: {} of {}", text(look.label(at)), times.sorted.len(), times.came);
        curves.push(Curve { class: format!("pooled {}", variant_class(at)), path: times.path(axis), title });
    }
    let rows: Vec<String> = look.variants().zip(&pooled).map(|((at, _), times)| legend(look, at, times)).collect();
    let heads = ["", "Got there", "50\u{a0}% by", "90\u{a0}% by"].map(str::to_owned);
    format!(
        "<figure class=\"{}\">\n<figcaption>{}</figcaption>\n{}{}</figure>\n",
        if station.is_main { "plot main" } else { "plot" },
        station.name,
        frame(&format!("Share of peers over time: {}", station.name), axis, &curves),
        table(&heads, &rows),
    )
}

/// The runs one by one, if there are several.
fn single(variant: &Variant, at: usize, station: &Station, axis: Axis) -> Vec<Curve> {
    if variant.reports.len() < 2 {
        return Vec::new();
    }
    let curve = |report: &Report| {
        let times = Times::of(std::slice::from_ref(report), station);
        let title = format!("seed {}: {} of {}", report.seed, times.sorted.len(), times.came);
        Curve { class: format!("thin {}", variant_class(at)), path: times.path(axis), title }
    };
    variant.reports.iter().map(curve).collect()
}

fn legend(look: &Look<'_>, at: usize, times: &Times) -> String {
    let by = |share: f64| times.by(share).map_or_else(|| NONE.to_owned(), |time| format!("{}\u{a0}s", number(time)));
    let count = |count: usize| fixed(count as f64, 0);
    let reached = format!("{} of {}", count(times.sorted.len()), count(times.came));
    row(&look.variant_name(at), &[cell(&reached), cell(&by(0.5)), cell(&by(0.9))])
}

impl Times {
    fn of(reports: &[Report], station: &Station) -> Self {
        let seekers = reports.iter().flat_map(|report| report.peers.iter().filter(|peer| !is_seed(report, peer)));
        let came: Vec<&PeerReport> = seekers.filter(|peer| peer.joined.is_some()).collect();
        let mut sorted: Vec<f64> =
            came.iter().filter_map(|peer| (station.of)(peer)).filter(|time| time.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted, came: came.len() }
    }

    /// When this share of all who came had got there.
    fn by(&self, share: f64) -> Option<f64> {
        let needed = (self.came as f64 * share).ceil() as usize;
        needed.checked_sub(1).and_then(|at| self.sorted.get(at)).copied()
    }

    /// From the lower left on, in steps.
    fn path(&self, axis: Axis) -> String {
        let mut path = "M0 1000".to_owned();
        let mut at = 0;
        while let Some(time) = self.sorted.get(at) {
            let x = (axis.percent(*time) / 100.0 * STEPS).round();
            // All that fall on the same step are drawn as one.
            at +=
                self.sorted[at..].iter().take_while(|time| (axis.percent(**time) / 100.0 * STEPS).round() <= x).count();
            let y = STEPS - at as f64 / self.came.max(1) as f64 * STEPS;
            path += &format!("H{x:.0}V{y:.1}");
        }
        path + "H1000"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_got_there_keeps_the_curve_down() {
        let times = Times { sorted: vec![1.0, 2.0, 2.0], came: 6 };
        assert_eq!(times.path(Axis::to(2.0)), "M0 1000H500V833.3H1000V500.0H1000");
        assert_eq!((times.by(0.5), times.by(0.9)), (Some(2.0), None));
        let nobody = Times { sorted: Vec::new(), came: 0 };
        assert_eq!((nobody.path(Axis::to(0.0)), nobody.by(0.5)), ("M0 1000H1000".to_owned(), None));
    }
}
