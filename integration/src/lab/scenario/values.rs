//! Values in a scenario: times, rates and sizes as people write them, and who is meant.

use std::{fmt, ops::Range, time::Duration};

use castanet_core::units;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// Reads a number or a text; the first is what it takes, in words.
struct Words<T>(&'static str, fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Words<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.1(text).map_err(E::custom)
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// A time: `90`, `"50ms"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Words("a time such as \"90s\" or \"1h30m\"", units::duration)).map(Self)
    }
}

/// Bytes, or bytes a second: `1000`, `"64 KiB"`, `"1.5M"`, `"1 MiB/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Words("a size such as \"64 KiB\"", units::bytes)).map(Self)
    }
}

/// A plugin's setting: a text, or a number, `true` or `false`, which become text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Setting).map(Self)
    }
}

struct Setting;

impl Visitor<'_> for Setting {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
    fn visit_bool<E: Error>(self, yes: bool) -> Result<String, E> {
        Ok(yes.to_string())
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        // As it was written: 1.0 stays 1.0.
        Ok(format!("{number:?}"))
    }
}

/// A time, or any within a range, one for each peer: `"30s"`, `"10s..2m"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When(Range<Duration>);

impl When {
    /// The beginning.
    pub const START: Self = Self(Duration::ZERO..Duration::ZERO);

    /// The earliest that it may be.
    pub fn earliest(&self) -> Duration {
        self.0.start
    }

    /// The latest that it may be.
    pub fn latest(&self) -> Duration {
        self.0.end
    }

    /// One of these times.
    pub(in crate::lab) fn draw(&self, random: &mut fastrand::Rng) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.u64(nanos(self.0.start)..=nanos(self.0.end)))
    }

    fn read(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let (from, to) = (units::duration(from)?, units::duration(to)?);
        if from > to { Err(format!("`{text}` ends before it begins")) } else { Ok(Self(from..to)) }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Words("a time such as \"30s\", or a range such as \"10s..2m\"", Self::read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_a_range() {
        let seconds = Duration::from_secs;
        assert_eq!(When::read("30s"), Ok(When(seconds(30)..seconds(30))));
        assert_eq!(When::read("10s..2m"), Ok(When(seconds(10)..seconds(120))));
        for wrong in ["", "..", "2m..1m", "1s..", "x"] {
            assert!(When::read(wrong).is_err(), "{wrong}");
        }
        let mut random = fastrand::Rng::with_seed(1);
        let drawn: Vec<_> = (0..100).map(|_| When(seconds(10)..seconds(20)).draw(&mut random)).collect();
        assert!(drawn.iter().all(|time| (seconds(10)..=seconds(20)).contains(time)));
        assert!(drawn.iter().max() > Some(&seconds(19)) && drawn.iter().min() < Some(&seconds(11)));
        assert_eq!(When::START.draw(&mut random), Duration::ZERO);
    }
}
