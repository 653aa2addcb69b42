//! Sizes and times as people write them.

use std::time::Duration;

/// Bytes: a bare number, or with K, M, G or T (powers of 1024), such as `500K`, `2.5M` or `1 MiB/s`.
///
/// # Errors
/// In words, if it is none.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is no size: write bytes, or 500K, 2.5M, 1G", text.escape_debug());
    let lower = text.trim().to_ascii_lowercase();
    let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &lower[..lower.len() - unit.len()];
    let factor = match unit.trim().trim_end_matches("/s").trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_u64 << 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    // Above 2^53 a float no longer counts single bytes; nobody types such a size with a fraction.
    if bytes < 9e15 { Ok(bytes.round() as u64) } else { Err(wrong()) }
}

/// A time span: seconds, or with ms, s, m, h or d, such as `90`, `50ms`, `1h30m`, `2d`.
///
/// # Errors
/// In words, if it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no duration: write seconds, or 90s, 10m, 1h30m, 2d", text.escape_debug());
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let letters = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
        let factor = match &rest[digits..digits + letters] {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        seconds += number * factor;
        rest = rest[digits + letters..].trim_start();
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates() {
        for (text, expected) in [
            ("0", 0),
            ("1500", 1500),
            ("500K", 512_000),
            ("500 KiB/s", 512_000),
            ("2.5M", 2_621_440),
            ("2.5MB", 2_621_440),
            ("1g", 1 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.2.3M", "99999999999999999999", "16777216T", "nan", "é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90.0), ("90s", 90.0), ("1h30m", 5400.0), ("1h 30m", 5400.0), ("0.5", 0.5)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for text in ["", "s", "-1", "1y", "1m-", "99999999999999999999999", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
