//! Medians with their intervals, and whether a difference is more than noise. Nothing is assumed of how values are spread.

use serde::Serialize;

use super::report::median;

/// A difference counts as more than noise if chance alone would give one as large less often than this. Ten figures are looked
/// at in each comparison: a twentieth, as is usual, would call noise a difference in every other one.
pub const NOISE: f64 = 0.01;
/// Pairs up to which every assignment of signs is tried; beyond, so many are drawn.
const EXACT: usize = 14;
const DRAWN: u32 = 20_000;

/// What several runs say of one figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure in each run.
    pub values: Vec<Option<f64>>,
    /// The middle one.
    pub median: Option<f64>,
    /// The median lies in this interval with a confidence of 95 %; from six values on.
    pub interval: Option<(f64, f64)>,
}

/// How two forms of a scenario differ in a figure, compared run by run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The middle of the differences.
    pub median: f64,
    /// It lies in this interval with a confidence of 95 %; from six runs on.
    pub interval: Option<(f64, f64)>,
    /// How often chance alone would give a mean difference at least so large, 0 to 1.
    pub chance: f64,
    /// Is it more than noise?
    pub is_real: bool,
}

impl Estimate {
    pub(super) fn of(values: Vec<Option<f64>>) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().flatten().collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: median(&sorted), interval: interval(&sorted), values }
    }
}

impl Difference {
    /// Of these differences; `None` of none.
    pub(super) fn of(mut differences: Vec<f64>) -> Option<Self> {
        differences.sort_by(f64::total_cmp);
        let chance = chance(&differences);
        Some(Self { median: median(&differences)?, interval: interval(&differences), chance, is_real: chance < NOISE })
    }
}

/// The interval of the median with a confidence of at least 95 %: between two of the sorted values, as the sign test has it.
fn interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    // The chance that at most `k` of `n` values lie below the median.
    let (mut term, mut sum, mut outside) = (0.5_f64.powi(i32::try_from(n).ok()?), 0.0, 0);
    for k in 0..n / 2 {
        sum += term;
        if sum > 0.025 {
            break;
        }
        outside = k + 1;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    (outside > 0).then(|| (sorted[outside - 1], sorted[n - outside]))
}

/// How often differences of random sign would have a mean at least as far from zero.
fn chance(differences: &[f64]) -> f64 {
    let n = differences.len();
    let sum_with = |signs: u64| -> f64 {
        let signed =
            differences.iter().enumerate().map(|(at, value)| if signs >> (at % 64) & 1 == 1 { -value } else { *value });
        signed.sum::<f64>().abs()
    };
    // Rounding must not make the same sum another one.
    let least = sum_with(0) * (1.0 - 1e-9);
    if n <= EXACT {
        let all = 1_u64 << n;
        return (0..all).filter(|signs| sum_with(*signs) >= least).count() as f64 / all as f64;
    }
    let mut random = fastrand::Rng::with_seed(n as u64);
    let as_large = (0..DRAWN).filter(|_| {
        let signed = differences.iter().map(|value| if random.bool() { -value } else { *value });
        signed.sum::<f64>().abs() >= least
    });
    f64::from(as_large.count() as u32 + 1) / f64::from(DRAWN + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_sign_test() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(interval(&values), Some((6.0, 15.0)));
        assert_eq!(interval(&values[..6]), Some((1.0, 6.0)));
        assert_eq!((interval(&values[..5]), interval(&[])), (None, None));
    }

    #[test]
    fn an_interval_holds_the_median_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut holds = 0;
        for _ in 0..2000 {
            let mut drawn: Vec<f64> = (0..15).map(|_| random.f64().powi(3)).collect();
            drawn.sort_by(f64::total_cmp);
            let (low, high) = interval(&drawn).unwrap();
            holds += u32::from((low..=high).contains(&0.125));
        }
        assert!((1900..=2000).contains(&holds), "{holds} of 2000");
    }

    #[test]
    fn noise_is_called_noise_and_a_difference_a_difference() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut noise = |shift: f64, n: usize| (0..n).map(|_| random.f64() - 0.5 + shift).collect::<Vec<_>>();
        let called_real = (0..1000).filter(|_| Difference::of(noise(0.0, 10)).unwrap().is_real).count();
        assert!(called_real < 25, "{called_real} of 1000");
        for n in [8, 10, 30] {
            let real = Difference::of(noise(1.0, n)).unwrap();
            assert!(real.is_real && (0.5..1.5).contains(&real.median), "{real:?}");
        }
        assert!(!Difference::of(vec![1.0; 5]).unwrap().is_real, "five runs cannot tell");
        assert!(!Difference::of(vec![0.0; 20]).unwrap().is_real, "nothing is no difference");
        assert_eq!(Difference::of(Vec::new()), None);
    }
}
