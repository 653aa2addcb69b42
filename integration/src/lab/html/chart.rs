//! Axes with round ticks, and the frame into which curves are drawn.

use super::write::{fixed, unit};

/// An axis from zero on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    step: f64,
    steps: u32,
}

impl Axis {
    /// Up to the first round number that is not less, in at most five steps.
    pub(super) fn to(most: f64) -> Self {
        if !most.is_finite() || most < 1e-9 {
            return Self { step: 1.0, steps: 1 };
        }
        let mut power = 1.0;
        while power * 10.0 <= most {
            power *= 10.0;
        }
        while power > most {
            power /= 10.0;
        }
        // What is as large as a tick but for rounding must not need another one.
        let need = |step: f64| (most / step - 1e-9).ceil();
        let step = [0.2, 0.5, 1.0, 2.0, 5.0].map(|round| round * power).into_iter().find(|step| need(*step) <= 5.0);
        let step = step.unwrap_or(power * 10.0);
        Self { step, steps: need(step).max(1.0) as u32 }
    }

    /// Its end.
    pub(super) fn end(self) -> f64 {
        self.step * f64::from(self.steps)
    }

    pub(super) fn ticks(self) -> impl Iterator<Item = f64> {
        (0..=self.steps).map(move |at| self.step * f64::from(at))
    }

    /// A tick, with just the decimals that its step has.
    pub(super) fn written(self, tick: f64) -> String {
        let (mut decimals, mut step) = (0, self.step);
        while step < 0.999_999 && decimals < 9 {
            step *= 10.0;
            decimals += 1;
        }
        fixed(tick, decimals)
    }

    /// Its end, where no other tick is beside it.
    pub(super) fn written_end(self) -> String {
        let written = self.written(self.end());
        if written.contains('.') { written.trim_end_matches('0').trim_end_matches('.').to_owned() } else { written }
    }

    /// Where a value lies, in percent.
    pub(super) fn percent(self, value: f64) -> f64 {
        let share = value / self.end();
        if share.is_finite() { (share * 100.0).clamp(0.0, 100.0) } else { 100.0 }
    }
}

/// One curve, as a path in a square of a thousand by a thousand with its origin at the top left.
pub(super) struct Curve {
    pub(super) class: String,
    pub(super) path: String,
    /// What it is, for those who point at it; escaped.
    pub(super) title: String,
}

/// Shares up to 100 % over seconds. `name` is what it shows, escaped.
pub(super) fn frame(name: &str, across: Axis, curves: &[Curve]) -> String {
    let mut svg = format!("<svg class=\"chart\" role=\"img\" aria-label=\"{name}\">\n");
    for share in [0, 25, 50, 75, 100] {
        let (y, class) = (100 - share, if share == 0 { "axis" } else { "grid" });
        svg += &format!(
            "<line class=\"{class}\" x1=\"0\" x2=\"100%\" y1=\"{y}%\" y2=\"{y}%\"/>\
             <text x=\"-8\" y=\"{y}%\" dy=\"0.35em\" text-anchor=\"end\">{share}\u{a0}%</text>\n"
        );
    }
    for tick in across.ticks() {
        let x = across.percent(tick);
        let seconds = if tick >= across.end() { unit("s") } else { String::new() };
        svg += &format!(
            "<line class=\"axis\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"100%\" y2=\"100%\" transform=\"translate(0 5)\"/>\
             <text x=\"{x:.2}%\" y=\"100%\" dy=\"1.7em\" text-anchor=\"middle\">{}{seconds}</text>\n",
            across.written(tick)
        );
    }
    svg += "<svg class=\"stretch\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">\n";
    for Curve { class, path, title } in curves {
        svg += &format!("<path class=\"{class}\" d=\"{path}\"><title>{title}</title></path>\n");
    }
    svg + "</svg>\n</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_most() {
        let written = |most: f64| {
            let axis = Axis::to(most);
            axis.ticks().map(|tick| axis.written(tick)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(written(47.0), "0 10 20 30 40 50");
        assert_eq!(written(1.0), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(written(0.3), "0.0 0.1 0.2 0.3");
        assert_eq!(written(101.0), "0 50 100 150");
        for strange in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(written(strange), "0 1");
        }
        let mut most = 1e-6;
        while most < 1e12 {
            let axis = Axis::to(most);
            assert!(axis.end() >= most * (1.0 - 1e-8) && (1..=5).contains(&axis.steps), "{most}: {axis:?}");
            most *= 1.37;
        }
    }
}
