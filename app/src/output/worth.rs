//! What each discovery plugin was worth, as a table for people.

use castanet::PluginReport;

use super::human;

/// A title and a line for each plugin that found someone or spent something; nothing if none did.
pub(crate) fn table(plugins: &[PluginReport]) -> Vec<String> {
    let is_telling = |report: &&PluginReport| report.worth.found + report.worth.connected > 0 || spent(report) > 0;
    let mut rows: Vec<[String; 8]> = plugins.iter().filter(is_telling).map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let title = ["peers by", "found", "alone", "connected", "useful", "gave", "first after", "spent"];
    rows.insert(0, title.map(str::to_owned));
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  "))
    };
    rows.iter().map(line).collect()
}

fn spent(report: &PluginReport) -> u64 {
    report.cost.sent_bytes + report.cost.received_bytes
}

fn row(report: &PluginReport) -> [String; 8] {
    let (worth, cost) = (&report.worth, &report.cost);
    let (packets, messages) = (cost.sent_packets + cost.received_packets, cost.sent_messages + cost.received_messages);
    let counts = [(packets, "packet"), (messages, "message")].into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, what)| human::count(count, what)).collect();
    let spending = match spent(report) {
        0 if counts.is_empty() => "nothing".into(),
        bytes if counts.is_empty() => human::size(bytes),
        bytes => format!("{} in {}", human::size(bytes), counts.join(" and ")),
    };
    [
        worth.plugin.to_string(),
        worth.found.to_string(),
        worth.alone.to_string(),
        worth.connected.to_string(),
        worth.useful.to_string(),
        human::size(worth.bytes),
        report.first_after.map_or_else(|| "-".into(), |after| format!("{:.2} s", after.as_secs_f64())),
        spending,
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use castanet::{Cost, Worth};

    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_the_idle_are_left_out() {
        let report = |name: &str, found: u64, sent_packets: u64| PluginReport {
            worth: Worth { found, ..Worth::nothing(name.into()) },
            first_after: (found > 0).then_some(Duration::from_millis(1234)),
            cost: Cost { sent_packets, sent_bytes: sent_packets * 100, ..Cost::default() },
            condition: None,
            swarm: None,
        };
        assert!(table(&[report("idle", 0, 0)]).is_empty());
        let mut pex = report("pex", 3, 0);
        pex.cost = Cost { received_messages: 1, received_bytes: 20, ..Cost::default() };
        let lines = table(&[report("dht", 12, 30), report("idle", 0, 0), pex, report("lsd", 0, 2)]);
        assert_eq!(
            lines,
            [
                "  peers by  found  alone  connected  useful  gave  first after                  spent",
                "  dht          12      0          0       0   0 B       1.23 s  2.9 KiB in 30 packets",
                "  pex           3      0          0       0   0 B       1.23 s      20 B in 1 message",
                "  lsd           0      0          0       0   0 B            -     200 B in 2 packets",
            ]
            .map(|line| line.to_owned())
        );
    }
}
