//! How texts and numbers are written into the page.

/// What stands where there is no number.
pub(super) const NONE: &str = "–";

/// Text as it may stand in the page, within quotes, too.
pub(super) fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(' '),
            letter if letter.is_control() => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// A dot of the colour that this class gives.
pub(super) fn swatch(class: &str) -> String {
    format!("<i class=\"swatch {class}\"></i>")
}

/// To three digits, or more if they are whole.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size.fract() == 0.0 || size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ if size >= 0.0095 => 3,
        _ => 4,
    };
    fixed(value, decimals)
}

/// Something counted, which in the middle of two runs may end in a half.
pub(super) fn count(value: f64) -> String {
    fixed(value, usize::from(value.fract() != 0.0 && value.abs() < 1000.0))
}

/// With so many decimals, and thousands apart.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let digits = format!("{:.decimals$}", value.abs());
    let (whole, rest) = digits.split_once('.').map_or((digits.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let is_zero = !digits.contains(|digit: char| ('1'..='9').contains(&digit));
    let mut written = String::from(if value < 0.0 && !is_zero { "\u{2212}" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        // Four digits are read without help.
        if at > 0 && whole.len() > 4 && (whole.len() - at).is_multiple_of(3) {
            written.push('\u{202f}');
        }
        written.push(digit);
    }
    written + &rest.map(|rest| format!(".{rest}")).unwrap_or_default()
}

/// With its sign, be it plus.
pub(super) fn signed(value: f64) -> String {
    let written = number(value);
    if value > 0.0 && value.is_finite() { format!("+{written}") } else { written }
}

/// Behind its number.
pub(super) fn unit(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!("\u{a0}{unit}") }
}

/// In the unit that suits its size.
pub(super) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut at) = (value, 0);
    while size.abs() >= 1024.0 && at + 1 < units.len() {
        size /= 1024.0;
        at += 1;
    }
    let written = if at == 0 { fixed(size, 0) } else { number(size) };
    format!("{written}\u{a0}{}", units[at])
}

pub(super) fn or_none(value: Option<f64>, write: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), write)
}

/// "a, b and c".
pub(super) fn list(items: &[String]) -> String {
    match items.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// So many of something.
pub(super) fn plural(count: usize, one: &str, more: &str) -> String {
    format!("{}\u{a0}{}", fixed(count as f64, 0), if count == 1 { one } else { more })
}

/// A table that scrolls by itself if it is too wide. Heads and rows are HTML.
pub(super) fn table(heads: &[String], rows: &[String]) -> String {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        rows.concat()
    )
}

/// A row with a heading; its cells are whole.
pub(super) fn row(head: &str, cells: &[String]) -> String {
    format!("<tr><th scope=\"row\">{head}</th>{}</tr>\n", cells.concat())
}

/// A number's cell.
pub(super) fn cell(written: &str) -> String {
    format!("<td class=\"n\">{written}</td>")
}

/// A number's cell with a bar below, as long as its share of the most.
pub(super) fn bar(value: Option<f64>, most: f64, class: &str, write: impl Fn(f64) -> String) -> String {
    let share =
        value.map(|value| value / most).filter(|share| share.is_finite()).map_or(0.0, |share| share.clamp(0.0, 1.0));
    format!("<td class=\"n bar {class}\" style=\"--w:{share:.3}\">{}</td>", or_none(value, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let all = [0.0, -0.0, 12.0, 12.345, 99.97, 0.1234, 5.0 / 3.0, 1234.5, 1_234_567.0, -0.000_01, -2.5];
        let written = all.map(number);
        assert_eq!(written[..6], ["0", "0", "12", "12.3", "100", "0.123"]);
        assert_eq!(written[6..], ["1.67", "1234", "1\u{202f}234\u{202f}567", "0.0000", "\u{2212}2.50"]);
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(signed), [NONE; 3]);
        assert_eq!((count(3.5), count(3.0), signed(3.0)), ("3.5".into(), "3".into(), "+3".into()));
        assert_eq!((bytes(1023.0), bytes(1536.0)), ("1023\u{a0}B".into(), "1.50\u{a0}KiB".into()));
    }

    #[test]
    fn lists_read_as_one_says_them() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!((list(&items), list(&items[..1]), list(&[])), ("a, b and c".into(), "a".into(), String::new()));
    }
}
