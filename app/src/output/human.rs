//! Words and numbers for people.

use std::{borrow::Cow, fmt::Write as _, io, time::Duration};

use castanet::{Phase, TorrentState, eta};

/// Text that a stranger may have written, safe on a terminal: control characters and marks that turn the direction of
/// writing are shown, not obeyed.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_bad(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// An error and its causes in one line, without the numbers by which systems call them.
pub(crate) fn failure(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => "there is no such file or folder".into(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".into(),
        Some(io::ErrorKind::StorageFull) => "the disk is full".into(),
        Some(io::ErrorKind::ReadOnlyFilesystem) => "the file system is read-only".into(),
        _ => cause.to_string(),
    });
    let mut sentences: Vec<String> = Vec::new();
    for cause in causes {
        // Some errors quote their cause themselves.
        if !sentences.last().is_some_and(|before| before.ends_with(&cause)) {
            sentences.push(cause);
        }
    }
    plain(&sentences.join(": "))
}

/// A reason that the engine or a stranger gave, as part of one line.
pub(crate) fn plain(reason: &str) -> String {
    let mut text = escaped(&reason.replace('\n', " ")).into_owned();
    while let Some(start) = text.find(" (os error ") {
        let end = text[start..].find(')').map_or(text.len(), |end| start + end + 1);
        text.replace_range(start..end, "");
    }
    text
}

/// Bytes in powers of 1024: `512 B`, `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // From 1023.95 on, one decimal would read 1024.0.
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Bytes per second: `1.5 MiB/s`.
pub(crate) fn rate(bytes: u64) -> String {
    format!("{}/s", size(bytes))
}

/// A time span in its two largest units: `2m 10s`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        (..1000, _, _) => format!("{days}d {}h", hours % 24),
        _ => "years".into(),
    }
}

/// `1 peer`, `2 peers`.
pub(crate) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// What a torrent does at the moment, without its name and percentage. `wanted` are the bytes the user wants of it.
pub(crate) fn activity(state: &TorrentState, wanted: u64) -> String {
    match &state.phase {
        Phase::Opening => "opening files".into(),
        Phase::Metadata => {
            let mut text = format!("asking for the torrent, {}", count(state.peers.into(), "peer"));
            if let Some(why) = &state.stalled {
                let _ = write!(text, ", waiting: {}", escaped(why));
            }
            text
        }
        Phase::Checking => {
            format!("checking what is there, {} of {}", state.checked, count(state.to_check.into(), "piece"))
        }
        Phase::Downloading => {
            let mut text = format!("{} of {}", size(wanted - state.left.min(wanted)), size(wanted));
            let _ = write!(text, ", {}", rate(state.down_rate));
            if state.up_rate > 0 {
                let _ = write!(text, " (up {})", rate(state.up_rate));
            }
            let _ = write!(text, ", {}", count(state.peers.into(), "peer"));
            match (&state.stalled, eta(state.left, state.down_rate)) {
                (Some(why), _) => {
                    let _ = write!(text, ", waiting: {}", escaped(why));
                }
                (None, Some(left)) => {
                    let _ = write!(text, ", {} left", span(left));
                }
                (None, None) => {}
            }
            text
        }
        Phase::Seeding => format!(
            "complete, sending {}, {} sent, {}",
            rate(state.up_rate),
            size(state.uploaded),
            count(state.peers.into(), "peer")
        ),
        Phase::Paused => "stopped".into(),
        Phase::Failed(_) => "failed".into(),
    }
}

/// How far a torrent is, 0 to 100: of the check while it is checked, else of what is wanted.
pub(crate) fn percent(state: &TorrentState, wanted: u64) -> u64 {
    let (done, all) = match state.phase {
        Phase::Checking => (state.checked.into(), state.to_check.into()),
        Phase::Opening | Phase::Metadata => (0, 1),
        _ => (wanted - state.left.min(wanted), wanted),
    };
    (u128::from(done) * 100).checked_div(all.into()).unwrap_or(100) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (130, "2m 10s"), (3600, "1h 0m"), (90_000, "1d 1h"), (u64::MAX / 2, "years")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_millis(100)), "1s");
    }

    #[test]
    fn strangers_do_not_command_the_terminal() {
        assert_eq!(escaped("Ünïcode 東京"), "Ünïcode 東京");
        assert_eq!(escaped("a\x1b[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{202e}");
    }

    #[test]
    fn failures_are_one_plain_line() {
        let error = |error: io::Error| failure(&anyhow::Error::new(error).context("cannot open x"));
        assert_eq!(error(io::ErrorKind::NotFound.into()), "cannot open x: there is no such file or folder");
        let text = error(io::Error::from_raw_os_error(98));
        assert!(text.starts_with("cannot open x: ") && !text.contains("os error"), "{text}");
        assert_eq!(failure(&anyhow::Error::msg("a (os error 5) b\nc (os error 7")), "a b c");
        let quoted = anyhow::Error::msg("bad byte").context("no torrent: bad byte").context("x");
        assert_eq!(failure(&quoted), "x: no torrent: bad byte");
    }

    #[test]
    fn percentages_are_of_what_is_wanted() {
        let state = TorrentState { phase: Phase::Downloading, length: 1000, left: 50, ..TorrentState::default() };
        assert_eq!(percent(&state, 100), 50);
        assert_eq!(percent(&TorrentState { left: 0, ..state.clone() }, 100), 100);
        assert!(activity(&state, 100).starts_with("50 B of 100 B"));
    }
}
