//! What each plugin brought and spent, and what it had in common with the others.

use super::{
    Look, Section,
    write::{bar, bytes, cell, count, fixed, number, row, table, text},
};
use crate::lab::report::PluginWorth;

/// Something to know of a plugin.
struct Column {
    name: &'static str,
    /// What that means, for those who point at it.
    means: &'static str,
    of: fn(&PluginWorth) -> Option<f64>,
    write: fn(f64) -> String,
}

const COLUMNS: &[Column] = &[
    column("Found", "peers it named", |worth| Some(worth.found as f64), count),
    column("Alone", "that no other plugin had named", |worth| Some(worth.alone as f64), count),
    column("Connected", "there was a connection", |worth| Some(worth.connected as f64), count),
    column("Useful", "they gave something", |worth| Some(worth.useful as f64), count),
    column("Refused", "could not be reached", |worth| Some(worth.refused as f64), count),
    column("First contacts", "seekers whose first peer it named", |worth| Some(worth.first_contacts as f64), count),
    column("Bytes given", "by the peers it named", |worth| Some(worth.bytes as f64), bytes),
    column("First after", "time to the first peer it named, the median seeker", |worth| worth.first.median, seconds),
    column("Packets", "datagrams and extension messages, sent and received", |worth| Some(worth.packets as f64), count),
    column("Bytes spent", "in them and in its streams", |worth| Some(worth.spent as f64), bytes),
    column("Packets per useful", "packets for each useful peer", per_useful, number),
];

const fn column(
    name: &'static str,
    means: &'static str,
    of: fn(&PluginWorth) -> Option<f64>,
    write: fn(f64) -> String,
) -> Column {
    Column { name, means, of, write }
}

fn seconds(value: f64) -> String {
    format!("{}\u{a0}s", number(value))
}

fn per_useful(worth: &PluginWorth) -> Option<f64> {
    (worth.useful > 0 && worth.packets > 0).then(|| worth.packets as f64 / worth.useful as f64)
}

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let is_empty = look.variants().all(|(_, variant)| Look::plugins_of(variant).is_empty());
    (!is_empty).then(|| Section {
        id: "worth",
        title: "What each plugin was worth",
        note: "To all seekers of a run together; medians over the runs. Bars of a column are comparable, across variants, too. \
               <i>incoming</i> are peers that nobody had named."
            .to_owned(),
        body: look.variants().map(|(at, _)| look.heading(at) + &of_variant(look, at)).collect(),
    })
}

fn of_variant(look: &Look<'_>, at: usize) -> String {
    let Some(variant) = look.experiment.variants.get(at) else { return String::new() };
    let heads = COLUMNS.iter().map(|column| format!("<abbr title=\"{}\">{}</abbr>", column.means, column.name));
    let heads: Vec<String> = [String::new()].into_iter().chain(heads).collect();
    let rows: Vec<String> = Look::plugins_of(variant)
        .into_iter()
        .map(|plugin| {
            let cells: Vec<String> = COLUMNS
                .iter()
                .map(|column| {
                    let value = look.experiment.of_plugin(at, plugin, column.of);
                    bar(value, most(look, column), &look.plugin(plugin), column.write)
                })
                .collect();
            row(&look.plugin_name(plugin), &cells)
        })
        .collect();
    if rows.is_empty() { "<p class=\"none\">No plugin did anything.</p>\n".to_owned() } else { table(&heads, &rows) }
}

/// The greatest value of a column in all variants.
fn most(look: &Look<'_>, column: &Column) -> f64 {
    let values = look.variants().flat_map(|(at, variant)| {
        let plugins = Look::plugins_of(variant).into_iter();
        plugins.filter_map(move |plugin| look.experiment.of_plugin(at, plugin, column.of))
    });
    values.fold(0.0, f64::max)
}

pub(super) fn overlap_section(look: &Look<'_>) -> Option<Section> {
    let bodies: Vec<String> = look.variants().filter_map(|(at, _)| overlap(look, at)).collect();
    (!bodies.is_empty()).then(|| Section {
        id: "overlap",
        title: "Overlap between plugins",
        note: "Of the peers that a plugin named: the dark part no other plugin had named, the pale part others named, too."
            .to_owned(),
        body: bodies.concat(),
    })
}

/// The other plugins that named the same peers, and how many.
fn also_by(look: &Look<'_>, at: usize, plugin: &str) -> String {
    let Some(variant) = look.experiment.variants.get(at) else { return String::new() };
    let shared = |other: &str| {
        look.experiment.of_plugin(at, plugin, |worth| Some(worth.shared.get(other).copied().unwrap_or(0) as f64))
    };
    let others = Look::plugins_of(variant).into_iter().filter_map(|other| Some((other, shared(other)?)));
    let texts =
        others.filter(|(_, shared)| *shared > 0.0).map(|(other, shared)| format!("{} {}", text(other), count(shared)));
    texts.collect::<Vec<_>>().join(", ")
}

/// How much of what each plugin of a variant found others found, too, and which.
fn overlap(look: &Look<'_>, at: usize) -> Option<String> {
    let variant = look.experiment.variants.get(at)?;
    let found = |plugin: &str| look.experiment.of_plugin(at, plugin, |worth| Some(worth.found as f64));
    let alone = |plugin: &str| look.experiment.of_plugin(at, plugin, |worth| Some(worth.alone as f64));
    let plugins = Look::plugins_of(variant).into_iter().filter(|plugin| *plugin != "incoming");
    let of_all: Vec<(&str, f64, f64)> = plugins
        .filter_map(|plugin| Some((plugin, found(plugin).filter(|found| *found > 0.0)?, alone(plugin)?)))
        .collect();
    let most = of_all.iter().fold(0.0_f64, |most, (_, found, _)| most.max(*found));
    let rows: Vec<String> = of_all
        .iter()
        .map(|(plugin, found, alone)| {
            let (solid, all) = (alone / most * 100.0, found / most * 100.0);
            let share = alone / found * 100.0;
            let bars = format!(
                "<td class=\"wide\"><div class=\"stack {}\"><i class=\"shared\" style=\"width:{all:.1}%\"></i>\
                 <i class=\"alone\" style=\"width:{solid:.1}%\"></i></div></td>",
                look.plugin(plugin)
            );
            let written = [count(*found), count(*alone), count((found - alone).max(0.0))];
            let numbers: String = written.iter().map(|written| cell(written)).collect();
            let others = cell(&also_by(look, at, plugin));
            row(&look.plugin_name(plugin), &[bars, numbers, cell(&format!("{}\u{a0}%", fixed(share, 0))), others])
        })
        .collect();
    let heads = ["", "", "Found", "Alone", "Shared", "Alone of found", "Also named by"].map(str::to_owned);
    (!rows.is_empty()).then(|| look.heading(at) + &table(&heads, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_useless_has_no_price() {
        let mut worth = PluginWorth {
            plugin: "dht".into(),
            found: 1,
            alone: 1,
            shared: std::collections::BTreeMap::new(),
            connected: 0,
            handshaken: 0,
            useful: 0,
            refused: 1,
            banned: 0,
            bytes: 0,
            first: crate::lab::Spread::default(),
            packets: 12,
            spent: 900,
            first_contacts: 0,
        };
        assert_eq!(per_useful(&worth), None);
        worth.useful = 5;
        assert_eq!(per_useful(&worth).map(number).as_deref(), Some("2.40"));
    }
}
